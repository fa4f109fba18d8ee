"""Times log-likelihoods of programs with codescaler and with transformers: `python benches likelihood`.

Both load one random language model with a tied output layer. Programs of one problem are scored as text: a character is
a token. transformers runs one padded batch, computes logits for the tokens of programs alone, a few hundred rows at a
time, and gathers their log-softmax: what a careful user writes. Systems take turns after a warm-up. Beside them stands
the reward forward, codescaler's score of the same programs without an output layer.

"of peak" counts the products of the distinct tokens and of one row of the output layer for each token that is counted,
at the rate that matrix multiply reached in this run. Exit status 1 if codescaler's log-likelihoods are not as right as
they must be:
    float32:  max |codescaler - transformers| <= 1e-4 * mean |log-likelihood|;
    bfloat16: RMS(codescaler - float32) <= 2 * RMS(transformers - float32) + 1e-3 * scale, float32 being codescaler's.
"""

import argparse
import random
import statistics
import string
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from benches.harness.baselines import Float32
from benches.harness.options import choose_shape, make_parser, report_progress
from benches.harness.results import save
from benches.harness.systems import take_turns
from codescaler.engine import Engine
from codescaler.io.tables import format_table
from codescaler.testing import (
    FLOAT32_SCORE_LIMIT,
    WORKLOADS,
    ModelShape,
    Workload,
    bench_device,
    count_score_flops,
    edit_json,
    measure_rms_distance,
    save_chat,
    score_error_limit,
    write_random_rm,
)

OURS, THEIRS, REWARD = "codescaler", "transformers, one padded batch", "codescaler, reward forward"
ROWS_AT_ONCE = 512  # of logits, so that those of a batch never take gigabytes
Pairs = list[tuple[str, str]]


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args(options)
    torch.set_num_threads(arguments.threads)
    shape, dtype, device = choose_shape(arguments), getattr(torch, arguments.dtype), bench_device()
    workload = WORKLOADS[arguments.workload]
    with tempfile.TemporaryDirectory(prefix="codescaler-likelihood-") as scratch:
        reward, language = Path(scratch) / "reward", Path(scratch) / "language"
        for folder in (reward, language):
            write_random_rm(folder, shape)
            save_chat(folder)
        edit_json(language / "config.json", architectures=["Qwen3ForCausalLM"], tie_word_embeddings=True)
        truth = None
        if dtype != torch.float32:
            truth = _load(language, arguments, device, "float32").log_likelihood(_draw_pairs(workload, 0))
        engine, scorer = (_load(folder, arguments, device, arguments.dtype) for folder in (language, reward))
        model = transformers.AutoModelForCausalLM.from_pretrained(language, dtype=dtype).eval().to(device)
        systems: dict[str, Callable[[Pairs], Float32]] = {
            OURS: engine.log_likelihood,
            THEIRS: lambda pairs: compute_padded(model, *engine.encoder.encode_continuations(pairs, _name(pairs))),
            REWARD: scorer.score,
        }
        found = {name: score(_draw_pairs(workload, 0)) for name, score in systems.items()}
        seconds, peak = take_turns(systems, partial(_draw_pairs, workload), arguments.rounds, dtype, device)
        flops = _count_flops(engine, shape, _draw_pairs(workload, 0))
    values = _summarize(seconds, flops, peak, len(workload.candidate_lengths))
    error, limit = _judge(found, truth)
    print(f"{arguments.workload}, {shape.num_layers} layers, {arguments.dtype}; medians of {arguments.rounds} rounds")
    rows = [
        (
            name,
            f"{row['median_s']:.2f}",
            f"{row['ms_a_program']:.0f}",
            f"{row['speedup']:.2f}x",
            f"{row['of_peak']:.0%}",
        )
        for name, row in values.items()
    ]
    print(format_table(("", "seconds", "ms a program", "speed", "of peak"), rows))
    print(f"{'PASS' if error <= limit else 'FAIL'}: log-likelihoods are {error:.1e} off, {limit:.1e} is allowed")
    if arguments.save:
        setting = {"workload": arguments.workload, "matmul_peak_flops": peak, "error": error, "limit": limit}
        save(f"likelihood_{arguments.workload}", arguments, shape, device, {**setting, "systems": values})
    return 0 if error <= limit else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser("likelihood", "Times log-likelihoods of programs with codescaler and with transformers.")
    parser.add_argument("--workload", choices=WORKLOADS, default="bon8", help="named batch, its lengths as characters")
    return parser


def _load(folder: Path, arguments: argparse.Namespace, device: torch.device, dtype: str) -> Engine:
    report_progress(f"loading codescaler in {dtype}")
    head: Any = "none" if folder.name == "language" else "required"
    # Nothing is remembered from round to round: each problem is new.
    return Engine.from_pretrained(
        folder, device=str(device), dtype=dtype, num_threads=arguments.threads, head=head, prefix_memory_bytes=0
    )


def _draw_pairs(workload: Workload, seed: int) -> Pairs:
    """Draws a problem and its programs, of random letters."""
    choose = random.Random(seed).choices
    problem = "".join(choose(string.ascii_letters, k=workload.prompt_length))
    return [(problem, "".join(choose(string.ascii_letters, k=length))) for length in workload.candidate_lengths]


def _name(pairs: Pairs) -> list[str]:
    return [f"pairs[{index}]" for index in range(len(pairs))]


def compute_padded(model: Any, sequences: Sequence[Any], starts: Sequence[int]) -> Float32:
    """Returns the log-likelihood of each sequence's tokens from its start on, by one padded batch of transformers."""
    device, width = model.device, max(map(len, sequences))
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    counted = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, (sequence, start) in enumerate(zip(sequences, starts, strict=True)):
        ids[row, : len(sequence)] = torch.from_numpy(np.asarray(sequence, np.int64))
        counted[row, start : len(sequence)] = True
    mask = torch.arange(width)[None] < torch.tensor([[len(sequence)] for sequence in sequences])
    with torch.inference_mode():
        ids, counted, mask = (tensor.to(device) for tensor in (ids, counted, mask.long()))
        hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        rows, targets = hidden[:, :-1][counted[:, 1:]], ids[counted]
        log_probs = torch.cat(
            [
                model.lm_head(part).float().log_softmax(dim=-1).gather(1, target[:, None])[:, 0]
                for part, target in zip(rows.split(ROWS_AT_ONCE), targets.split(ROWS_AT_ONCE), strict=True)
            ]
        )
        sums = torch.zeros(len(sequences), device=device).index_add_(0, counted.nonzero()[:, 0], log_probs)
    result: Float32 = sums.cpu().numpy()
    return result


def _count_flops(engine: Engine, shape: ModelShape, pairs: Pairs) -> dict[str, float]:
    """Products of the distinct tokens, and of the rows of the output layer that are read, each once."""
    sequences, starts = engine.encoder.encode_continuations(pairs, _name(pairs))
    body = count_score_flops(shape, [sequence.tolist() for sequence in sequences])
    rows = {tuple(sequence[:at].tolist()) for sequence, start in zip(sequences, starts, strict=True)
            for at in range(start, len(sequence))}  # fmt: skip
    output = 2.0 * len(rows) * shape.hidden_size * shape.vocab_size
    return {OURS: body + output, THEIRS: body + output, REWARD: body}


def _summarize(
    seconds: dict[str, list[float]], flops: dict[str, float], peak: float, num_programs: int
) -> dict[str, dict[str, Any]]:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        name: {
            "seconds": seconds[name],
            "median_s": median_s,
            "ms_a_program": 1000 * median_s / num_programs,
            "speedup": medians[THEIRS] / median_s,
            "of_peak": flops[name] / peak / median_s,
        }
        for name, median_s in medians.items()
    }


def _judge(found: dict[str, Float32], truth: Float32 | None) -> tuple[float, float]:
    """Returns the error of codescaler's log-likelihoods, and the most that the module's docstring allows."""
    ours, theirs = found[OURS], found[THEIRS]
    if truth is None:
        return float(np.abs(ours - theirs).max()), FLOAT32_SCORE_LIMIT * float(np.abs(theirs).mean())
    return measure_rms_distance(ours, truth), score_error_limit(theirs, truth)


if __name__ == "__main__":
    sys.exit(main())
