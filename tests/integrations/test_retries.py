"""The retry rules of trainers, against a server that is full, and one that is killed and started anew.

verl and OpenRLHF score by rules of their own (docs/serving.md): what a rule gives up on is a lost reward, or the end of
a run. A pause of a rule is a call here, in which the server recovers: no test waits.
"""

import http.client
import json
import threading
from dataclasses import dataclass

import pytest

from codescaler.integrations import scorers

from ..serve.conftest import serve
from .conftest import COMPLETIONS, PROBLEM


@dataclass(frozen=True)
class Rule:
    """How a trainer posts: `num_tries` at most, each on a new connection, with a pause between them."""

    path: str
    num_tries: int
    is_4xx_fatal: bool

    def post(self, address, body, pause):
        """Returns the answer, as the trainer's own loop would, or raises what ends it."""
        for _ in range(self.num_tries):
            try:
                connection = http.client.HTTPConnection(*address, timeout=30)
                try:
                    connection.request("POST", self.path, json.dumps(body), {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    text = response.read()
                finally:
                    connection.close()
                if response.status == 200:
                    return json.loads(text)
                if 400 <= response.status < 500 and self.is_4xx_fatal:
                    pytest.fail(f"the run ends: {response.status} {text}")
            except (OSError, http.client.HTTPException):
                pass
            pause()
        pytest.fail(f"no reward after {self.num_tries} tries")


RULES = {
    "verl 0.9.1": (Rule("/classify", 16, True), lambda text: {"model": "tiny", "input": text, "use_activation": False}),
    "OpenRLHF 0.11.2": (Rule("/get_reward", 5, False), lambda text: {"query": [text], "prompts": [""], "labels": [""]}),
    "slime": (Rule("/reward", 10, False), lambda text: {"prompt": PROBLEM, "response": text, "label": None}),
}


def read_score(answer):
    if isinstance(answer, dict):
        return answer["rewards"][0] if "rewards" in answer else answer["data"][-1]["probs"][-1]
    return answer


@pytest.fixture(params=RULES)
def rule(request, engine):
    """A rule, the bodies of some samples, and their scores."""
    rule, make_body = RULES[request.param]
    pairs = [(PROBLEM, completion) for completion in COMPLETIONS]
    texts = [
        engine.encoder.chat.render([{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": completion}])
        for completion in COMPLETIONS
    ]
    texts = COMPLETIONS if rule.path == "/reward" else texts
    return rule, [make_body(text) for text in texts], engine.score(pairs).tolist()


def test_a_full_server_loses_no_reward(rule, engine):
    rule, bodies, scores = rule
    with serve((engine, ("tiny",))) as server:
        address = server.url.removeprefix("http://").split(":")
        server.service._num_waiting_tokens = 10**12
        paused = []

        def recover():
            paused.append(server.service._num_waiting_tokens)
            server.service._num_waiting_tokens = 0

        answers = [rule.post(address, body, recover) for body in bodies]
    assert paused == [10**12]
    assert [read_score(answer) for answer in answers] == scores


def test_a_server_that_is_started_anew_loses_no_reward(rule, engine):
    rule, bodies, scores = rule
    with serve((engine, ("tiny",))) as server:
        port = int(server.url.rpartition(":")[2])
    # It has gone. Each sample is posted on its own thread, and the first of them that pauses starts another server.
    starting, started, done = threading.Lock(), threading.Event(), threading.Event()
    servers = []

    def run_server():
        with serve((engine, ("tiny",)), port=port):
            started.set()
            done.wait(60)

    def recover():
        with starting:
            if not servers:
                servers.append(threading.Thread(target=run_server))
                servers[0].start()
        started.wait(60)

    answers = {}
    posts = [
        threading.Thread(target=lambda i=i: answers.update({i: rule.post(("127.0.0.1", port), bodies[i], recover)}))
        for i in range(len(bodies))
    ]
    for post in posts:
        post.start()
    for post in posts:
        post.join()
    done.set()
    servers[0].join()
    assert [read_score(answers[i]) for i in range(len(bodies))] == scores


def test_our_client_waits_for_a_server_that_is_started_anew(engine, monkeypatch):
    """On a connection that was open when the server ended, and then on none."""
    with serve((engine, ("tiny",))) as server:
        client = scorers.open_scorer(server.url)
        (score,) = client.score([(PROBLEM, COMPLETIONS[0])])
        port = int(server.url.rpartition(":")[2])
    servers = []

    def start_server(pause_s):
        servers.append(serve((engine, ("tiny",)), port=port))
        servers[0].__enter__()

    monkeypatch.setattr("codescaler.serve.client.time.sleep", start_server)
    try:
        assert client.score([(PROBLEM, COMPLETIONS[0])]) == [score] == engine.score([(PROBLEM, COMPLETIONS[0])])
    finally:
        client.close()
        servers[0].__exit__(None, None, None)
    assert len(servers) == 1


def test_our_client_opens_a_connection_anew_without_a_pause(engine, monkeypatch):
    with serve((engine, ("tiny",))) as server:
        client = scorers.open_scorer(server.url)
        (score,) = client.score([(PROBLEM, COMPLETIONS[0])])
        port = int(server.url.rpartition(":")[2])
    monkeypatch.setattr("codescaler.serve.client.time.sleep", lambda pause_s: pytest.fail("it paused"))
    with serve((engine, ("tiny",)), port=port):
        assert client.score([(PROBLEM, COMPLETIONS[0])]) == [score]
    client.close()
