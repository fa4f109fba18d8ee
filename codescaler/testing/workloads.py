"""What benches measure on: named batches and random models, the same on every machine."""

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codescaler.ops.plan import TreeBatch, plan

_DRAWN_VOCABULARY = 150_000  # below Qwen3's special tokens, so that no padding is drawn
_WEIGHT_STD = 0.02
_WRITE_BLOCK = 1 << 22  # values drawn and written at a time: 16 MB of float32


@dataclass(frozen=True)
class Workload:
    """A batch of token lists of fixed lengths: candidates behind one prompt (none if its length is 0)."""

    prompt_length: int
    candidate_lengths: tuple[int, ...]

    def draw_sequences(self, seed: int = 0) -> list[list[int]]:
        """Draws the token ids, for a seed always the same: the prompt first, then each candidate."""
        draw = random.Random(seed).randrange
        prompt = [draw(_DRAWN_VOCABULARY) for _ in range(self.prompt_length)]
        return [prompt + [draw(_DRAWN_VOCABULARY) for _ in range(length)] for length in self.candidate_lengths]

    @property
    def num_padded_tokens(self) -> int:
        """Tokens of one batch padded to its longest sequence."""
        return len(self.candidate_lengths) * (self.prompt_length + max(self.candidate_lengths))

    @property
    def num_real_tokens(self) -> int:
        """Tokens of all sequences, the prompt counted in each."""
        return len(self.candidate_lengths) * self.prompt_length + sum(self.candidate_lengths)

    @property
    def num_distinct_tokens(self) -> int:
        """Tokens that a forward has to compute: the prompt counted once."""
        return self.prompt_length + sum(self.candidate_lengths)


WORKLOADS = {
    "bon8": Workload(512, (246, 274, 383, 257, 548, 125, 309, 148)),
    "bon16": Workload(600, (244, 267, 244, 180, 258, 393, 612, 153, 344, 220, 124, 244, 253, 480, 235, 226)),
    "pairs": Workload(0, (289, 473, 222, 945, 632, 406, 808, 654, 534, 387, 445, 426, 403, 563, 354, 404)),
    "single": Workload(0, (400,)),
}


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Qwen3 reward model; `dataclasses.replace(shape, num_layers=4)` is a shallower one.

    With experts it is a Qwen3-MoE, and `intermediate_size` is the width of one expert.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int = 28
    num_heads: int = 16
    num_kv_heads: int = 8
    head_dim: int = 128
    vocab_size: int = 151_936
    num_experts: int = 0
    num_chosen: int = 1  # experts that a token goes through


QWEN3_0_6B = ModelShape(hidden_size=1024, intermediate_size=3072)
QWEN3_1_7B = ModelShape(hidden_size=2048, intermediate_size=6144)
QWEN3_8B = ModelShape(hidden_size=4096, intermediate_size=12_288, num_layers=36, num_heads=32, num_kv_heads=8)
QWEN3_30B_A3B = ModelShape(
    hidden_size=2048,
    intermediate_size=768,
    num_layers=48,
    num_heads=32,
    num_kv_heads=4,
    num_experts=128,
    num_chosen=8,
)


def write_random_rm(folder: Path, shape: ModelShape, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> None:
    """Writes a random `Qwen3ForSequenceClassification`, or Qwen3Moe's, to `folder`, without transformers.

    Weights are normal with mean 0 (norm weights: 1) and std 0.02. They are drawn in blocks straight into
    `model.safetensors`, so no size of model needs memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(make_qwen3_config(shape, dtype), indent=2))
    sizes = list_qwen3_tensor_sizes(shape)
    name = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    header: dict[str, Any] = {}
    end = 0
    for tensor, size in sizes.items():
        start, end = end, end + math.prod(size) * dtype.itemsize
        header[tensor] = {"dtype": name, "shape": size, "data_offsets": [start, end]}
    generator = torch.Generator().manual_seed(seed)
    with (folder / "model.safetensors").open("wb") as file:
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # the format aligns the first tensor to 8 bytes
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor, size in sizes.items():
            mean, left = float("norm" in tensor), math.prod(size)
            while left:
                block = torch.empty(min(left, _WRITE_BLOCK)).normal_(mean, _WEIGHT_STD, generator=generator)
                file.write(block.to(dtype).view(torch.uint8).numpy().data)
                left -= len(block)


def make_qwen3_config(shape: ModelShape, dtype: torch.dtype) -> dict[str, Any]:
    """Returns what `config.json` of such a model says."""
    experts = {
        "num_experts": shape.num_experts,
        "num_experts_per_tok": shape.num_chosen,
        "moe_intermediate_size": shape.intermediate_size,
        "norm_topk_prob": True,
    }
    return {
        "architectures": [f"Qwen3{'Moe' if shape.num_experts else ''}ForSequenceClassification"],
        "model_type": "qwen3_moe" if shape.num_experts else "qwen3",
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 40_960,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "hidden_act": "silu",
        "pad_token_id": shape.vocab_size - 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        **(experts if shape.num_experts else {}),
    }


def list_qwen3_tensor_sizes(shape: ModelShape) -> dict[str, list[int]]:
    """Each tensor's name in the file and its shape."""
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    q_width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    layer = {
        "input_layernorm": [hidden],
        "self_attn.q_proj": [q_width, hidden],
        "self_attn.k_proj": [kv_width, hidden],
        "self_attn.v_proj": [kv_width, hidden],
        "self_attn.q_norm": [shape.head_dim],
        "self_attn.k_norm": [shape.head_dim],
        "self_attn.o_proj": [hidden, q_width],
        "post_attention_layernorm": [hidden],
    }
    mlp = {"gate_proj": [ffn, hidden], "up_proj": [ffn, hidden], "down_proj": [hidden, ffn]}
    if shape.num_experts:
        layer["mlp.gate"] = [shape.num_experts, hidden]
    for at in [f"mlp.experts.{i}" for i in range(shape.num_experts)] or ["mlp"]:
        layer |= {f"{at}.{name}": size for name, size in mlp.items()}
    sizes = {"model.embed_tokens": [shape.vocab_size, hidden], "model.norm": [hidden], "score": [1, hidden]}
    for index in range(shape.num_layers):
        sizes |= {f"model.layers.{index}.{name}": size for name, size in layer.items()}
    return {f"{name}.weight": size for name, size in sizes.items()}


def count_score_flops(shape: ModelShape, sequences: list[list[int]]) -> float:
    """Returns the floating-point operations that scoring `sequences` is worth: those of its distinct tokens.

    Counted are the matrix products: every layer's linear layers once for each distinct (prefix, token), and
    attention for each pair of such a token and a key that it may see. The last layer is counted for all
    tokens, though only the pooled ones need its queries and MLP: this is the ideal of a forward that skips
    nothing but repetition, and an engine that skips more may look better than it. Left out are norms, RoPE,
    softmax and the head.
    """
    q_width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    ffn = 3 * shape.intermediate_size * shape.num_chosen + shape.num_experts  # with the router
    weights = shape.hidden_size * (2 * q_width + 2 * kv_width + ffn)
    return 2.0 * shape.num_layers * weights * _build_tree(sequences).num_tokens + count_attention_flops(
        shape, sequences
    )


def count_attention_flops(shape: ModelShape, sequences: list[list[int]]) -> float:
    """Returns what of `count_score_flops` is attention's: the products that are not of linear layers."""
    tree = _build_tree(sequences)
    num_pairs = int(tree.positions.sum()) + tree.num_tokens
    return 4.0 * shape.num_layers * shape.num_heads * shape.head_dim * num_pairs


def _build_tree(sequences: list[list[int]]) -> TreeBatch:
    arrays = [np.array(sequence, dtype=np.int32) for sequence in sequences]
    (tree,) = plan(arrays, max_batch_tokens=sum(map(len, arrays)))
    return tree
