"""What tests and benches of bit-identity share: widths of real models, lists that branch, and a forward over them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from codescaler.model.decoder import Decoder
from codescaler.ops import Tree
from codescaler.ops.plan import plan
from codescaler.text.token_ids import Int32


def _make_sizes(width: int, ffn: int, num_heads: int, num_kv_heads: int, **others: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        **others,
    }


# Settings of real models' widths: small sums hide what a matrix product does with few rows.
WIDTHS = {
    "qwen3": _make_sizes(1024, 3072, 16, 8, head_dim=128),  # Qwen3-0.6B
    "qwen3_moe": _make_sizes(  # Qwen3-30B-A3B, with fewer heads and experts
        2048,
        96,
        4,
        1,
        head_dim=128,
        moe_intermediate_size=768,
        num_experts=5,
        num_experts_per_tok=2,
        norm_topk_prob=True,
    ),
    "qwen2": _make_sizes(896, 4864, 14, 2),  # Qwen2.5-Coder-0.5B
    "llama": _make_sizes(576, 1536, 9, 3),  # SmolLM2-135M
    "gemma2": _make_sizes(448, 1000, 4, 1, head_dim=256, sliding_window=50),
}


def make_branching_lists() -> list[Int32]:
    """Returns token lists to depth four: branches off branches, a list that is another's prefix, and one token.

    One branch leaves at the start of a key block. Ids are below 200.
    """
    random = np.random.default_rng(0)
    trunk = random.integers(3, 200, 64).tolist()
    second = [*trunk[:50], *random.integers(3, 200, 33).tolist()]
    third = [*second[:70], *random.integers(3, 200, 7).tolist()]
    fourth = [*third[:75], 5, 6]
    lists = [trunk, [*trunk, 9, 8, 7], second, third, fourth, trunk[:20], [4]]
    return [np.array(tokens, dtype=np.int32) for tokens in lists]


def run_forward_lists(decoder: Decoder, lists: Sequence[Int32]) -> list[torch.Tensor]:
    """Returns features and scores of token lists in one tree, in the order given, on the CPU."""
    with torch.inference_mode():
        (batch,) = plan(lists, 10**9)
        results = decoder.forward(Tree.from_batch(batch, decoder.device))
        order = np.argsort(batch.sequences)
        return [result.cpu()[order] for result in results if result is not None]
