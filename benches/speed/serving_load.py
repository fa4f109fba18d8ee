"""What `python benches serving` sends to a server: rows as trainers send them, alone, slowly, or all at once."""

import random
import statistics
import string
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benches.harness.http_load import count_failures, post_all
from benches.harness.options import report_progress
from benches.harness.servers import Server
from codescaler.engine import Engine
from codescaler.engine.scheduler import Float32, TokenCounter


@dataclass(frozen=True)
class Load:
    """How much is sent."""

    num_problems: int = 16
    num_programs: int = 8
    problem_letters: int = 256
    program_letters: tuple[int, int] = (60, 340)
    num_connections: int = 64
    num_lone_rows: int = 20
    arrival_s: float = 30.0
    num_crowd: int = 4000

    def draw_rows(self, seed: int) -> list[tuple[str, str]]:
        """Returns shuffled problems with programs. The checkpoint's tokenizer makes a token of each letter."""
        draw = random.Random(seed)
        rows = []
        for _ in range(self.num_problems):
            problem = "".join(draw.choices(string.ascii_lowercase, k=self.problem_letters))
            for _ in range(self.num_programs):
                letters = draw.choices(string.ascii_lowercase, k=draw.randint(*self.program_letters))
                rows.append((problem, "".join(letters)))
        draw.shuffle(rows)
        return rows


class Turn(NamedTuple):
    """What one system did with the rows of a round. `num_tokens` it computed, if known; of the call, the distinct."""

    scores: Float32
    latencies: Sequence[float]
    seconds: float
    cpu_s: float
    num_tokens: int = 0


def render(engine: Engine, row: tuple[str, str]) -> str:
    """The text of a row's conversation, as a trainer sends it."""
    problem, program = row
    return engine.encoder.chat.render([{"role": "user", "content": problem}, {"role": "assistant", "content": program}])


def score_texts(server: Server, texts: Sequence[str], num_connections: int, starts: Sequence[float] = ()) -> Turn:
    bodies = [server.make_body(text) for text in texts]
    started = time.perf_counter()
    answers = post_all(server.port, server.dialect.path, bodies, num_connections, starts)
    seconds = time.perf_counter() - started
    scores = np.array([server.find_score(answer.body) for answer in answers], np.float32)
    return Turn(scores, [answer.seconds for answer in answers], seconds, 0.0)


def count_distinct(engine: Engine, texts: Sequence[str]) -> int:
    """Returns the tokens of the prefix tree of texts: the fewest that can be computed."""
    tree = TokenCounter()
    encoded = engine.encoder.encode_texts(texts, [str(index) for index in range(len(texts))])
    assert tree.add(encoded.sequences, sys.maxsize)
    return tree.num_tokens


def summarize(seconds: Sequence[float]) -> dict[str, float]:
    """The latencies that a table shows."""
    ordered = sorted(seconds)
    return {"p50_s": statistics.median(ordered), "p99_s": ordered[int(0.99 * (len(ordered) - 1))]}


def time_lone_client(engine: Engine, server: Server, load: Load) -> dict[str, float]:
    """One row at a time, each on a new connection, beside the engine's own time for the row."""
    seconds: dict[str, list[float]] = {"engine": [], "server": []}
    for number in range(load.num_lone_rows):
        row = load.draw_rows(1000 + number)[0]
        started = time.perf_counter()
        engine.score([row])
        seconds["engine"].append(time.perf_counter() - started)
        seconds["server"] += score_texts(server, [render(engine, row)], 1).latencies
    report_progress("a lone client")
    return {f"{name}_p50_s": statistics.median(values) for name, values in seconds.items()}


def send_slowly(engine: Engine, server: Server, load: Load) -> dict[str, float]:
    """The rows of one round come evenly over a time, as RL samples do."""
    texts = [render(engine, row) for row in load.draw_rows(2000)]
    starts = [load.arrival_s * index / len(texts) for index in range(len(texts))]
    counters = ("distinct_tokens", "forward_seconds")
    before = [server.read_counter(name) for name in counters]
    latencies = score_texts(server, texts, len(texts), starts).latencies
    grown = [server.read_counter(name) - value for name, value in zip(counters, before, strict=True)]
    report_progress(f"rows over {load.arrival_s:g} s")
    return {
        "arrival_s": load.arrival_s,
        "distinct_tokens": count_distinct(engine, texts),
        "computed_tokens": grown[0],
        "forward_s": grown[1],
        **summarize(latencies),
    }


def send_at_once(server: Server, load: Load) -> dict[str, int]:
    """Rows of a few tokens on as many connections in one moment."""
    bodies = [server.make_body(f"row {index}") for index in range(load.num_crowd)]
    failures = count_failures(server.port, server.dialect.path, bodies)
    report_progress(f"{load.num_crowd} connections in one moment: {failures} without a score")
    return {"num_connections": load.num_crowd, "num_failures": failures}
