"""Predicts an H100's times from bytes and operations: `python benches roofline`, or `make roofline`.

A prediction, not a measurement: each launch takes the longer of its operations at the peak and its bytes at the
bandwidth, launches follow one another, and nothing else costs anything. Attention has a peak of its own, since its
softmax takes turns with its products, and ours counts whole tiles: rows without a token and keys past the diagonal are
multiplied too. What a measurement must say: cuBLAS at these sizes, the gaps between launches, what a tile costs to
start, and how evenly tiles fill the card (`bon8` of 1.7B has 376 programs for 132 multiprocessors: a tenth is lost).
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from codescaler.kernels.configurations import choose_attention_tile

from codescaler.ops.plan import TreeBatch, plan
from codescaler.testing import QWEN3_1_7B, QWEN3_8B, WORKLOADS, ModelShape, Workload
from codescaler.text.token_ids import Int32

SHAPES = {"1.7b": QWEN3_1_7B, "8b": QWEN3_8B}
PEAK_FLOPS, BYTES_PER_S = 800e12, 3.0e12  # bfloat16 products and copies that an H100 was seen to reach
ATTENTION_FLOPS = (
    450e12  # bfloat16 attention in Triton on an H100 at these lengths; the best published reach 370 to 570
)
RESULTS = Path(__file__).parents[1] / "results" / "roofline_h100.json"


@dataclass(frozen=True)
class Launch:
    """One kernel of one layer: floating-point operations and bytes moved."""

    name: str
    flops: float
    num_bytes: float
    peak_flops: float = PEAK_FLOPS

    @property
    def seconds(self) -> float:
        return max(self.flops / self.peak_flops, self.num_bytes / BYTES_PER_S)


def list_layer_launches(
    shape: ModelShape, tokens: int, pairs: float, is_fused: bool, rows: int | None = None
) -> Iterator[Launch]:
    """The launches of one layer over `tokens`, of which `rows` (all by default) go beyond keys and values.

    `pairs` are those of a query and a key that are multiplied. Unfused, every pointwise step of the eager model reads
    and writes memory of its own: residual and norm take 5 passes where one would do, QK-norm and RoPE 8, SwiGLU 2.
    """
    rows = tokens if rows is None else rows
    q, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    hidden, ffn = shape.hidden_size, shape.intermediate_size

    def make_linear(name: str, count: int, inputs: int, outputs: int) -> Launch:
        moved = 2 * (count * (inputs + outputs) + inputs * outputs)
        return Launch(name, 2.0 * count * inputs * outputs, moved)

    # x read and y written in bfloat16, the residual read and written in float32.
    norm_bytes = 12 if is_fused else 20
    yield Launch("rms_norm", 0, norm_bytes * tokens * hidden)
    yield make_linear("qkv", tokens, hidden, q + 2 * kv)
    yield Launch("qk_norm_rope", 0, (4 if is_fused else 32) * tokens * (q + kv))
    yield Launch("tree_attention", 4.0 * q * pairs, 2 * (2 * rows * q + 2 * tokens * kv), ATTENTION_FLOPS)
    yield make_linear("o", rows, q, hidden)
    yield Launch("rms_norm", 0, norm_bytes * rows * hidden)
    yield make_linear("gate_up", rows, hidden, 2 * ffn)
    yield Launch("glu", 0, (6 if is_fused else 10) * rows * ffn)
    yield make_linear("down", rows, ffn, hidden)


def list_gradient_launches(shape: ModelShape, tokens: int, pairs: float) -> Iterator[Launch]:
    """The launches of one layer's gradient. Each weight's gradient is written in float32.

    Attention makes seven products of query and key pairs where the forward makes two: both of its kernels compute the
    probabilities again.
    """
    q, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    for count, inputs, outputs in ((1, hidden, q + 2 * kv), (1, q, hidden), (2, hidden, ffn), (1, ffn, hidden)):
        moved = tokens * (inputs + count * outputs)
        flops, weights = 2.0 * tokens * inputs * count * outputs, count * inputs * outputs
        yield Launch("linear", flops, 2 * (moved + weights))
        yield Launch("linear", flops, 2 * moved + 4 * weights)
    # z and both gradients of the residual in float32, grad_y in bfloat16; two norms.
    yield Launch("rms_norm_backward", 0, 2 * 14 * tokens * hidden)
    yield Launch("qk_norm_rope_backward", 0, tokens * (4 * (q + 2 * kv) + 2 * (q + kv)))
    yield Launch("glu_backward", 0, 10 * tokens * ffn)
    moved = 2 * tokens * (3 * q + 2 * kv)
    yield Launch("tree_attention_backward_queries", 6.0 * q * pairs, moved + 2 * tokens * q)
    yield Launch("tree_attention_backward_keys", 8.0 * q * pairs, moved + 4 * tokens * kv)


def predict_step(shape: ModelShape, workload: Workload, is_checkpointed: bool = False) -> dict[str, float]:
    """Microseconds of a training step on a workload's tree by kernel: forward, gradient and AdamW in float32."""
    arrays = [np.array(ids, dtype=np.int32) for ids in workload.draw_sequences()]
    (tree,) = plan(arrays, 10**9)
    pairs = float(tree.positions.sum() + tree.num_tokens)
    forward = list(list_layer_launches(shape, tree.num_tokens, pairs, True))
    predicted: dict[str, float] = {}
    for launch in forward * (1 + is_checkpointed) + list(list_gradient_launches(shape, tree.num_tokens, pairs)):
        name = "linear" if launch.name in ("qkv", "o", "gate_up", "down") else launch.name
        predicted[name] = predicted.get(name, 0.0) + 1e6 * launch.seconds * shape.num_layers
    matrices = shape.num_layers * (
        shape.hidden_size * (2 * shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
        + 3 * shape.hidden_size * shape.intermediate_size
    )
    weights = matrices + shape.vocab_size * shape.hidden_size
    # Weights, gradients and two moments read, all but gradients written; gradients read twice and written to clip them.
    predicted["optimizer and clipping"] = 1e6 * (28 + 12) * weights / BYTES_PER_S
    predicted["casts of weights"] = 1e6 * 6 * matrices / BYTES_PER_S
    return predicted


def count_tile_pairs(tree: TreeBatch, queries: Int32, shape: ModelShape) -> float:
    """Pairs of a query and a key that tiles of sm_90 multiply: all tokens of a tile, with all keys of its steps."""
    group = shape.num_heads // shape.num_kv_heads
    tile = choose_attention_tile("sm_90", shape.head_dim, 2, group)
    tiles = tree.plan_tiles(queries, tile.rows // group, is_padded=True)
    num_steps = -(-(tiles[:, 4] + tiles[:, 2]) // tile.key_step)
    return float(tile.rows // group * tile.key_step * num_steps.sum())


def predict(shape: ModelShape, workload: Workload) -> dict[str, dict[str, object]]:
    """The seconds of the three ways to score a workload, and the launches of one layer of the first."""
    arrays = [np.array(ids, dtype=np.int32) for ids in workload.draw_sequences()]
    (tree,) = plan(arrays, 10**9)
    lengths = np.array([len(ids) for ids in arrays])
    last, layers = len(tree.read_queries), shape.num_layers
    ours = list(list_layer_launches(shape, tree.num_tokens, count_tile_pairs(tree, tree.all_queries, shape), True))
    end_pairs = count_tile_pairs(tree, tree.read_queries, shape)
    end = list(list_layer_launches(shape, tree.num_tokens, end_pairs, True, last))
    varlen = list(list_layer_launches(shape, int(lengths.sum()), float((lengths * (lengths + 1) / 2).sum()), True))
    width, count = int(lengths.max()), len(lengths)
    # With a mask SDPA skips nothing.
    padded = list(list_layer_launches(shape, width * count, float(count * width * width), False))

    def summarize_launches(launches: list[Launch], tokens: int, extra: list[Launch] | None = None) -> dict[str, object]:
        total = sum(launch.seconds for launch in launches) * (layers - bool(extra))
        total += sum(launch.seconds for launch in extra or [])
        return {
            "predicted_ms": 1e3 * total,
            "tokens": tokens,
            "launches_of_a_layer": [asdict(launch) | {"predicted_us": 1e6 * launch.seconds} for launch in launches],
        }

    return {
        "codescaler": summarize_launches(ours, tree.num_tokens, end),
        "varlen without sharing": summarize_launches(varlen, int(lengths.sum())),
        "padded, eager": summarize_launches(padded, width * count),
    }


def main() -> int:
    """Prints and saves the predictions."""
    table = {
        f"{name} {size}": predict(shape, workload)
        for size, shape in SHAPES.items()
        for name, workload in WORKLOADS.items()
    }
    print("PREDICTED for an H100 at 800 TFLOP/s (attention: 450) and 3.0 TB/s; nothing here was measured on a GPU.\n")
    print(f"{'':14} {'codescaler':>12} {'varlen, unshared':>18} {'padded, eager':>15}   codescaler is")
    for name, systems in table.items():
        ours, varlen, padded = (float(str(system["predicted_ms"])) for system in systems.values())
        faster = f"{padded / ours:.1f}x and {varlen / ours:.1f}x as fast"
        print(f"{name:14} {ours:>9.2f} ms {varlen:>15.2f} ms {padded:>12.2f} ms   {faster}")
    steps = {}
    for is_checkpointed in (False, True):
        predicted = predict_step(QWEN3_1_7B, WORKLOADS["bon8"], is_checkpointed)
        name = f"training step 1.7b bon8{', checkpointed' * is_checkpointed}"
        steps[name] = {"predicted_ms": sum(predicted.values()) / 1e3, "predicted_us": predicted}
        print(f"{name}: {sum(predicted.values()) / 1e3:.1f} ms")
        for kernel, predicted_us in predicted.items():
            print(f"    {kernel:34} {predicted_us:>9.0f} us")
    print(f"\n{__doc__.partition(chr(10) * 2)[2].strip()}")
    what = "predicted, not measured; see benches/tools/roofline.py for what a measurement must confirm"
    values = {"status": what, "peak_flops": PEAK_FLOPS, "attention_flops": ATTENTION_FLOPS}
    values |= {"bytes_per_s": BYTES_PER_S, "workloads": table, "training": steps}
    RESULTS.write_text(json.dumps(values, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
