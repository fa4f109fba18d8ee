"""The families of models: how each one reads `config.json`, and the defaults of its transformers class (5.23).

A family is a row of `FAMILIES`, by model_type. `config.py` reads what all families have in common.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from codescaler.checkpoint.rope import count_rotary_dims, read_layer_ropes
from codescaler.errors import UnsupportedModel
from codescaler.io.json import Fields
from codescaler.types import ExpertsConfig, ModelConfig

MAX_LAYERS = 10_000
_MAX_EXPERTS = 100_000  # of all layers; Qwen3-235B-A22B has 12,032
_DEFAULT_WINDOW = 4096


def _list_full_attention(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    return (None,) * num_layers


def _list_qwen_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Layers from `max_window_layers` on slide, but only if `use_sliding_window` says so."""
    window = _read_sliding_window(fields) if fields.read_flag("use_sliding_window") else None
    first = num_layers if window is None else fields.read_size("max_window_layers", 28, low=0)
    return _list_layer_windows(fields, window, [i >= first for i in range(num_layers)])


def _list_qwen3_moe_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """All layers slide, but only if `use_sliding_window` says so."""
    return (_read_sliding_window(fields) if fields.read_flag("use_sliding_window") else None,) * num_layers


def _list_gemma2_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Even layers slide."""
    return _list_layer_windows(fields, _read_sliding_window(fields), [i % 2 == 0 for i in range(num_layers)])


def _read_sliding_window(fields: Fields) -> int | None:
    return None if fields.is_null("sliding_window") else fields.read_size("sliding_window", _DEFAULT_WINDOW)


def _list_layer_windows(fields: Fields, window: int | None, slides: Sequence[bool]) -> tuple[int | None, ...]:
    """Windows per layer: `layer_types` where the file has it, else the family's own rule `slides`."""
    kinds = fields.values.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, Sequence) or isinstance(kinds, str) or len(kinds) != len(slides):
            raise fields.make_error("layer_types", f"list one kind for each of the {len(slides)} layers")
        unknown = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
        if unknown:
            raise UnsupportedModel(
                f"{fields.where}: layer_types holds {unknown[0]!r}; only full_attention and "
                "sliding_attention are computed. Score this checkpoint with transformers."
            )
        slides = [kind == "sliding_attention" for kind in kinds]
    if any(slides) and window is None:
        raise fields.make_error("sliding_window", "set it (and use_sliding_window), for some layers slide")
    return tuple(window if slide else None for slide in slides)


def _list_mistral_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Every layer slides, if there is a window."""
    window = _read_sliding_window(fields)
    return (window,) * num_layers


def _list_phi3_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """Every layer slides, if the file sets a window."""
    return (None if fields.values.get("sliding_window") is None else fields.read_size("sliding_window"),) * num_layers


def _list_gemma3_windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    """All but every sixth layer slide, or all but every `sliding_window_pattern`-th."""
    pattern = fields.read_size("sliding_window_pattern", 6)
    slides = [bool((i + 1) % pattern) for i in range(num_layers)]
    return _list_layer_windows(fields, _read_sliding_window(fields), slides)


def read_logit_softcap(fields: Fields, family: str) -> float | None:
    """Returns what bounds the logits of the output layer; null and no entry mean nothing, but 30 in Gemma2."""
    if fields.is_null("final_logit_softcapping") or (
        family != "gemma2" and fields.values.get("final_logit_softcapping") is None
    ):
        return None
    return fields.read_number("final_logit_softcapping", 30.0)


def _read_gemma2_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    """What Gemma has; the embedding scale is exact here, the decoder rounds it to the weight dtype."""
    has_softcap = not fields.is_null("attn_logit_softcapping")
    return {
        "attention_scale": fields.read_number("query_pre_attn_scalar", 256) ** -0.5,
        "attention_softcap": fields.read_number("attn_logit_softcapping", 50.0) if has_softcap else None,
        "logit_softcap": read_logit_softcap(fields, config.family),
        "embedding_scale": math.sqrt(config.hidden_size),
        "norm_weight_offset": 1.0,
        "has_post_norms": True,
    }


def _read_gemma3_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    """Gemma2's but for the soft-cap, which transformers leaves out; and a RoPE for each kind of layer."""
    rope, local_rope = read_layer_ropes(fields, config.max_positions, 1e6, 1e4)
    return _read_gemma2_extras(fields, config) | {"attention_softcap": None, "rope": rope, "local_rope": local_rope}


def _read_phi3_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    """Fused projections, a head of which only a part may turn, and no more positions than its RoPE is one for."""
    dims, rope = count_rotary_dims(fields, config.head_dim), config.rope
    rope = replace(rope, rotary_dims=dims if dims < config.head_dim else None)
    positions = rope.original_max_positions if rope.kind == "longrope" else config.max_positions
    return {"layout": "phi3", "rope": rope, "max_positions": min(positions, config.max_positions)}


def _read_internlm2_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    """Llama, but for names and a fused projection; `bias` is its own name of `attention_bias`."""
    has_bias = fields.read_flag("bias")
    return {"family": "llama", "layout": "internlm2", "has_qkv_bias": has_bias, "has_o_bias": has_bias}


def _read_qwen3_moe_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    """Layers have experts by `decoder_sparse_step`, but those of `mlp_only_layers`."""
    if fields.values.get("quantization_config") is not None:
        raise UnsupportedModel(
            f"{fields.where}: quantised experts are not computed. Give the model as it was before it was quantised."
        )
    num_layers = fields.read_size("num_hidden_layers", high=MAX_LAYERS)
    # transformers 5 writes the other name, and reads both.
    key = "num_experts" if fields.values.get("num_local_experts") is None else "num_local_experts"
    num_experts = fields.read_size(key, 128, low=0)
    num_chosen, step = fields.read_size("num_experts_per_tok", 8), fields.read_size("decoder_sparse_step", 1)
    dense = fields.values.get("mlp_only_layers") or []
    if not isinstance(dense, Sequence) or isinstance(dense, str) or not all(type(layer) is int for layer in dense):
        raise fields.make_error("mlp_only_layers", "list indices of layers")
    layers = frozenset(i for i in range(num_layers) if (i + 1) % step == 0).difference(dense)
    if not num_experts or not layers:
        return {}
    if num_experts * num_layers > _MAX_EXPERTS:
        raise fields.make_error(key, f"set it to at most {_MAX_EXPERTS} experts in all layers")
    if num_chosen > num_experts:
        raise fields.make_error("num_experts_per_tok", f"set it to at most the {num_experts} experts of a layer")
    width = fields.read_size("moe_intermediate_size", 768)
    return {"experts": ExpertsConfig(num_experts, num_chosen, width, fields.read_flag("norm_topk_prob"), layers)}


def _read_no_extras(fields: Fields, config: ModelConfig) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """How one family differs, and the defaults its transformers class fills in.

    `class_names` are what its classes begin with, before For or Model; the first is what is written.
    `head_dim` None means hidden_size / num_attention_heads; `num_kv_heads` None means one per query head.
    `has_fixed_bias` is Qwen2's way: q, k and v always have a bias, o never, whatever `attention_bias` says.
    `has_layer_ropes`: the extras read its RoPE. `extras` are read last, and replace what the keys of all families say.
    """

    class_names: tuple[str, ...]
    max_positions: int
    layer_windows: Callable[[Fields, int], tuple[int | None, ...]]
    vocab_size: int | None = None
    num_heads: int | None = None
    head_dim: int | None = None
    num_kv_heads: int | None = None
    activation_key: str = "hidden_act"
    activation: str = "silu"
    pad_token_id: int | None = None
    norm_eps: float = 1e-6
    has_qk_norm: bool = False
    has_fixed_bias: bool = False
    reads_mlp_bias: bool = False
    reads_attention_bias: bool = True
    has_layer_ropes: bool = False
    has_partial_rotary: bool = False
    is_tied: bool = False
    extras: Callable[[Fields, ModelConfig], dict[str, Any]] = _read_no_extras


_GEMMA: dict[str, Any] = {
    "head_dim": 256,
    "num_kv_heads": 4,
    "activation_key": "hidden_activation",
    "activation": "gelu_pytorch_tanh",
    "pad_token_id": 0,
    "is_tied": True,
}
# By model_type.
FAMILIES = {
    "qwen3": Family(("Qwen3",), 32768, _list_qwen_windows, head_dim=128, num_kv_heads=32, has_qk_norm=True),
    "qwen3_moe": Family(
        ("Qwen3Moe",),
        32768,
        _list_qwen3_moe_windows,
        num_kv_heads=4,
        has_qk_norm=True,
        extras=_read_qwen3_moe_extras,
    ),
    "qwen2": Family(("Qwen2",), 32768, _list_qwen_windows, num_kv_heads=32, has_fixed_bias=True),
    "llama": Family(("Llama",), 2048, _list_full_attention, reads_mlp_bias=True),
    "mistral": Family(("Mistral",), 131072, _list_mistral_windows, num_kv_heads=8, reads_attention_bias=False),
    "phi3": Family(
        ("Phi3",),
        4096,
        _list_phi3_windows,
        pad_token_id=32000,
        norm_eps=1e-5,
        reads_attention_bias=False,
        has_partial_rotary=True,
        extras=_read_phi3_extras,
    ),
    "internlm2": Family(("InternLM2",), 2048, _list_full_attention, extras=_read_internlm2_extras),
    "gemma2": Family(("Gemma2",), 8192, _list_gemma2_windows, extras=_read_gemma2_extras, **_GEMMA),
    "gemma3_text": Family(
        ("Gemma3Text", "Gemma3"),
        131072,
        _list_gemma3_windows,
        vocab_size=262_208,
        num_heads=8,
        has_qk_norm=True,
        has_layer_ropes=True,
        extras=_read_gemma3_extras,
        **_GEMMA,
    ),
}
