"""Files that hold several projections in one tensor, or under names of their own: taken apart, and put together again.

A part of a tensor is an index of its rows, so that both ways are one rule: part = whole[rows], whole[rows] = part.
Rows also come in the order in which our RoPE turns a head. Where only the first R of its H dims turn, dims that turn
together stand H / 2 apart, as in a head that turns whole. Queries and keys have one order, and so the same products.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from codescaler.checkpoint.tensor_files import TensorSource
from codescaler.errors import ShapeMismatch
from codescaler.types import Layout, ModelConfig

Rows = Mapping[str, torch.Tensor]  # canonical name in a layer -> rows of the whole

_LAYER = re.compile(r"(.*layers\.\d+\.)(.+)\.(weight|bias)")
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_INTERNLM2_NAMES = {
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
}


@dataclass(frozen=True)
class RowsOf:
    """Rows of another tensor, gathered each time they are read."""

    whole: TensorSource
    rows: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.whole.shape[1:])

    @property
    def dtype(self) -> str:
        return self.whole.dtype

    @property
    def origin(self) -> str:
        return self.whole.origin

    def read(self) -> torch.Tensor:
        return self.whole.read()[self.rows]


def _list_phi3_parts(config: ModelConfig) -> dict[str, Rows]:
    """Q, k and v one below the other; gate and up likewise."""
    H, F = config.head_dim, config.intermediate_size
    q, k, v = torch.arange((config.num_heads + 2 * config.num_kv_heads) * H).split(
        [config.num_heads * H, config.num_kv_heads * H, config.num_kv_heads * H]
    )
    order = _order_dims(config)
    parts = (q.view(-1, H)[:, order].flatten(), k.view(-1, H)[:, order].flatten(), v)
    gate, up = torch.arange(2 * F).split(F)
    return {
        "self_attn.qkv_proj": dict(zip(_QKV, parts, strict=True)),
        "mlp.gate_up_proj": {"mlp.gate_proj": gate, "mlp.up_proj": up},
    }


def _order_dims(config: ModelConfig) -> torch.Tensor:
    """The dims of a head, those that turn together half a head apart, the others behind each half."""
    dims = torch.arange(config.head_dim)
    turning = config.rope.rotary_dims or config.head_dim
    first, second, rest = dims.split([turning // 2, turning // 2, config.head_dim - turning])
    return torch.cat([first, rest[: len(rest) // 2], second, rest[len(rest) // 2 :]])


def _list_internlm2_parts(config: ModelConfig) -> dict[str, Rows]:
    """For each kv head its query heads, then its key, then its value."""
    group = config.num_heads // config.num_kv_heads
    heads = torch.arange((config.num_heads + 2 * config.num_kv_heads) * config.head_dim)
    by_kv_head = heads.view(config.num_kv_heads, group + 2, config.head_dim)
    parts = (by_kv_head[:, :group], by_kv_head[:, group], by_kv_head[:, group + 1])
    wholes: dict[str, Rows] = {"attention.wqkv": dict(zip(_QKV, (part.flatten() for part in parts), strict=True))}
    every = torch.arange(0)  # an empty index stands for all rows
    return wholes | {stored: {role: every} for stored, role in _INTERNLM2_NAMES.items()}


_PARTS: dict[Layout, Callable[[ModelConfig], dict[str, Rows]]] = {
    "phi3": _list_phi3_parts,
    "internlm2": _list_internlm2_parts,
}
# The fused tensors of a layer, and their rows by config.json: compared with the file before an index is made.
_NUM_ROWS: dict[str, Callable[[ModelConfig], int]] = {
    "self_attn.qkv_proj": lambda config: (config.num_heads + 2 * config.num_kv_heads) * config.head_dim,
    "attention.wqkv": lambda config: (config.num_heads + 2 * config.num_kv_heads) * config.head_dim,
    "mlp.gate_up_proj": lambda config: 2 * config.intermediate_size,
}


def split_projections(stored: Mapping[str, TensorSource], config: ModelConfig) -> dict[str, TensorSource]:
    """Returns the tensors of a file with each projection by itself, under Llama's names.

    Raises: ShapeMismatch if a fused tensor has not the rows of its parts.
    """
    if config.layout is None:
        return dict(stored)
    named = {name: (match, source) for name, source in stored.items() if (match := _LAYER.fullmatch(name))}
    for match, source in named.values():
        num_rows = _NUM_ROWS[match[2]](config) if match[2] in _NUM_ROWS else None
        if num_rows is not None and source.shape[:1] != (num_rows,):
            raise ShapeMismatch(
                f"{source.origin} has shape {source.shape}, config.json asks for {num_rows} rows; "
                "fix whichever is wrong."
            )
    is_fused = any(match[2] in _NUM_ROWS for match, _ in named.values())
    wholes = _PARTS[config.layout](config) if is_fused else {}
    result: dict[str, TensorSource] = {}
    for name, source in stored.items():
        match = named[name][0] if name in named else None
        if match is None or match[2] not in wholes:
            result[name.replace("tok_embeddings.", "embed_tokens.") if config.layout == "internlm2" else name] = source
            continue
        for role, rows in wholes[match[2]].items():
            result[f"{match[1]}{role}.{match[3]}"] = RowsOf(source, rows) if len(rows) else source
    return result


def join_projections(tensors: Mapping[str, torch.Tensor], config: ModelConfig) -> dict[str, torch.Tensor]:
    """Returns a model's tensors as transformers stores them: the inverse of `split_projections` for a family it knows.

    InternLM2 is no class of transformers, and its layers are Llama's: it stays as Llama.
    """
    if config.layout != "phi3":
        return dict(tensors)
    result = dict(tensors)
    for index in range(config.num_layers):
        for whole, parts in _PARTS["phi3"](config).items():
            names = {f"layers.{index}.{role}.weight": rows for role, rows in parts.items()}
            first = tensors.get(next(iter(names)))
            if first is None:  # a layer that was left out
                continue
            fused = first.new_empty(sum(map(len, names.values())), first.shape[1])
            for name, rows in names.items():
                fused[rows] = result.pop(name).to(fused.dtype)
            result[f"layers.{index}.{whole}.weight"] = fused
    return result
