"""Scores one named workload with codescaler and with transformers: `python benches compare bon8`.

All systems load the same random checkpoint, are warmed up with the same batch, and take turns for a number of
rounds, each with token ids of its own, so that no cache of an earlier round can answer. On a machine with a GPU they
run there, with a flushed cache, and are timed by events; transformers with flash attention and vLLM join where they are
installed; with --quantization int8, codescaler with every linear layer in int8 too, whose scores are not judged. Exit
status 1 if codescaler's scores are not as right as they must be:
    float32:  max |codescaler - any other| <= 1e-4 * scale, the scale being mean |score|;
    bfloat16: RMS(codescaler - float32) <= 2 * RMS(transformers, padded - float32) + 1e-3 * scale; float32 are
              codescaler's own float32 scores, and those of the shortest sequences are held against transformers in
              float32 by the rule above. (bfloat16 scores confirm nothing where experts are chosen: near ties of a
              router move every system's.)
"""

import argparse
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benches.harness.baselines import Float32, PackedScorer, TransformersScorer, choose_experts, load_transformers
from benches.harness.options import SHAPES, choose_shape, make_parser, report_progress
from benches.harness.results import save
from benches.harness.systems import (
    FLASH,
    INT8,
    OURS,
    PADDED,
    SORTED,
    VLLM,
    System,
    save_with_int8,
    take_turns,
    write_checkpoint,
)
from benches.harness.vllm_scorer import VllmProcess, VllmScorer
from codescaler.commands.info import read_cpu_model
from codescaler.engine import Engine
from codescaler.ops import select_backend
from codescaler.testing import (
    FLOAT32_SCORE_LIMIT,
    WORKLOADS,
    ModelShape,
    Workload,
    bench_device,
    count_attention_flops,
    count_score_flops,
    describe_device,
    measure_peak_flops,
    measure_rms_distance,
    score_error_limit,
)

NUM_CONFIRMED = 2  # float32 scores that transformers computes too: it is slow, and a wrong model shows in the first


@dataclass(frozen=True)
class Row:
    """What was measured of one system; None where there is nothing to hold it against.

    `max_difference` and `correlation` are to codescaler's scores, `float32_*` to codescaler's in float32.
    """

    system: str
    seconds: list[float]
    num_computed_tokens: int | None
    real_tokens_per_s: float
    speedup: float
    mfu: float
    max_difference: float | None
    correlation: float | None
    float32_rms: float | None
    float32_correlation: float | None

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Truth:
    """codescaler's float32 scores, and how far the first ones are from transformers' in float32."""

    scores: Float32
    num_confirmed: int
    max_difference: float


@dataclass(frozen=True)
class Verdict:
    """Whether the scores are correct, and the sentence that says why."""

    is_correct: bool
    reason: str


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args(options)
    torch.set_num_threads(arguments.threads)
    shape = choose_shape(arguments)
    workload, dtype = WORKLOADS[arguments.workload], getattr(torch, arguments.dtype)
    sequences, device = workload.draw_sequences(), bench_device()
    with tempfile.TemporaryDirectory(prefix="codescaler-compare-") as folder:
        report_progress(f"writing a random checkpoint of {shape.num_layers} layers")
        write_checkpoint(Path(folder), shape)
        truth = (  # first: models in float32 do not fit beside the systems
            None if dtype == torch.float32 else _score_in_float32(Path(folder), arguments.threads, sequences, device)
        )
        systems, left_out = _load(Path(folder), arguments, workload, sequences, device)
        scores = {system.name: _warm_up(system, sequences) for system in systems}
        scorers = {system.name: system.score for system in systems}
        seconds, peak = take_turns(scorers, workload.draw_sequences, arguments.rounds, dtype, device)
    ideal_s = count_score_flops(shape, sequences) / peak
    rows = [
        _make_row(system, seconds, scores, truth and truth.scores, workload.num_real_tokens, ideal_s)
        for system in systems
    ]
    if arguments.quantization:
        rows = _compare_with_int8_peak(rows, shape, sequences, peak, dtype)
    verdict = _judge(scores, truth)
    print(
        _introduce(arguments, shape, workload, device),
        "\n".join([_format_table(rows), *left_out]),
        _format_legend(peak, ideal_s, truth is not None),
        sep="\n\n",
    )
    print(f"\n{'PASS' if verdict.is_correct else 'FAIL'}: {verdict.reason}")
    if arguments.save:
        _save(arguments, shape, peak, ideal_s, rows, verdict, device)
    return 0 if verdict.is_correct else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser("compare", "Scores one named workload with codescaler and with transformers.")
    parser.add_argument("workload", choices=WORKLOADS, help="named batch of token lists")
    parser.add_argument(
        "--vllm", type=Path, help="interpreter of an environment that has vLLM (make bench-peers makes one)"
    )
    parser.add_argument(
        "--quantization", choices=("int8",), help="put codescaler with int8 linear layers beside the others"
    )
    return parser


def _load(
    folder: Path,
    arguments: argparse.Namespace,
    workload: Workload,
    sequences: list[list[int]],
    device: torch.device,
) -> tuple[list[System], list[str]]:
    """Returns the systems that are here, and a line about each that is not."""
    dtype, num_threads = arguments.dtype, arguments.threads
    report_progress("loading codescaler and transformers")
    engine = Engine.from_pretrained(folder, device=str(device), dtype=dtype, num_threads=num_threads)
    model = load_transformers(folder, getattr(torch, dtype), device)
    if model.config.model_type == "qwen3_moe":
        report_progress(f"experts of transformers: {choose_experts(model, sequences[:2])}")
    padded, in_fours = TransformersScorer(model), TransformersScorer(model, batch_size=4)
    systems = [
        System(OURS, engine.score_tokens, workload.num_distinct_tokens),
        System(PADDED, padded.score_tokens, padded.count_computed_tokens(sequences)),
        System(SORTED, in_fours.score_tokens, in_fours.count_computed_tokens(sequences)),
    ]
    if arguments.quantization:
        with tempfile.TemporaryDirectory(prefix="codescaler-int8-") as int8_folder:
            save_with_int8(folder, Path(int8_folder))
            int8 = Engine.from_pretrained(int8_folder, device=str(device), dtype=dtype, num_threads=num_threads)
        systems.insert(1, System(INT8, int8.score_tokens, workload.num_distinct_tokens))
    reasons = {FLASH: _explain_no_flash(device, dtype), VLLM: _explain_no_vllm(arguments.vllm, device)}
    if reasons[FLASH] is None:
        flash = PackedScorer(load_transformers(folder, getattr(torch, dtype), device, "flash_attention_2"))
        systems.append(System(FLASH, flash.score_tokens, workload.num_real_tokens))
    if reasons[VLLM] is None:
        report_progress("starting vLLM")
        python = arguments.vllm
        vllm = VllmProcess(python, folder, dtype, num_threads) if python else VllmScorer(folder, dtype)
        systems.append(System(VLLM, vllm.score_tokens, None))
    return systems, [f"left out: {name}: {reason}" for name, reason in reasons.items() if reason is not None]


def _explain_no_flash(device: torch.device, dtype: str) -> str | None:
    if device.type != "cuda" or dtype != "bfloat16":
        return f"flash attention is for GPUs and 16 bits, this is {device.type} and {dtype}"
    return _explain_not_installed("flash_attn")


def _explain_no_vllm(python: Path | None, device: torch.device) -> str | None:
    if python is not None:
        return None
    if device.type != "cuda":
        return "its CPU build needs an environment of its own: make bench-peers"
    return _explain_not_installed("vllm")


def _explain_not_installed(package: str) -> str | None:
    return None if importlib.util.find_spec(package) else f"the package {package} is not installed in this environment"


def _warm_up(system: System, sequences: list[list[int]]) -> Float32:
    report_progress(f"warming up: {system.name}")
    return system.score(sequences)


def _score_in_float32(folder: Path, num_threads: int, sequences: list[list[int]], device: torch.device) -> Truth:
    report_progress("scoring once in float32, to hold the scores of bfloat16 against")
    engine = Engine.from_pretrained(folder, device=str(device), dtype="float32", num_threads=num_threads)
    scores = engine.score_tokens(sequences)
    del engine  # before another model of that size
    shortest = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))[:NUM_CONFIRMED]
    report_progress(f"confirming {len(shortest)} of them with transformers in float32")
    model = load_transformers(folder, torch.float32, device)
    theirs = TransformersScorer(model, batch_size=1).score_tokens([sequences[number] for number in shortest])
    return Truth(scores, len(shortest), float(np.abs(scores[shortest] - theirs).max()))


def _make_row(
    system: System,
    seconds: dict[str, list[float]],
    scores: dict[str, Float32],
    truth: Float32 | None,
    num_real_tokens: int,
    ideal_s: float,
) -> Row:
    own, other = scores[system.name], None if system.name == OURS else scores[OURS]
    median_s = statistics.median(seconds[system.name])
    return Row(
        system=system.name,
        seconds=seconds[system.name],
        num_computed_tokens=system.num_computed_tokens,
        real_tokens_per_s=num_real_tokens / median_s,
        speedup=statistics.median(seconds[PADDED]) / median_s,
        mfu=ideal_s / median_s,
        max_difference=None if other is None else float(np.abs(own - other).max()),
        correlation=_correlate(own, other),
        float32_rms=None if truth is None else measure_rms_distance(own, truth),
        float32_correlation=_correlate(own, truth),
    )


def _compare_with_int8_peak(
    rows: list[Row], shape: ModelShape, sequences: list[list[int]], peak: float, dtype: torch.dtype
) -> list[Row]:
    """Holds int8 against the time that its linear layers take at their own peak, and attention at that of its dtype."""
    int8_peak = max(measure_peak_flops(dtype, is_int8=True) for _ in rows)
    attention = count_attention_flops(shape, sequences)
    ideal_s = (count_score_flops(shape, sequences) - attention) / int8_peak + attention / peak
    return [replace(row, mfu=ideal_s / row.median_s) if row.system == INT8 else row for row in rows]


def _correlate(left: Float32, right: Float32 | None) -> float | None:
    """Pearson's; None if there is nothing to correlate with, or a single score."""
    return None if right is None or len(left) < 2 else float(np.corrcoef(left, right)[0, 1])


def _judge(scores: dict[str, Float32], truth: Truth | None) -> Verdict:
    """Applies the rule that the module's docstring states. NaN compares false, so it fails."""
    ours, theirs = scores[OURS], scores[PADDED]
    if truth is None:
        others = [values for name, values in scores.items() if name not in (OURS, INT8)]
        difference = max(float(np.abs(ours - values).max()) for values in others)
        limit = FLOAT32_SCORE_LIMIT * float(np.abs(theirs).mean())
        return Verdict(
            difference <= limit,
            f"codescaler's scores are at most {difference:.1e} off the others', {limit:.1e} is allowed.",
        )
    error, limit = measure_rms_distance(ours, truth.scores), score_error_limit(theirs, truth.scores)
    most = FLOAT32_SCORE_LIMIT * float(np.abs(truth.scores).mean())
    return Verdict(
        error <= limit and truth.max_difference <= most,
        f"codescaler's scores are {error:.1e} (RMS) off float32, {limit:.1e} is allowed;\n"
        f"{truth.num_confirmed} of these float32 scores are at most {truth.max_difference:.1e} off transformers', "
        f"{most:.1e} is allowed.",
    )


def _introduce(arguments: argparse.Namespace, shape: ModelShape, workload: Workload, device: torch.device) -> str:
    count = len(workload.candidate_lengths)
    low, high = min(workload.candidate_lengths), max(workload.candidate_lengths)
    lengths = f"{low} to {high} tokens" if count > 1 else f"{high} tokens"
    what = (
        f"{count} programs of {lengths} for one problem of {workload.prompt_length} tokens"
        if workload.prompt_length
        else f"{count} unrelated sequence{'s' if count > 1 else ''} of {lengths}"
    )
    return (
        f"{arguments.workload}: {what}; {workload.num_real_tokens} tokens, "
        f"{workload.num_distinct_tokens} of them distinct.\n"
        f"Scored by a random reward model, Qwen3-{arguments.shape.upper()} with "
        f"{shape.num_layers} of its {SHAPES[arguments.shape].num_layers} layers, in {arguments.dtype},\n"
        f"on {_place(arguments.threads, device)} ({select_backend('auto', device.type).description}).\n"
        f"The systems took turns after a warm-up; seconds are medians, rounds: {arguments.rounds}."
    )


def _format_table(rows: list[Row]) -> str:
    lines = [["", "seconds", "tokens run", "tokens/s", "speed", "of peak", "max diff", "correlation"]]
    for row in rows:
        lines.append(
            [
                row.system,
                f"{row.median_s:.2f}",
                "-" if row.num_computed_tokens is None else f"{row.num_computed_tokens}",
                f"{row.real_tokens_per_s:.0f}",
                f"{row.speedup:.2f}x",
                f"{row.mfu:.0%}",
                "-" if row.max_difference is None else f"{row.max_difference:.1e}",
                "-" if row.correlation is None else f"{row.correlation:.6f}",
            ]
        )
    if rows[0].float32_rms is not None:
        lines[0].append("off float32")
        for line, row in zip(lines[1:], rows, strict=True):
            line.append(f"{row.float32_rms:.1e}")
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join("  ".join([name.ljust(first), *map(str.rjust, cells, others)]) for name, *cells in lines)


def _format_legend(peak: float, ideal_s: float, has_float32: bool) -> str:
    legend = f"""\
tokens run   what the forwards compute: codescaler a shared prefix once, transformers each copy and padding
tokens/s     tokens of all sequences as they were given, a second
speed        how many times as fast as transformers' one padded batch
of peak      {ideal_s:.2f} s over the seconds: the time that the matrix products of the distinct tokens take
             at {peak / 1e9:.0f} GFLOP/s, the most that this machine's matrix multiply reached in this run
             (few layers can pass 100%: codescaler computes most of the last layer for scored tokens only)
max diff, correlation   of the scores, with codescaler's"""
    return legend + "\noff float32  RMS distance to codescaler's own float32 scores" * has_float32


def _save(
    arguments: argparse.Namespace,
    shape: ModelShape,
    peak: float,
    ideal_s: float,
    rows: list[Row],
    verdict: Verdict,
    device: torch.device,
) -> None:
    values = {
        "workload": arguments.workload,
        "matmul_peak_flops": peak,
        "ideal_s": ideal_s,
        "is_correct": verdict.is_correct,
        "verdict": verdict.reason,
        "systems": [asdict(row) | {"median_s": row.median_s} for row in rows],
    }
    name = f"compare_{arguments.workload}{'_int8' if arguments.quantization else ''}"
    save(name, arguments, shape, device, values)


def _place(num_threads: int, device: torch.device) -> str:
    return describe_device(device, f"{num_threads} threads of {read_cpu_model()}")


if __name__ == "__main__":
    sys.exit(main())
