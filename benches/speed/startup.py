"""Times process start to first score, and weighs the process: `python benches startup`.

Each system starts in a process of its own, loads the same checkpoint (whose file is cached) and scores one list of 64
tokens; the systems take turns for a number of rounds. Then codescaler scores a full token budget, once, and its peak of
resident memory, less what it was after `import torch`, is held against
    1.15 * weights + activations of one budget,
weights in the dtype they are computed in (the embedding as it is stored), activations those alive at once in a layer.
Exit status 1 if the scores differ, if codescaler's start takes as long as transformers' or an eighth of vLLM's, or if
its memory is above that.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benches.harness.baselines import BFLOAT16_SCORE_LIMIT
from benches.harness.options import choose_shape, make_parser, parse_count, report_progress
from benches.harness.results import save
from benches.harness.systems import OURS, VLLM, write_checkpoint
from benches.harness.vllm_scorer import VllmProcess
from codescaler.engine.engine import DEFAULT_BATCH_TOKENS
from codescaler.io.tables import format_table
from codescaler.ops.cpu.backend import TOKEN_BLOCK
from codescaler.testing import FLOAT32_SCORE_LIMIT, ModelShape

TRANSFORMERS = "transformers"
IDS = list(range(1, 65))
TARGET_S = 2.5
SEQUENCE_TOKENS = 512  # of the sequences that fill a budget: enough to fill one, short enough to leave attention small

# What a user would write. Each gets a folder, a dtype, and token lists as JSON, and prints scores.
_OURS = """
import json, sys
from codescaler.engine import Engine
engine = Engine.from_pretrained(sys.argv[1], device="cpu", dtype=sys.argv[2])
print(json.dumps(engine.score_tokens(json.loads(sys.argv[3])).tolist()), flush=True)
"""
_TRANSFORMERS = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2])).eval()
with torch.inference_mode():
    print(json.dumps(model(torch.tensor(json.loads(sys.argv[3])), use_cache=False).logits[:, 0].tolist()), flush=True)
"""
# The kernel counts the peak from the start of a process, and only torch was imported when the first figure is taken.
_MEMORY = """
import json, sys
import torch
def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name + ":"))
after_import = kilobytes("VmRSS")
from codescaler.engine import Engine
engine = Engine.from_pretrained(sys.argv[1], device="cpu", dtype=sys.argv[2])
engine.score_tokens(json.loads(sys.argv[3]))
print(json.dumps([1024 * after_import, 1024 * kilobytes("VmHWM")]))
"""


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args(options)
    torch.set_num_threads(arguments.threads)
    shape = choose_shape(arguments)
    with tempfile.TemporaryDirectory(prefix="codescaler-startup-") as name:
        folder = Path(name)
        report_progress(f"writing a random checkpoint of {shape.num_layers} layers")
        write_checkpoint(folder, shape)
        seconds, scores = _take_turns(_list_systems(folder, arguments), arguments.rounds)
        report_progress(f"{OURS}: memory of {arguments.budget} tokens")
        memory = _measure_memory(folder, shape, arguments)
    medians = {system: statistics.median(values) for system, values in seconds.items()}
    verdict = make_checks(medians, scores, memory, arguments.dtype)
    print(
        f"Process start to the first score, {shape.num_layers} layers, {arguments.dtype}, {arguments.threads} threads."
    )
    rows = [(system, f"{median:.2f}", f"{median / medians[OURS]:.1f}x") for system, median in medians.items()]
    print(format_table(("", "seconds", "of ours"), rows))
    print("\n".join(f"{'PASS' if holds else 'FAIL'}: {sentence}" for sentence, holds in verdict.items()))
    if arguments.save:
        values = {"seconds": seconds, "median_s": medians, "scores": scores, "memory": memory, "checks": verdict}
        save("startup", arguments, shape, torch.device("cpu"), values)
    return 0 if all(verdict.values()) else 1


def _make_parser() -> argparse.ArgumentParser:
    parser = make_parser("startup", "Times process start to first score, and weighs the process.")
    parser.add_argument("--budget", type=parse_count, default=DEFAULT_BATCH_TOKENS, help="tokens whose memory counts")
    parser.add_argument("--vllm", type=Path, help="interpreter of an environment that has vLLM")
    return parser


def _list_systems(folder: Path, arguments: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """What starts each system, scores `IDS`, and returns when the score is there."""
    run = partial(_run, folder=folder, arguments=arguments, lists=[IDS])
    systems = {OURS: lambda: run(_OURS)[0], TRANSFORMERS: lambda: run(_TRANSFORMERS)[0]}
    return systems if arguments.vllm is None else systems | {VLLM: lambda: _start_vllm(folder, arguments)}


def _run(code: str, folder: Path, arguments: argparse.Namespace, lists: list[list[int]]) -> list[float]:
    """What a process that runs `code` prints first; it is killed then, since its end is not what is timed."""
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    command = [sys.executable, "-c", code, folder, arguments.dtype, json.dumps(lists)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        answer = process.stdout.readline()
        process.kill()
    if not answer:
        raise RuntimeError("a system ended without a score; what it said stands above")
    values: list[float] = json.loads(answer)
    return values


def _start_vllm(folder: Path, arguments: argparse.Namespace) -> float:
    process = VllmProcess(arguments.vllm, folder, arguments.dtype, arguments.threads)
    try:
        return float(process.score_tokens([IDS])[0])
    finally:
        process.close()


def _take_turns(
    systems: dict[str, Callable[[], float]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every round, the first of which may have to compile or to read; and scores."""
    scores: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(1, rounds + 1):
        for name, start in systems.items():
            begin = time.perf_counter()
            scores[name] = start()
            seconds[name].append(time.perf_counter() - begin)
            report_progress(f"round {number} of {rounds}: {name}: {seconds[name][-1]:.2f} s")
    return seconds, scores


def _measure_memory(folder: Path, shape: ModelShape, arguments: argparse.Namespace) -> dict[str, int]:
    starts = range(0, arguments.budget, SEQUENCE_TOKENS)
    lists = [[(start + at) % shape.vocab_size for at in range(SEQUENCE_TOKENS)] for start in starts]
    after_import, peak = map(int, _run(_MEMORY, folder, arguments, lists))
    size = getattr(torch, arguments.dtype).itemsize
    q_width, kv_width = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    layer = shape.hidden_size * (2 * q_width + 2 * kv_width + 3 * shape.intermediate_size)
    # Alive together: q, k and v, what attention makes of them, a layer's input and output, and the float32 residual;
    # and of one block of tokens gate, up and their product.
    token = (2 * q_width + 2 * kv_width + 2 * shape.hidden_size) * size + 4 * shape.hidden_size
    return {
        "budget_tokens": arguments.budget,
        "after_import_torch_bytes": after_import,
        "peak_bytes": peak,
        "weight_bytes": shape.num_layers * layer * size
        + shape.vocab_size * shape.hidden_size * torch.bfloat16.itemsize,
        "activation_bytes": arguments.budget * token + TOKEN_BLOCK * 3 * shape.intermediate_size * size,
    }


def make_checks(
    medians: dict[str, float], scores: dict[str, float], memory: dict[str, int], dtype: str
) -> dict[str, bool]:
    """Each sentence of the verdict, and whether it holds. NaN compares false, so it fails."""
    share = FLOAT32_SCORE_LIMIT if dtype == "float32" else BFLOAT16_SCORE_LIMIT
    difference = max(abs(score - scores[OURS]) for score in scores.values())
    limit = share * abs(scores[TRANSFORMERS])
    grown = memory["peak_bytes"] - memory["after_import_torch_bytes"]
    allowed = 1.15 * memory["weight_bytes"] + memory["activation_bytes"]
    verdict = {
        f"scores are at most {difference:.1e} apart, {limit:.1e} is allowed": difference <= limit,
        f"codescaler's start takes {medians[OURS]:.2f} s, transformers' {medians[TRANSFORMERS]:.2f} s (the aim is "
        f"{TARGET_S} s)": medians[OURS] < medians[TRANSFORMERS],
        f"memory grows by {grown / 1e6:.0f} MB after import torch, {allowed / 1e6:.0f} MB are allowed": grown
        <= allowed,
    }
    if VLLM in medians:
        share = medians[OURS] / medians[VLLM]
        verdict[f"codescaler's start takes {share:.3f} of vLLM's {medians[VLLM]:.1f} s, 0.125 is allowed"] = (
            share < 1 / 8
        )
    return verdict


if __name__ == "__main__":
    sys.exit(main())
