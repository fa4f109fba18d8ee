"""Concurrent callers of one engine beside one call with the same pairs: `python benches scheduler`.

16 callers with one program each of one problem (threads, and tasks of an event loop): how many tokens are computed.
64 threads with a problem each: how long it takes. One caller alone: how long a call takes beside the same forward
without a queue. Systems take turns for a number of rounds, each with texts of its own. Exit status 1 if callers get
other bits than one call gives, or compute more than 1.2 times its tokens.
"""

import argparse
import asyncio
import random
import statistics
import string
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benches.harness.options import choose_shape, make_parser, report_progress
from benches.harness.results import save
from benches.harness.systems import write_checkpoint
from benches.speed.compare import Float32
from codescaler.engine import Engine, worker
from codescaler.engine.scheduler import Request
from codescaler.io.tables import format_table
from codescaler.testing import WORKLOADS, Workload, measure_seconds
from codescaler.text.program import Pair

CPU = torch.device("cpu")
TOKEN_LIMIT = 1.2
NUM_PROBLEMS = 64
OWN_PROBLEM = Workload(80, (120,))  # short, so that what a call costs besides its forward shows

Score = Callable[[Sequence[Pair]], Float32]


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args(options)
    shape = choose_shape(arguments)
    with tempfile.TemporaryDirectory(prefix="codescaler-scheduler-") as folder:
        write_checkpoint(Path(folder), shape)
        options = {"dtype": arguments.dtype, "num_threads": arguments.threads}
        engine = Engine.from_pretrained(folder, device="cpu", prefix_memory_bytes=0, **options)
        callers = {
            "one call": engine.score,
            "threads": partial(_score_in_threads, engine),
            "asyncio": lambda pairs: asyncio.run(_score_in_tasks(engine, pairs)),
        }
        tokens, is_same = _count_tokens(engine, callers, arguments.rounds)
        del callers["asyncio"]
        seconds = _time_callers(callers, arguments.rounds)
        alone = _time_lone_caller(engine, arguments.rounds)
    ratios = {name: max(counts) / tokens["one call"][0] for name, counts in tokens.items()}
    print(f"{shape.num_layers} layers, {arguments.dtype}, {arguments.threads} threads; {arguments.rounds} rounds\n")
    print(
        format_table(
            ("figure", "callers", "one call", "concurrent", "ratio"), _make_rows(tokens, ratios, seconds, alone)
        )
    )
    passes = is_same and max(ratios.values()) <= TOKEN_LIMIT
    verdict = f"{'the same' if is_same else 'other'} bits, at most {max(ratios.values()):.2f} times the tokens"
    print(f"\n{'PASS' if passes else 'FAIL'}: {verdict} of one call (limit {TOKEN_LIMIT})")
    if arguments.save:
        values = {"tokens": tokens, "token_ratio": ratios, "seconds_of_64": seconds, "seconds_of_single": alone}
        save(
            "scheduler",
            arguments,
            shape,
            CPU,
            values | {"ratios": _time_ratios(seconds, alone), "has_same_bits": is_same},
        )
    return 0 if passes else 1


def _make_parser() -> argparse.ArgumentParser:
    return make_parser("scheduler", "Concurrent callers of one engine beside one call with the same pairs.")


def _make_rows(tokens, ratios, seconds, alone):
    for name in list(tokens)[1:]:
        yield "tokens, bon16", f"16, {name}", str(tokens["one call"][0]), str(max(tokens[name])), f"{ratios[name]:.2f}x"
    times = _time_ratios(seconds, alone)
    medians = {name: f"{statistics.median(values):.4f}" for name, values in (seconds | alone).items()}
    yield "seconds", f"{NUM_PROBLEMS}, threads", medians["one call"], medians["threads"], f"{times['threads']:.3f}x"
    yield "seconds, single", "1, without a queue", medians["no queue"], medians["queue"], f"{times['queue']:.3f}x"


def _time_ratios(seconds, alone):
    """Medians of the ratios within a round: what slows the machine slows both."""
    pairs = {"threads": (seconds["threads"], seconds["one call"]), "queue": (alone["queue"], alone["no queue"])}
    return {name: statistics.median(map(float.__truediv__, *both)) for name, both in pairs.items()}


def _write_pairs(workload: Workload, seed: int) -> list[Pair]:
    """Texts of a workload's lengths: the checkpoint's tokenizer makes a token of each letter."""
    draw = random.Random(seed).choices
    problem = "".join(draw(string.ascii_lowercase, k=workload.prompt_length))
    return [(problem, "".join(draw(string.ascii_lowercase, k=length))) for length in workload.candidate_lengths]


def _score_in_threads(engine: Engine, pairs: Sequence[Pair]) -> Float32:
    scores = np.empty(len(pairs), np.float32)

    def score(index: int) -> None:
        scores[index] = engine.score([pairs[index]])[0]

    threads = [threading.Thread(target=score, args=(index,)) for index in range(len(pairs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return scores


async def _score_in_tasks(engine: Engine, pairs: Sequence[Pair]) -> Float32:
    return np.concatenate(await asyncio.gather(*(engine.score_async([pair]) for pair in pairs)))


def _count_tokens(engine: Engine, callers: dict[str, Score], rounds: int) -> tuple[dict[str, list[int]], bool]:
    """Tokens that each way to call computes in each round, and whether all gave the same bits."""
    tokens, is_same = {name: [] for name in callers}, True
    for number in range(rounds):
        pairs, bits = _write_pairs(WORKLOADS["bon16"], number), set()
        for name, score in callers.items():
            before = engine.num_distinct_tokens
            bits.add(score(pairs).tobytes())
            tokens[name].append(engine.num_distinct_tokens - before)
        report_progress(f"tokens, round {number + 1} of {rounds}: {[counts[-1] for counts in tokens.values()]}")
        is_same &= len(bits) == 1
    return tokens, is_same


def _time_callers(callers: dict[str, Score], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in callers}
    for number in range(rounds + 1):
        pairs = [pair for i in range(NUM_PROBLEMS) for pair in _write_pairs(OWN_PROBLEM, number * NUM_PROBLEMS + i)]
        for name, score in callers.items():
            took = measure_seconds(lambda: score(pairs), CPU)  # noqa: B023
            seconds[name] += [took] if number else []
        report_progress(f"seconds, round {number} of {rounds}" + " (warm-up)" * (not number))
    return seconds


def _time_lone_caller(engine: Engine, rounds: int) -> dict[str, list[float]]:
    """A call, and the same encoding and forward handed to the worker at once."""
    (tokens,) = ([token % 256 for token in sequence] for sequence in WORKLOADS["single"].draw_sequences())

    def call_without_queue() -> None:
        request = Request(engine._intake._encoder.encode_tokens([tokens]).sequences)
        worker.submit(engine.num_threads, lambda: engine._runner([request])).result()

    seconds: dict[str, list[float]] = {"no queue": [], "queue": []}
    for number in range(10 * rounds + 1):
        for name, call in (("no queue", call_without_queue), ("queue", lambda: engine.score_tokens([tokens]))):
            took = measure_seconds(call, CPU)
            seconds[name] += [took] if number else []
    return seconds


if __name__ == "__main__":
    sys.exit(main())
