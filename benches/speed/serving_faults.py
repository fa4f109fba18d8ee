"""`codescaler serve` under faults: `python benches serving_faults`.

- flood: one client keeps 64 rows on their way. The p99 of a client of single rows is at most 3 times its p99 alone.
- connections: thousands of new connections in one moment. None is reset, and each has its score.
- memory: many requests, of which a part is refused. The process does not grow after the first tenth.
- restarts: the server is killed, started, ended and started again. verl, OpenRLHF and our client lose no reward.

verl and OpenRLHF are replayed by their rules: what ends a run, how often they try, and how long they wait meanwhile.
Exit status 1 if one of these is not so.
"""

import argparse
import asyncio
import http.client
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benches.harness.options import choose_shape, make_parser, parse_count, report_progress
from benches.harness.results import save
from benches.harness.systems import write_checkpoint
from codescaler.io.tables import format_table
from codescaler.serve.client import Client

CPU = torch.device("cpu")
KEYS = ("key-of-the-client-that-floods", "key-of-the-client-of-single-rows")
ROW_TOKENS = 300
NUM_FLOOD = 64
NUM_SINGLE = 100
P99_LIMIT = 3.0
MEMORY_LIMIT_BYTES = 32 << 20
NUM_RESTART_ROWS = 60
PARTS = ("flood", "connections", "memory", "restarts")


def main(options: Sequence[str] | None = None) -> int:
    """Parses the command line, or `options`, measures, prints, and returns the exit status."""
    parser = make_parser("serving_faults", "codescaler serve under faults.")
    parser.set_defaults(layers=2)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to try")
    parser.add_argument("--requests", type=parse_count, default=100_000, help="requests while memory is watched")
    parser.add_argument("--connections", type=parse_count, default=4000, help="new connections in one moment")
    arguments = parser.parse_args(options)
    shape = choose_shape(arguments)
    values: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="codescaler-serving-") as folder:
        write_checkpoint(Path(folder) / "rm", shape)
        (Path(folder) / "keys").write_text("\n".join(KEYS))
        server = _Server(Path(folder), arguments)
        try:
            for part in arguments.parts:
                report_progress(part)
                values |= _MEASURES[part](server, arguments)
        finally:
            server.end(signal.SIGKILL)
    checks = {name: _CHECKS[name](value) for name, value in values.items() if name in _CHECKS}
    rows = [(name, f"{value:.3f}" if isinstance(value, float) else str(value)) for name, value in values.items()]
    print(format_table(("figure", "value"), rows))
    print("\n".join(f"{'PASS' if passes else 'FAIL'}: {name}" for name, passes in checks.items()))
    if arguments.save:
        save("serving_faults", arguments, shape, CPU, values | {"checks": checks})
    return 0 if all(checks.values()) else 1


class _Server:
    """The command on one port, which can be ended and started again."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._command = [sys.executable, "-m", "codescaler.cli", "serve", str(folder / "rm"), "--served-name", "rm"]
        self._command += ["--device", "cpu", "--dtype", arguments.dtype, "--num-threads", str(arguments.threads)]
        self._command += ["--api-key-file", str(folder / "keys")]
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it listens."""
        self._process = subprocess.Popen([*self._command, "--port", str(self.port)], stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                return
        raise SystemExit("the server did not start")

    def end(self, number: signal.Signals) -> int:
        """Sends a signal, and returns the exit status."""
        self._process.send_signal(number)
        status = self._process.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()
        return status

    def read_bytes(self) -> int:
        """Returns the memory of the process."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) << 10


def _make_row(seed: int, num_tokens: int = ROW_TOKENS) -> bytes:
    draw = random.Random(seed)
    return json.dumps({"model": "rm", "input": [draw.randrange(256) for _ in range(num_tokens)]}).encode()


def _post(port: int, body: bytes, key: str, path: str = "/classify") -> tuple[int, bytes]:
    """Sends a request on a connection of its own, as trainers do."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}", "connection": "close"}
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _measure_flood(server: _Server, arguments: argparse.Namespace) -> dict[str, Any]:
    seeds = iter(range(10**9))
    is_over = threading.Event()

    def post_rows() -> None:
        while not is_over.is_set():
            _post(server.port, _make_row(next(seeds)), KEYS[0])

    def time_singles() -> float:
        seconds = []
        for _ in range(NUM_SINGLE):
            body = _make_row(next(seeds))
            started = time.perf_counter()
            status, _ = _post(server.port, body, KEYS[1])
            assert status == 200
            seconds.append(time.perf_counter() - started)
        return statistics.quantiles(seconds, n=100)[98]

    time_singles()  # warms up
    ratios, alone, flooded = [], [], []
    for _ in range(arguments.rounds):
        is_over.clear()
        alone.append(time_singles())
        with ThreadPoolExecutor(NUM_FLOOD) as pool:
            for _ in range(NUM_FLOOD):
                pool.submit(post_rows)
            flooded.append(time_singles())
            is_over.set()
        ratios.append(flooded[-1] / alone[-1])
    return {
        "p99_ms_alone": 1e3 * statistics.median(alone),
        "p99_ms_beside_a_flood": 1e3 * statistics.median(flooded),
        "p99_ratio": statistics.median(ratios),
    }


def _measure_connections(server: _Server, arguments: argparse.Namespace) -> dict[str, Any]:
    head = (
        f"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEYS[0]}\r\n"
        "Content-Type: application/json\r\nConnection: close\r\nContent-Length: "
    )

    async def post(seed: int) -> str:
        body = _make_row(seed, 8)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
            answer = await reader.read()
            writer.close()
        except OSError as error:
            return type(error).__name__
        return answer[9:12].decode() or "no answer"

    async def post_all() -> list[str]:
        return await asyncio.gather(*(post(seed) for seed in range(arguments.connections)))

    started = time.perf_counter()
    counts = Counter(asyncio.run(post_all()))
    return {
        "connections": arguments.connections,
        "connections_without_a_score": arguments.connections - counts["200"],
        "connections_by_outcome": dict(counts),
        "connections_seconds": time.perf_counter() - started,
    }


def _measure_memory(server: _Server, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows of a few lengths, of which every tenth request is refused: by its body, its key or its model."""
    refused = [(b"{", KEYS[0]), (_make_row(0, 4), "no-key-of-this-server"), (b'{"model":"none","input":"a"}', KEYS[0])]

    def post_some(first: int) -> Counter[int]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
        counts: Counter[int] = Counter()
        for seed in range(first, min(first + 100, arguments.requests)):
            body, key = (_make_row(seed, 4 + seed % 29), KEYS[seed % 2]) if seed % 10 else refused[seed // 10 % 3]
            headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
            connection.request("POST", "/classify", body, headers)
            response = connection.getresponse()
            response.read()
            counts[response.status] += 1
        connection.close()
        return counts

    total: Counter[int] = Counter()
    warm_bytes = 0
    with ThreadPoolExecutor(16) as pool:
        for counts in pool.map(post_some, range(0, arguments.requests, 100)):
            total += counts
            if not warm_bytes and total.total() >= arguments.requests / 10:
                warm_bytes = server.read_bytes()
    return {
        "requests": total.total(),
        "requests_by_status": {str(status): count for status, count in sorted(total.items())},
        "memory_bytes_after_a_tenth": warm_bytes,
        "memory_growth_bytes": server.read_bytes() - warm_bytes,
    }


@dataclass(frozen=True)
class _Retry:
    """When a trainer tries again."""

    is_fatal: Callable[[int], bool]
    num_tries: int
    choose_pause_s: Callable[[int], float]


_RETRIES = {
    "verl": _Retry(lambda status: 400 <= status < 500, 16, lambda number: min(2.0**number, 30.0)),
    "openrlhf": _Retry(lambda _: False, 5, lambda _: 1.0),
}


def _measure_restarts(server: _Server, _: argparse.Namespace) -> dict[str, Any]:
    """The server is killed and started while rows are on their way, then ended by SIGTERM and started again."""
    pairs = [("a problem", f"program {number}") for number in range(NUM_RESTART_ROWS)]

    def post_until(retry: _Retry, number: int) -> bool:
        body = _make_row(number, 50)
        for attempt in range(retry.num_tries):
            try:
                status, _ = _post(server.port, body, KEYS[0])
            except (OSError, http.client.HTTPException):
                status = 0
            if status == 200 or retry.is_fatal(status):
                return status == 200
            time.sleep(retry.choose_pause_s(attempt))
        return False

    def score_one(pair: tuple[str, str]) -> bool:
        with Client(server.url, model="rm", api_key=KEYS[1]) as client:
            return len(client.score([pair])) == 1

    lost: dict[str, int] = {}
    gone_s = []
    statuses = []
    for number in (signal.SIGKILL, signal.SIGTERM):
        with ThreadPoolExecutor(24) as pool:
            posted = {
                name: [pool.submit(post_until, retry, row) for row in range(NUM_RESTART_ROWS)]
                for name, retry in _RETRIES.items()
            }
            posted["client"] = [pool.submit(score_one, pair) for pair in pairs]
            while not posted["verl"][0].done():
                time.sleep(0.001)
            started = time.perf_counter()
            statuses.append(server.end(number))
            server.start()
            gone_s.append(time.perf_counter() - started)
        for name, futures in posted.items():
            lost[name] = lost.get(name, 0) + sum(not future.result() for future in futures)
    return {
        "rewards": 2 * 3 * NUM_RESTART_ROWS,
        "rewards_lost": sum(lost.values()),
        "rewards_lost_by_client": lost,
        "restart_seconds": gone_s,
        "exit_status_of_sigterm": statuses[1],
    }


_MEASURES = {
    "flood": _measure_flood,
    "connections": _measure_connections,
    "memory": _measure_memory,
    "restarts": _measure_restarts,
}
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "p99_ratio": lambda value: value <= P99_LIMIT,
    "connections_without_a_score": lambda value: value == 0,
    "memory_growth_bytes": lambda value: value <= MEMORY_LIMIT_BYTES,
    "rewards_lost": lambda value: value == 0,
    "exit_status_of_sigterm": lambda value: value == 0,
}


if __name__ == "__main__":
    sys.exit(main())
