"""What each fusion buys: `python benches fusions` scores a workload with one of them undone at a time.

A backend is replaced by one whose operation does the same in separate steps, by the same kernels where they can,
else by PyTorch. Figures are ratios of whole-forward time to the fused forward's in the same round. Exit status 1 if a
forward's scores are not those of the fused one: float32 within 1e-4 of their mean size, bfloat16 within a tenth.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benches.harness.baselines import BFLOAT16_SCORE_LIMIT, STOCK_TORCH, Float32
from benches.harness.options import choose_shape, make_parser
from benches.harness.results import save
from benches.harness.systems import take_turns
from codescaler.checkpoint.load import open_checkpoint
from codescaler.io.tables import format_table
from codescaler.model.decoder import Decoder, build_decoder
from codescaler.ops import Backend, Heads, RotaryTables, Tree, reference, replace_operations, select_backend
from codescaler.ops.plan import plan
from codescaler.testing import FLOAT32_SCORE_LIMIT, WORKLOADS, bench_device, write_random_rm

FUSED = "fused"


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args(options)
    torch.set_num_threads(arguments.threads)
    shape, dtype, device = choose_shape(arguments), getattr(torch, arguments.dtype), bench_device()
    workload, backend = WORKLOADS[arguments.workload], select_backend("auto", device.type)
    with tempfile.TemporaryDirectory(prefix="codescaler-fusions-") as folder:
        write_random_rm(Path(folder), shape)
        checkpoint = open_checkpoint(Path(folder))
        decoder = build_decoder(checkpoint.config, checkpoint.get, backend, dtype, device)
        forwards = {name: partial(_score_lists, change(decoder), every) for name, (change, every) in UNDONE.items()}
        scores = {name: forward(workload.draw_sequences()) for name, forward in forwards.items()}
        seconds, _ = take_turns(forwards, workload.draw_sequences, arguments.rounds, dtype, device)
    ratios = {
        name: statistics.median(map(float.__truediv__, values, seconds[FUSED])) for name, values in seconds.items()
    }
    limit = FLOAT32_SCORE_LIMIT if dtype == torch.float32 else BFLOAT16_SCORE_LIMIT
    size = float(np.abs(scores[FUSED]).mean())
    off = {name: float(np.abs(values - scores[FUSED]).max()) / size for name, values in scores.items()}
    wrong = [name for name, distance in off.items() if not distance <= limit]
    print(f"{arguments.workload}, {shape.num_layers} layers, {arguments.dtype}, {backend.description}")
    rows = [
        (name, f"{statistics.median(seconds[name]):.2f}", f"{ratio:.3f}", f"{off[name]:.0e}")
        for name, ratio in ratios.items()
    ]
    print(format_table(("undone", "seconds", "of fused", "scores off"), rows))
    print(f"FAIL: other scores: {', '.join(wrong)}" if wrong else "PASS: all forwards give the same scores")
    if arguments.save:
        values = {"workload": arguments.workload, "seconds": seconds, "time_of_fused": ratios, "scores_off": off}
        save("fusions", arguments, shape, device, values)
    return 1 if wrong else 0


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser("fusions", "Measures what each fusion buys, by undoing one at a time.")
    parser.add_argument("--workload", choices=WORKLOADS, default="bon8", help="named batch of token lists")
    return parser


def _score_lists(decoder: Decoder, is_every_row_pooled: bool, sequences: list[list[int]]) -> Float32:
    arrays = [np.array(ids, dtype=np.int32) for ids in sequences]
    (batch,) = plan(arrays, max_batch_tokens=sum(map(len, arrays)))
    with torch.inference_mode():
        tree = Tree.from_batch(batch, decoder.device)
        if is_every_row_pooled:  # the last layer then computes every token, and the scores are picked from all rows
            every = torch.arange(batch.num_tokens, device=decoder.device)
            rows = tree.read_tokens[tree.rows]
            tree = replace(tree, read_queries=tree.all_queries, read_tokens=every, rows=rows)
        scores = decoder.forward(tree)[1].cpu().numpy()
    return scores[np.argsort(batch.sequences)]


def replace_in_decoder(**operations: Callable[[Backend], object]) -> Callable[[Decoder], Decoder]:
    """Replaces operations of a decoder's backend by what each function makes of the backend as it was."""

    def change_decoder(decoder: Decoder) -> Decoder:
        changed = {name: make(decoder.backend) for name, make in operations.items()}
        return replace(decoder, backend=replace_operations(decoder.backend, **changed))

    return change_decoder


def _unfuse_add_norm(backend: Backend) -> object:
    def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
        if residual is None:
            return backend.rms_norm(x, weight, eps)
        return backend.rms_norm(residual.add_(x), weight, eps).to(x.dtype)

    return rms_norm


def _unfuse_norm_rope(backend: Backend) -> object:
    def qk_norm_rope(
        qkv: Tensor,
        heads: Heads,
        positions: Tensor,
        rotary: RotaryTables,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        eps: float = 0.0,
    ) -> None:
        # A rotation by nothing leaves the norm alone.
        still = RotaryTables(torch.ones_like(rotary.cos), torch.zeros_like(rotary.sin))
        backend.qk_norm_rope(qkv, heads, positions, still, q_norm, k_norm, eps)
        backend.qk_norm_rope(qkv, heads, positions, rotary)

    return qk_norm_rope


def _keep_decoder(decoder: Decoder) -> Decoder:
    return decoder


# What is undone: the decoder without it, and whether the last layer computes every row.
UNDONE: dict[str, tuple[Callable[[Decoder], Decoder], bool]] = {
    FUSED: (_keep_decoder, False),
    "residual + norm: add, then norm": (replace_in_decoder(rms_norm=_unfuse_add_norm), False),
    "residual + norm: PyTorch": (replace_in_decoder(rms_norm=lambda _: STOCK_TORCH.rms_norm), False),
    "QK-norm + RoPE: norm, then rotate": (replace_in_decoder(qk_norm_rope=_unfuse_norm_rope), False),
    "QK-norm + RoPE: PyTorch": (replace_in_decoder(qk_norm_rope=lambda _: reference.qk_norm_rope), False),
    "GLU: PyTorch": (replace_in_decoder(glu=lambda _: STOCK_TORCH.glu), False),
    "blocks of tokens: all at once": (replace_in_decoder(token_block=lambda _: None), False),
    "pooled rows only: every row of the last layer": (_keep_decoder, True),
}


if __name__ == "__main__":
    sys.exit(main())
