"""Our client: an engine's methods, what it sends, when it asks again, and what it does not import."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from codescaler.errors import EndpointUnavailable, InvalidInput
from codescaler.serve.client import AsyncClient, Client

PROBLEM = "Write a function to add two numbers."
PROGRAMS = ["def add(a, b):\n    return a - b", "def add(a, b):\n    return a + b", "def add(a, b:"]
PAIRS = [(PROBLEM, program) for program in PROGRAMS]


def test_it_imports_neither_torch_nor_the_server():
    code = """
import sys, codescaler
codescaler.Client("http://127.0.0.1:1"), sys.modules[codescaler.Client.__module__].AsyncClient("unix:/a")
print(sorted({"torch", "starlette", "uvicorn", "msgspec", "prometheus_client", "codescaler.engine"} & {*sys.modules}))
"""
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_its_methods_are_those_of_an_engine(server, engine):
    scores = engine.score(PAIRS).tolist()
    with Client(server.url) as client:
        assert client.score(PAIRS) == client.predict(PAIRS) == list(client.score_stream(iter(PAIRS))) == scores
        assert client.rerank(PROBLEM, PROGRAMS) == engine.rerank(PROBLEM, PROGRAMS)
        assert client.rerank(PROBLEM, PROGRAMS, top_k=1) == engine.rerank(PROBLEM, PROGRAMS, top_k=1)
        problem, programs = "Add.\nassert add(1, 2) == 3", ["def sub(a, b): return a - b", "def add(a, b): return 3"]
        for asked_first in (False, True):
            expected = engine.rerank(problem, programs, asked_first=asked_first)
            assert client.rerank(problem, programs, asked_first=asked_first) == expected
        assert [candidate.missing for candidate in expected] == [(), ("add",)]
        best = sorted(range(3), key=lambda index: -scores[index])
        expected = [{"corpus_id": index, "score": scores[index]} for index in best]
        assert client.rank(PROBLEM, PROGRAMS) == expected
        assert client.rank(PROBLEM, PROGRAMS, top_k=2) == expected[:2]
        assert client.trace(PROBLEM, PROGRAMS) == engine.trace(PROBLEM, PROGRAMS)
        assert client.trace(PROBLEM, PROGRAMS[0]) == engine.trace(PROBLEM, PROGRAMS[0])


@pytest.mark.parametrize("method", ["rerank", "reward", "rank"])
def test_a_text_is_no_list_of_its_letters(method):
    with (
        Client("http://127.0.0.1:1", timeout_s=1) as client,
        pytest.raises(InvalidInput, match="is a text; give a list"),
    ):
        getattr(client, method)(PROBLEM, PROGRAMS[0])


def test_the_asynchronous_one_has_the_same_methods(server, engine):
    async def ask():
        async with AsyncClient(server.url, model="tiny") as client:
            return await asyncio.gather(
                client.score(PAIRS),
                client.predict(PAIRS),
                client.rerank(PROBLEM, PROGRAMS),
                client.rank(PROBLEM, PROGRAMS),
                client.trace(PROBLEM, PROGRAMS),
                client.reward(PROBLEM, [f"```python\n{program}\n```" for program in PROGRAMS]),
                client.list_models(),
            )

    with Client(server.url) as client:
        assert asyncio.run(ask()) == [
            client.score(PAIRS),
            client.predict(PAIRS),
            engine.rerank(PROBLEM, PROGRAMS),
            client.rank(PROBLEM, PROGRAMS),
            engine.trace(PROBLEM, PROGRAMS),
            client.reward(PROBLEM, [f"```python\n{program}\n```" for program in PROGRAMS]),
            ["tiny", "other-name"],
        ]
    assert {name for name in vars(Client) if not name.startswith("_")} - {"score_stream"} <= set(vars(AsyncClient))


class Script(BaseHTTPRequestHandler):
    """Answers each request with the next status and headers of `answers`, and keeps what it was sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((self.path, self.headers, body))
        status, headers, answer = self.server.answers.pop(0)
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (headers | {"content-length": str(len(text))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def script():
    with ThreadingHTTPServer(("127.0.0.1", 0), Script) as server:
        server.seen, server.answers = [], []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch):
    found = []
    monkeypatch.setattr("codescaler.serve.client.time.sleep", found.append)
    return found


SCORED = (200, {}, {"results": [[{"score": 1.5, "is_valid": True}]]})
FULL = {"error": {"message": "the queue is full"}}


def test_a_full_server_is_asked_again_after_the_time_that_it_names(script, pauses):
    refusals = [
        (503, {"retry-after": "3"}, FULL),
        (503, {}, FULL),
        (502, {}, b"<html>"),
        (503, {"retry-after": "99"}, FULL),
    ]
    script.answers = [*refusals, SCORED]
    with Client(script.url) as client:
        assert client.score(PAIRS[:1]) == [1.5]
    assert pauses == [3.0, 1.0, 2.0, 10.0]
    assert len({json.dumps(body) for _, _, body in script.seen}) == 1


def test_it_gives_up_at_its_time(script, pauses):
    script.answers = [(503, {"retry-after": "9"}, FULL)]
    with Client(script.url, timeout_s=5.0) as client, pytest.raises(EndpointUnavailable, match="the queue is full"):
        client.score(PAIRS[:1])
    assert pauses == []


@pytest.mark.parametrize("status, error", [(400, InvalidInput), (404, InvalidInput), (401, EndpointUnavailable)])
def test_what_will_not_pass_is_not_asked_again(script, pauses, status, error):
    script.answers = [(status, {}, {"error": {"message": "no"}})]
    with Client(script.url) as client, pytest.raises(error, match=f"answered {status}: no"):
        client.score(PAIRS[:1])
    assert len(script.seen) == 1 and pauses == []


def test_a_missing_key_is_named(script):
    script.answers = [(401, {}, {"error": {"message": "send a valid key"}})]
    with Client(script.url) as client, pytest.raises(EndpointUnavailable, match="or set CODESCALER_API_KEY where"):
        client.score(PAIRS[:1])


def test_a_server_that_is_not_there_is_told_at_once(pauses, caplog):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with Client(url, timeout_s=5.0) as client, pytest.raises(EndpointUnavailable):
        client.score(PAIRS[:1])
    assert len(pauses) > 1 and [r.message.partition(" (")[0] for r in caplog.records] == [f"no server answers at {url}"]


def test_every_form_of_a_problem_has_one_session(script):
    """So that a load balancer keeps its programs together."""
    messages = [{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": "pass"}]
    scored = {"results": [[{"score": 1.0, "is_valid": True, "reward": 1.0}]]}
    ranked = {"results": [{"index": 0, "relevance_score": 1.0}]}
    script.answers = [(200, {}, scored)] * 5 + [(200, {}, ranked)]
    with Client(script.url) as client:
        client.score([(PROBLEM, "pass")])
        client.score([messages])
        client.rerank(PROBLEM, ["pass"])
        client.reward(PROBLEM, ["```\npass\n```"])
        client.score([("Another problem.", "pass")])
        client.rank(PROBLEM, ["pass"])
    sessions = [headers["x-session-id"] for _, headers, _ in script.seen]
    assert len(sessions[0]) == 16 and sessions[4] != sessions[0]
    assert {*sessions[:4], sessions[5]} == {sessions[0]}
