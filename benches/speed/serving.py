"""`codescaler serve` beside one call of an engine, and beside vLLM's and OpenRLHF's servers: `python benches serving`.

16 problems with 8 programs each, shuffled, one POST each on a new connection as trainers send them, 64 at a time, with
fresh texts in each round. All systems take turns within a round, and who does not have the turn is stopped. OpenRLHF's
server computes one row at a time, so it gets an eighth of the rows. Then for our server alone: a lone client; the rows
of a round that arrive over 30 seconds, with and without prefix memory; 4,000 connections in one moment. Exit status 1
if a score has other bits, if more than 1.1 times the distinct tokens are computed, or if a connection gets no score. A
target of speed that is missed is only shown.
"""

import argparse
import contextlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benches.harness.options import choose_shape, make_parser, report_progress
from benches.harness.results import save
from benches.harness.servers import Server, start_codescaler, start_openrlhf, start_vllm
from benches.harness.systems import write_checkpoint
from benches.speed.serving_load import (
    Load,
    Turn,
    count_distinct,
    render,
    score_texts,
    send_at_once,
    send_slowly,
    summarize,
    time_lone_client,
)
from benches.speed.serving_table import CALL, OPENRLHF, OURS, VLLM, Line, list_lines
from codescaler.engine import Engine
from codescaler.io.tables import format_table
from codescaler.testing import QWEN3_0_6B

CPU = torch.device("cpu")
DEFAULT_LAYERS = 8


FULL = Load()
SMALL = Load(4, 4, 80, (5, 30), 8, 3, 0.5, 100)
SMALL_SHAPE = replace(QWEN3_0_6B, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2, num_kv_heads=1)


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    parser = make_parser("serving", "codescaler serve beside one call of an engine, and beside other servers.")
    parser.add_argument("--vllm", type=Path, help="interpreter of an environment that has vLLM")
    parser.add_argument("--openrlhf", type=Path, help="interpreter of an environment that has OpenRLHF")
    parser.add_argument("--small", action="store_true", help="a tiny model and little load, in seconds")
    parser.set_defaults(layers=DEFAULT_LAYERS)
    arguments = parser.parse_args(options)
    load = SMALL if arguments.small else FULL
    shape = SMALL_SHAPE if arguments.small else choose_shape(arguments)
    _raise_file_limit(load.num_crowd + 100)
    with tempfile.TemporaryDirectory(prefix="codescaler-serving-") as folder:
        write_checkpoint(Path(folder), shape)
        figures = _measure(Path(folder), load, arguments)
    lines = list(list_lines(figures))
    print(f"{shape.num_layers} layers, {arguments.dtype}, {arguments.threads} threads; {arguments.rounds} rounds\n")
    print(format_table(("figure", "must reach", "aim", "measured", ""), map(_format_line, lines)))
    if arguments.save:
        save("serving", arguments, shape, CPU, figures)
    return 1 if any(line.passes is False and not line.is_speed for line in lines) else 0


def _format_line(line: Line) -> tuple[str, ...]:
    verdict = "" if line.passes is None else "PASS" if line.passes else "FAIL"
    return line.figure, line.must, line.aim, line.measured, verdict


def _raise_file_limit(num_files: int) -> None:
    """Raises the limit of open files, which the servers inherit."""
    limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, min(hard_limit, num_files)), hard_limit))


def _measure(folder: Path, load: Load, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = folder, arguments.dtype, arguments.threads
    engine = Engine.from_pretrained(
        folder, device="cpu", dtype=arguments.dtype, num_threads=arguments.threads, prefix_memory_bytes=0
    )
    servers: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str, start_server: Callable[..., Server], *settings: Any) -> Server:
            server = start_server(*settings)
            stack.callback(server.close)
            report_progress(f"{name} answers after {server.start_s:.0f} s")
            server.stop()
            return server

        for name, python, start_peer in (
            (VLLM, arguments.vllm, start_vllm),
            (OPENRLHF, arguments.openrlhf, start_openrlhf),
        ):
            with _leave_out(name):
                if python:
                    servers[name] = start(name, start_peer, python, *settings)
        servers[OURS] = ours = start(OURS, start_codescaler, *settings)
        figures = _take_turns(engine, servers, load, arguments.rounds)
        with ours.turn():
            figures["lone"] = time_lone_client(engine, ours, load)
            figures["trickle"] = {"with prefix memory": send_slowly(engine, ours, load)}
        for name, server in servers.items():
            figures["systems"][name] |= {"peak_bytes": server.measure_peak_bytes(), "start_s": server.start_s}
        with ours.turn():
            figures["crowd"] = send_at_once(ours, load)
        forgetful = start("without prefix memory", start_codescaler, *settings, "--prefix-memory-bytes", "0")
        with forgetful.turn():
            figures["trickle"]["without"] = send_slowly(engine, forgetful, load)
    return figures


@contextlib.contextmanager
def _leave_out(name: str) -> Iterator[None]:
    """Goes on without a peer that fails: the other figures took minutes."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        report_progress(f"{name} is left out: {error}")


def _take_turns(engine: Engine, servers: dict[str, Server], load: Load, rounds: int) -> dict[str, Any]:
    """Has the engine and every server score the rows of each round, after a quarter of a round to warm up.

    A peer that fails is taken out of `servers`.
    """
    first = load.draw_rows(0)
    _run_round(engine, servers, first[: len(first) // 4], load)
    turns = []
    for number in range(1, rounds + 1):
        turns.append(_run_round(engine, servers, load.draw_rows(number), load))
        shown = ", ".join(f"{name} {len(turn.scores) / turn.seconds:.1f}" for name, turn in turns[-1].items())
        report_progress(f"round {number} of {rounds}, rows/s: {shown}")
    pairs = [(turn[OURS], turn[CALL]) for turn in turns]
    return {
        "num_rows": load.num_problems * load.num_programs,
        "num_connections": load.num_connections,
        "systems": {name: _describe(name, turns) for name in (CALL, *servers)},
        "tokens": {
            "computed": sum(ours.num_tokens for ours, _ in pairs),
            "distinct": sum(call.num_tokens for _, call in pairs),
        },
        "has_same_bits": all(np.array_equal(ours.scores, call.scores) for ours, call in pairs),
        "score_deviation": float(turns[-1][CALL].scores.std()),
    }


def _run_round(
    engine: Engine, servers: dict[str, Server], rows: Sequence[tuple[str, str]], load: Load
) -> dict[str, Turn]:
    texts = [render(engine, row) for row in rows]
    started, cpu_s = time.perf_counter(), time.process_time()
    scores = engine.score(rows)
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
    turns = {CALL: Turn(scores, [], seconds, cpu_s, count_distinct(engine, texts))}
    for name, server in list(servers.items()):
        with contextlib.nullcontext() if name == OURS else _leave_out(name), server.turn():
            sent = texts[: max(len(texts) // 8, 1)] if name == OPENRLHF else texts
            cpu_s, num_tokens = server.measure_cpu_s(), _count_computed(name, server)
            turn = score_texts(server, sent, load.num_connections)
            turns[name] = turn._replace(
                cpu_s=server.measure_cpu_s() - cpu_s, num_tokens=_count_computed(name, server) - num_tokens
            )
        if name not in turns:
            del servers[name]
    return turns


def _count_computed(name: str, server: Server) -> int:
    return int(server.read_counter("distinct_tokens")) if name == OURS else 0


def _describe(name: str, turns: Sequence[dict[str, Turn]]) -> dict[str, Any]:
    """The figures of one system over all rounds."""
    own = [turn[name] for turn in turns]
    figures: dict[str, Any] = {
        "rows_per_s": [len(turn.scores) / turn.seconds for turn in own],
        "cpu_s_per_row": [turn.cpu_s / len(turn.scores) for turn in own],
    }
    if name == CALL:
        return figures
    differences = (np.abs(turn[name].scores - turn[CALL].scores[: len(turn[name].scores)]).max() for turn in turns)
    latencies = [seconds for turn in own for seconds in turn.latencies]
    return figures | summarize(latencies) | {"largest_difference": float(max(differences))}


if __name__ == "__main__":
    sys.exit(main())
