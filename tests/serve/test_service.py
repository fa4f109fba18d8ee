"""The queue behind the routes: same bits in any order of arrival, fairness, deadlines, limits, clients that leave."""

import asyncio
import inspect
import json
import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from codescaler.serve.client import Client
from codescaler.serve.holding import Holding
from codescaler.serve.job import Job
from codescaler.serve.native import TraceBody, make_trace_job
from codescaler.serve.refusal import Refusal
from codescaler.serve.service import _measure_speed

from .conftest import Gate, make_head, open_socket, post_later, send, serve, wait_until


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
    monkeypatch.setattr("codescaler.serve.service.MIN_FORWARDS", 0)
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


def test_the_speed_of_an_engine_is_that_of_tokens_that_it_computes():
    engine = SimpleNamespace(num_tokens=50_000, num_distinct_tokens=1000, forward_seconds=2.0)
    assert _measure_speed(engine) == 500.0


def test_tokens_that_rows_of_a_request_share_wait_once(server, engine):
    """Else the lines of a trace would fill the queue, and make an engine look fast that is slow."""
    pace = server.service._paces[engine]
    before = pace._num_tokens
    program = "\n".join(f"x{number} = {number}" for number in range(30))
    with Gate(engine) as gate, ThreadPoolExecutor(1) as pool:
        future = pool.submit(send, server.url + "/v1/trace", {"problem": "Any.", "programs": [program]})
        assert gate.entered.wait(10)
        num_waiting = server.service.num_waiting_tokens
        gate.open()
        _, _, answer = future.result(30)
    wait_until(lambda: server.service.num_waiting_tokens == 0)
    assert 0 < 5 * num_waiting < answer["usage"]["total_tokens"]
    assert pace._num_tokens - before == num_waiting


def test_a_job_that_waits_has_no_rows(server):
    """A body that is counted may become rows of a thousand times its size, which nothing counts."""

    async def leave():
        await asyncio.sleep(9)

    async def compute():
        body = TraceBody(problem="Any.", programs=["x = 1\ny = 2"])
        with Holding() as holding:
            job, _ = await server.service.compute(lambda: make_trace_job(body), 1, "me", 9.0, leave, holding)
            return job

    job = asyncio.run(compute())
    held = inspect.getclosurevars(job.answer).nonlocals["plan"]
    assert not job.rows and not held.pairs and not held.names and held.programs == [["x = 1", "y = 2"]]


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
