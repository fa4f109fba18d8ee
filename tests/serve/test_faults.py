"""Clients that break off, rows that no model takes, clocks that jump, servers that end: nobody else loses a score."""

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import codescaler.serve
from codescaler.serve.client import Client
from codescaler.serve.models import MAX_CHARS_PER_TOKEN

from .conftest import Gate, make_head, open_socket, post_later, send, serve, wait_until


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/classify", {"input": "a " * (5 << 20)}),
        ("/classify", {"messages": [{"role": "user", "content": "a" * (10 << 20)}]}),
        ("/score", {"text_1": "a", "text_2": "b" * (10 << 20)}),
        ("/v1/programs", {"items": [{"problem": "a", "candidates": ["b" * (10 << 20)]}]}),
        ("/score", {"text_1": "q" * 30_000, "text_2": ["a"] * 4096}),  # a small body, and 120 MB of rows
    ],
)
def test_rows_that_no_model_takes_are_refused_unread(server, engine, monkeypatch, path, body):
    """To tokenize ten megabytes takes half a minute and a gigabyte."""
    monkeypatch.setattr(type(engine.encoder), "_encode", lambda *_: pytest.fail("a row was read"))
    status, _, answer = send(server.url + path, body)
    assert (status, answer["error"]["code"]) == (400, "too_long")
    assert send(server.url + "/health/live")[0] == 200


def test_a_row_of_the_largest_size_is_read(server, engine):
    text = "a" * (MAX_CHARS_PER_TOKEN * engine.max_length)
    assert "more than max_length" in send(server.url + "/classify", {"input": text})[2]["error"]["message"]
    assert send(server.url + "/classify", {"input": text + "a"})[2]["error"]["code"] == "too_long"


def test_texts_that_are_no_texts_fail_alone(server):
    deep = b'{"messages":[{"role":"user","content":' + b'[{"a":' * 400 + b"1" + b"}]" * 400 + b"}]}"
    bodies = [
        b'{"input":"\\ud800"}',
        b'{"input":"\xff"}',
        b'{"input":"a',
        deep,
        b'{"input":"\\u0000\\u202e"}',
        b"[]",
        b"null",
    ]
    good = json.dumps({"input": "fine"}).encode()
    with ThreadPoolExecutor(8) as pool:
        statuses = [answer[0] for answer in pool.map(lambda b: send(server.url + "/classify", b), [*bodies, good])]
    assert statuses == [400, 400, 400, 400, 200, 400, 400, 200]


def test_too_many_tokens_are_refused(server, monkeypatch):
    monkeypatch.setattr("codescaler.serve.service.MAX_TOKENS", 10)
    status, _, answer = send(server.url + "/classify", {"input": ["abcdef", "abcdef"]})
    assert (status, answer["error"]["code"]) == (400, "too_many_tokens")


def test_bodies_that_wait_are_bounded(server, engine, monkeypatch):
    monkeypatch.setattr(server.service._bodies, "limit", 1 << 16)
    with Gate(engine) as gate:
        first, scored = post_later(server, {"input": "first"})
        assert gate.entered.wait(10)
        status, headers, answer = send(server.url + "/classify", {"input": "one more"})
        assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "too_many_bytes", "1")
        gate.open()
        first.join()
    assert scored[0][0] == 200 and server.service._bodies.num_held == 0


def test_a_client_that_dies_with_500_rows_costs_nothing(server, engine):
    """Its process is killed, so that only the kernel says goodbye."""
    rows = json.dumps({"input": [[1 + i % 200, 2, 3] for i in range(500)]}).encode()
    code = (
        "import socket, sys, time\n"
        f"connections = [socket.create_connection(('127.0.0.1', {server.url.rpartition(':')[2]})) for _ in range(4)]\n"
        "data = sys.stdin.buffer.read()\n"
        "[connection.sendall(data) for connection in connections]\n"
        "time.sleep(60)\n"
    )
    with Gate(engine) as gate:
        first, scored = post_later(server, {"input": "first"})
        assert gate.entered.wait(10)
        before = engine.num_tokens
        client = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
        client.stdin.write(make_head(len(rows)) + rows)
        client.stdin.close()
        wait_until(lambda: len(engine.scheduler) >= 4)
        client.kill()
        client.wait()
        wait_until(lambda: all(request.future.cancelled() for request in engine.scheduler._waiting))
        gate.open()
        first.join()
    assert scored[0][0] == send(server.url + "/classify", {"input": "next"})[0] == 200
    assert engine.num_tokens - before < 20
    wait_until(lambda: server.service.num_waiting_tokens == server.service._bodies.num_held == 0)


def test_nobody_encodes_for_a_client_that_has_left(server, engine, monkeypatch):
    model = server.service.models.models[0]
    encode, parts, go_on = type(model).encode, [], threading.Event()

    def wait(self, rows, first=0):
        parts.append(first)
        assert go_on.wait(30)
        return encode(self, rows, first)

    monkeypatch.setattr(type(model), "encode", wait)
    body = json.dumps({"input": [[1, 2]] * 4000}).encode()
    with open_socket(server) as leaver:
        leaver.sendall(make_head(len(body)) + body)
        wait_until(lambda: parts)
    wait_until(lambda: server.service._bodies.num_held == 0)
    go_on.set()
    monkeypatch.undo()
    assert send(server.url + "/classify", {"input": "next"})[0] == 200
    assert parts == [0]


def test_clocks_are_monotonic():
    """A step of the clock moves no deadline: the time of day only stamps an answer."""
    uses = []
    for path in Path(codescaler.serve.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns"):
                uses.append(path.name)
            assert not (isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"))
    assert uses == ["job.py"]


@pytest.mark.parametrize("step_s", [-1e9, 1e9])
def test_a_step_of_the_clock_moves_no_deadline(server, engine, monkeypatch, step_s):
    with Gate(engine) as gate:
        first, scored = post_later(server, {"input": "a"}, {"X-Request-Timeout-Ms": "20000"})
        assert gate.entered.wait(10)
        now = time.time() + step_s
        monkeypatch.setattr(time, "time", lambda: now)
        gate.open()
        first.join()
    assert scored[0][0] == 200


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_order_of_arrival_gives_the_same_bits(server, engine, data):
    """Over HTTP: any rows, in any order and grouping, at the same time, with deadlines of others between them."""
    rows = [[7] * 70 + [1 + i] for i in range(6)] + [[8] * 70 + [1 + i, 9] for i in range(6)] + [[5], [5, 6]]
    order = data.draw(st.permutations(rows))
    size = data.draw(st.integers(1, 5))
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    expected = {tuple(row): score for row, score in zip(rows, engine.score_tokens(rows).tolist(), strict=True)}

    def post(part):
        answer = send(server.url + "/classify", {"input": part})[2]
        return [entry["probs"][0] for entry in answer["data"]]

    with ThreadPoolExecutor(data.draw(st.integers(1, 8))) as pool:
        for part, scores in zip(parts, pool.map(post, parts), strict=True):
            assert scores == [expected[tuple(row)] for row in part]


def start(folder, port):
    command = [sys.executable, "-m", "codescaler.cli", "serve", str(folder), "--dtype", "float32", "--port", str(port)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


def post_as_verl(url, row):
    """Returns a score by verl's rules: 4xx ends the run, all else is tried 16 times with a growing pause."""
    for attempt in range(16):
        try:
            status, _, answer = send(url + "/classify", {"input": row})
        except OSError:
            status = 0
        assert not 400 <= status < 500, "the run has ended"
        if status == 200:
            return answer["data"][-1]["probs"][-1]
        time.sleep(min(2**attempt, 30) * 0.1)  # a tenth of its pause
    raise AssertionError("verl has given up")


def score_one_by_one(url, pairs):
    with Client(url) as client:
        return [client.score([pair])[0] for pair in pairs]


def test_no_reward_is_lost_when_the_server_is_killed(folder, engine):
    """SIGKILL under our client and under verl's rules, then SIGTERM: the answers are those of an undisturbed server."""
    with serve((engine, ("tiny",))) as running:
        port = int(running.url.rpartition(":")[2])
    rows = [f"row {i}" for i in range(40)]
    encoded = engine.encoder.encode_texts(rows, rows).sequences
    expected = engine.score_tokens([ids.tolist() for ids in encoded]).tolist()
    messages = [("problem", row) for row in rows]
    url = f"http://127.0.0.1:{port}"
    server = start(folder, port)
    try:
        with ThreadPoolExecutor(9) as pool:
            verls = [pool.submit(post_as_verl, url, row) for row in rows]
            ours = pool.submit(score_one_by_one, url, messages)
            wait_until(lambda: any(future.done() for future in verls), 60)
            server.kill()
            server.wait()
            server = start(folder, port)
            assert [future.result(120) for future in verls] == expected
            assert ours.result(120) == engine.score(messages).tolist()
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()
