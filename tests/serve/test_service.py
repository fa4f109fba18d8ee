"""The queue behind the routes: same bits in any order of arrival, fairness, deadlines, limits, clients that leave."""

import asyncio
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codescaler.engine.scheduler import Request
from codescaler.serve.client import Client
from codescaler.serve.fairness import FairSelect
from codescaler.serve.holding import Holding
from codescaler.serve.job import Job
from codescaler.serve.refusal import Refusal

from .conftest import send, serve


def make_rows(num_problems=4, num_candidates=6):
    return [
        (f"Problem {problem}: " + "add two numbers. " * 6, f"def f(a, b):\n    return a + {candidate}")
        for problem in range(num_problems)
        for candidate in range(num_candidates)
    ]


def test_scores_have_the_same_bits_in_any_order_of_arrival(server, engine):
    rows = make_rows()
    expected = dict(zip(rows, engine.score(rows).tolist(), strict=True))
    for seed in range(3):
        order = random.Random(seed).sample(rows, len(rows))

        def score(row):
            with Client(server.url) as client:
                return client.score([row])[0]

        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(score, order)) == [expected[row] for row in order]


def make_request(client, tokens):
    return Request([np.array(tokens, dtype=np.int32)], client=client)


def test_a_client_that_floods_leaves_half_of_every_turn_to_another():
    flood = [make_request("a", [1000 + i] * 100) for i in range(50)]
    others = [make_request("b", [5000 + i] * 100) for i in range(50)]
    select = FairSelect(lambda: 1e6)
    waiting = [*flood, *others]
    for _ in range(4):
        chosen = select(waiting, 1000)
        counts = [sum(request.client == name for request in chosen) for name in "ab"]
        assert min(counts) >= 4, counts
        waiting = [request for request in waiting if request not in chosen]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_every_request_has_its_turn(data):
    clients = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
    waiting = [
        make_request(client, [data.draw(st.integers(0, 3))] * data.draw(st.integers(1, 150))) for client in clients
    ]
    select = FairSelect(lambda: 1e6)
    for _ in range(len(waiting)):
        if not waiting:
            return
        chosen = select(waiting, 100)
        assert chosen and len(set(map(id, chosen))) == len(chosen)
        assert waiting[0] in chosen or len({request.client for request in waiting}) > 1
        waiting = [request for request in waiting if request not in chosen]
    assert not waiting


def test_siblings_of_a_client_come_together():
    beginnings = [[7] * 64, [8] * 64]
    waiting = [make_request(client, [*beginnings[i % 2], i]) for i in range(8) for client in "ab"]
    chosen = FairSelect(lambda: 1e6)(waiting, 200)
    for name in "ab":
        taken = [request for request in chosen if request.client == name]
        assert len({request.beginning for request in taken}) < len(taken)


class Gate:
    """Holds the engine's forwards back until it opens."""

    def __init__(self, engine):
        self._scheduler, self._compute = engine.scheduler, engine.scheduler._compute
        self._open, self.entered = threading.Event(), threading.Event()

    def __enter__(self):
        def compute(requests):
            self.entered.set()
            assert self._open.wait(30)
            return self._compute(requests)

        self._scheduler._compute = compute
        return self

    def open(self):
        self._open.set()

    def __exit__(self, *_):
        self._open.set()
        self._scheduler._compute = self._compute


def post_later(server, body, headers=None):
    result = []
    thread = threading.Thread(target=lambda: result.append(send(server.url + "/classify", body, headers)))
    thread.start()
    return thread, result


def test_a_row_past_its_deadline_is_504_and_others_are_scored(server, engine):
    with Gate(engine) as gate:
        first, scored = post_later(server, {"input": "first"})
        assert gate.entered.wait(10)
        status, _, answer = send(server.url + "/classify", {"input": "late"}, {"X-Request-Timeout-Ms": "50"})
        assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
        gate.open()
        first.join()
    assert scored[0][0] == 200
    assert send(server.url + "/classify", {"input": "a"}, {"X-Request-Timeout-Ms": "0"})[0] == 400


def test_a_full_queue_is_503_with_a_time_to_come_again(server, engine, monkeypatch):
    monkeypatch.setattr("codescaler.serve.service.UNMEASURED_TOKENS", 10)
    monkeypatch.setattr(server.service._queue, "limit", 1e-9)
    with Gate(engine) as gate:
        first, scored = post_later(server, {"input": "first of them"})
        assert gate.entered.wait(10)
        status, headers, answer = send(server.url + "/classify", {"input": "one more"})
        assert (status, answer["error"]["code"]) == (503, "queue_full")
        assert int(headers["Retry-After"]) >= 1
        gate.open()
        first.join()
    assert scored[0][0] == 200
    assert send(server.url + "/classify", {"input": "one more"})[0] == 200
    assert server.service.num_waiting_tokens == 0


def test_a_row_whose_client_has_left_is_not_computed(server, engine):
    with Gate(engine) as gate:
        first, _ = post_later(server, {"input": "first"})
        assert gate.entered.wait(10)
        before = engine.num_tokens
        leaver = open_socket(server)
        body = json.dumps({"input": "nobody waits for this row"}).encode()
        leaver.sendall(make_head(len(body)) + body)
        wait_until(lambda: len(engine.scheduler) == 1)
        leaver.close()
        wait_until(lambda: all(request.future.cancelled() for request in engine.scheduler._waiting))
        gate.open()
        first.join()
    send(server.url + "/classify", {"input": "next"})
    assert engine.num_tokens - before < 20
    assert "client_left" in send(server.url + "/metrics")[2]


def open_socket(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def make_head(length, path="/classify"):
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def wait_until(holds):
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def test_slow_headers_and_half_a_body_are_cut_off(server, monkeypatch):
    monkeypatch.setattr("codescaler.serve.protocol.HEADER_S", 0.2)
    monkeypatch.setattr("codescaler.serve.app.BODY_S", 0.2)
    with open_socket(server) as slow:
        slow.sendall(b"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert slow.recv(100) == b""
    with open_socket(server) as half:
        half.sendall(make_head(1000) + b'{"input":')
        assert b"408" in half.recv(1000).partition(b"\r\n")[0]


def test_a_request_that_fails_in_the_engine_fails_alone(server, engine):
    compute = engine.scheduler._compute

    def fail(requests):
        if any(len(request.sequences[0]) == 3 for request in requests):
            raise RuntimeError("poison")
        return compute(requests)

    engine.scheduler._compute = fail
    try:
        with ThreadPoolExecutor(4) as pool:
            rows = [[5, 6], [5, 6, 7], [5, 6, 7, 8], [9]]
            statuses = [r[0] for r in pool.map(lambda ids: send(server.url + "/classify", {"input": ids}), rows)]
    finally:
        engine.scheduler._compute = compute
    assert statuses == [200, 500, 200, 200]


def test_a_score_that_is_not_finite_is_an_error_with_a_name(server, engine, monkeypatch):
    compute = engine.scheduler._compute
    monkeypatch.setattr(engine.scheduler, "_compute", lambda requests: [r * np.nan for r in compute(requests)])
    status, _, answer = send(server.url + "/classify", {"input": "a"})
    assert (status, answer["error"]["code"]) == (500, "score_not_finite")


def test_a_server_that_ends_is_not_ready_and_answers_what_it_has_accepted(engine):
    with serve((engine, ("tiny",)), drain_s=0.3) as running, Gate(engine) as gate:
        first, scored = post_later(running, {"input": "accepted"})
        assert gate.entered.wait(10)
        running.server.handle_exit(15, None)
        status, headers, _ = send(running.url + "/health/ready")
        assert (status, headers["Retry-After"]) == (503, "1")
        assert send(running.url + "/health/live")[0] == 200
        second, scored_too = post_later(running, {"input": "accepted while it drains"})
        wait_until(lambda: running.server.should_exit)
        gate.open()
        first.join()
        second.join()
    assert (scored[0][0], scored_too[0][0]) == (200, 200)


def test_several_models_are_told_apart(engine, folder):
    with serve((engine, ("one",)), (engine, ("two",))) as running:
        status, _, answer = send(running.url + "/classify", {"input": "a"})
        assert (status, answer["error"]["code"]) == (400, "model_missing")
        assert "one, two" in answer["error"]["message"]
        assert send(running.url + "/classify", {"model": "two", "input": "a"})[0] == 200


def test_the_service_refuses_without_http(server):
    async def compute():
        job = Job("missing", ["a"], lambda outcome: outcome.scores)
        with Holding() as holding:
            return await server.service.compute(lambda: job, 1, "me", 1.0, lambda: asyncio.sleep(9), holding)

    with pytest.raises(Refusal, match="there is no model 'missing'"):
        asyncio.run(compute())


def test_no_completion_with_a_program_is_no_error(server):
    with Client(server.url) as client:
        assert client.reward("a problem", ["no code", "none"]) == [0.0, 0.0]
        assert [ranked.is_valid for ranked in client.rerank("a problem", ["no code"], extract=True)] == [False]


def test_many_candidates_are_refused_before_they_are_read(server):
    body = {"items": [{"problem": "a", "candidates": [""] * 5000}]}
    status, _, answer = send(server.url + "/v1/programs", body)
    assert (status, answer["error"]["code"]) == (400, "too_many_rows")


@pytest.mark.parametrize("value", ["000000000001999999", "9" * 412, "-1", "1.5", "\u0661"])
def test_a_time_that_is_none_is_refused(server, value):
    headers = {"X-Request-Timeout-Ms": value.encode().decode("latin-1")}
    assert send(server.url + "/classify", {"input": "a"}, headers)[0] == 400
