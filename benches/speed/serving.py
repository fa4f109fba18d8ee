"""`codescaler serve` beside one call of an engine with all rows: `python benches serving`.

16 problems with 8 programs each, shuffled, one POST each on a new connection as trainers send them, many at a time. An
engine in this process scores the same rows in one call. The two take turns, with fresh texts in each round. Then a lone
client sends one row at a time. Exit status 1 if a score has other bits, or if the server computes more than 1.1 times
the distinct tokens of the rows.
"""

import argparse
import http.client
import json
import random
import re
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benches.harness.options import choose_shape, make_parser, report_progress
from benches.harness.results import save
from benches.harness.systems import write_checkpoint
from codescaler.engine import Engine
from codescaler.io.tables import format_table
from codescaler.serve.client import Client

CPU = torch.device("cpu")
NUM_PROBLEMS, NUM_PROGRAMS = 16, 8
PROBLEM_TOKENS, PROGRAM_TOKENS = 256, (60, 340)
NUM_CONNECTIONS = 64
NUM_LONE_ROWS = 20
TOKEN_LIMIT = 1.1


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    arguments = _make_parser().parse_args(options)
    shape = choose_shape(arguments)
    with tempfile.TemporaryDirectory(prefix="codescaler-serving-") as folder:
        write_checkpoint(Path(folder), shape)
        settings = {"dtype": arguments.dtype, "num_threads": arguments.threads}
        engine = Engine.from_pretrained(folder, device="cpu", prefix_memory_bytes=0, **settings)
        server, port = _start_server(folder, arguments)
        try:
            values = _measure(engine, port, arguments.rounds)
        finally:
            server.terminate()
            server.wait()
    rows = [(name, f"{value:.3f}" if isinstance(value, float) else str(value)) for name, value in values.items()]
    print(f"{shape.num_layers} layers, {arguments.dtype}, {arguments.threads} threads; {arguments.rounds} rounds\n")
    print(format_table(("figure", "value"), rows))
    passes = bool(values["has_same_bits"]) and float(values["tokens_computed_of_distinct"]) <= TOKEN_LIMIT
    print(f"\n{'PASS' if passes else 'FAIL'}: the same bits, and at most {TOKEN_LIMIT} times the distinct tokens")
    if arguments.save:
        save("serving", arguments, shape, CPU, values)
    return 0 if passes else 1


def _make_parser() -> argparse.ArgumentParser:
    return make_parser("serving", "codescaler serve beside one call of an engine with the same rows.")


def _start_server(folder: str, arguments: argparse.Namespace) -> tuple["subprocess.Popen[str]", int]:
    """Starts the command on a free port and returns the process and the port."""
    command = [sys.executable, "-m", "codescaler.cli", "serve", folder, "--served-name", "rm", "--port", "0"]
    command += ["--device", "cpu", "--dtype", arguments.dtype, "--num-threads", str(arguments.threads)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
            return server, int(found[1])
    raise SystemExit("the server did not start")


def _measure(engine: Engine, port: int, rounds: int) -> dict[str, float | int | bool]:
    seconds: dict[str, list[float]] = {"engine": [], "server": []}
    tokens: dict[str, int] = {"engine": 0, "server": 0}
    is_same = True
    for number in range(rounds + 1):
        rows = _write_rows(number)
        before = engine.num_distinct_tokens, _read_metric(port, "distinct_tokens")
        started = time.perf_counter()
        expected = engine.score(rows)
        middle = time.perf_counter()
        scores = _post_all(port, rows)
        ended = time.perf_counter()
        is_same &= np.array_equal(np.array(scores, np.float32), expected)
        if number:  # the first round warms up
            seconds["engine"].append(middle - started)
            seconds["server"].append(ended - middle)
            tokens["engine"] += engine.num_distinct_tokens - before[0]
            tokens["server"] += _read_metric(port, "distinct_tokens") - before[1]
        report_progress(f"round {number} of {rounds}: {middle - started:.2f} s, {ended - middle:.2f} s")
    ratio = statistics.median(map(float.__truediv__, seconds["engine"], seconds["server"]))
    lone = _time_lone_client(engine, port)
    return {
        "rows": NUM_PROBLEMS * NUM_PROGRAMS,
        "rows_per_s_of_server": NUM_PROBLEMS * NUM_PROGRAMS / statistics.median(seconds["server"]),
        "rows_per_s_of_one_call": NUM_PROBLEMS * NUM_PROGRAMS / statistics.median(seconds["engine"]),
        "speed_beside_one_call": ratio,
        "tokens_computed_of_distinct": tokens["server"] / tokens["engine"],
        "lone_ms_of_server": 1e3 * statistics.median(lone["server"]),
        "lone_ms_of_engine": 1e3 * statistics.median(lone["engine"]),
        "has_same_bits": is_same,
    }


def _write_rows(seed: int) -> list[tuple[str, str]]:
    """Texts: the checkpoint's tokenizer makes a token of each letter."""
    draw = random.Random(seed)
    rows = []
    for _ in range(NUM_PROBLEMS):
        problem = "".join(draw.choices(string.ascii_lowercase, k=PROBLEM_TOKENS))
        for _ in range(NUM_PROGRAMS):
            rows.append((problem, "".join(draw.choices(string.ascii_lowercase, k=draw.randint(*PROGRAM_TOKENS)))))
    draw.shuffle(rows)
    return rows


def _post_all(port: int, rows: Sequence[tuple[str, str]]) -> list[float]:
    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        return list(pool.map(lambda row: _post(port, row), rows))


def _post(port: int, row: tuple[str, str]) -> float:
    """Sends one row as trainers do, on a connection of its own."""
    messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), row, strict=True)]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    body = json.dumps({"model": "rm", "messages": messages})
    connection.request("POST", "/classify", body, {"content-type": "application/json", "connection": "close"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return float(answer["data"][0]["probs"][0])


def _read_metric(port: int, name: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(rf"^codescaler_{name}_total\{{.*\}} (.+)$", text, re.MULTILINE)
    assert found is not None, text
    return int(float(found[1]))


def _time_lone_client(engine: Engine, port: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"engine": [], "server": []}
    with Client(f"http://127.0.0.1:{port}", model="rm") as client:
        for number in range(NUM_LONE_ROWS):
            (row, *_) = _write_rows(1000 + number)
            for name, score in (("engine", engine.score), ("server", client.score)):
                started = time.perf_counter()
                score([row])
                seconds[name].append(time.perf_counter() - started)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
