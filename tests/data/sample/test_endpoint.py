"""An endpoint, by a small server in this process that fails in the ways that servers do."""

import subprocess
import sys
import time

import pytest

from codescaler.data.sample.endpoint import Endpoint, make_chat_url
from codescaler.data.sample.sampling import Request, Sampling, sample_tasks
from codescaler.errors import EndpointUnavailable, InvalidInput
from codescaler.testing.chat_server import make_completion, serving
from codescaler.types import Task

SAMPLING = Sampling("tiny", temperature=0.5, top_p=0.9, max_tokens=7, num_samples=4)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def echo(body):
    return make_completion(f"{body['messages'][0]['content']} {body['seed']}")


def endpoint(url, **options):
    return Endpoint(url, SAMPLING, **{"backoff_seconds": 0.001, "num_tries": 3, **options})


def first_then(*responses):
    """Answers with these, then echoes."""
    left = list(responses)
    return lambda body: left.pop(0) if left else echo(body)


def test_every_completion_is_asked_for_with_its_seed():
    requests = [Request("a", "Add.", [1, 2]), Request("b", "Subtract.", [3])]
    with serving(echo) as (url, asked):
        answers = list(endpoint(url, api_key="secret", concurrency=2).complete(requests))
    assert [[completion.text for completion in group] for group in answers] == [["Add. 1", "Add. 2"], ["Subtract. 3"]]
    assert {completion.finish for group in answers for completion in group} == {"stop"}
    bodies = sorted((body for _, _, body in asked), key=lambda body: body["seed"])
    assert bodies[0] == {
        "model": "tiny", "messages": [{"role": "user", "content": "Add."}], "temperature": 0.5, "top_p": 0.9,
        "max_tokens": 7, "seed": 1,
    }  # fmt: skip
    assert {path for path, _, _ in asked} == {"/v1/chat/completions"}
    assert {headers["Authorization"] for _, headers, _ in asked} == {"Bearer secret"}


def test_order_stays_where_the_first_answer_is_the_slowest():
    def respond(body):
        time.sleep(0.2 if body["seed"] == 0 else 0)
        return echo(body)

    with serving(respond) as (url, _):
        groups = endpoint(url, concurrency=3).complete(Request(str(i), "p", [i]) for i in range(12))
        assert [group[0].text for group in groups] == [f"p {i}" for i in range(12)]


def test_requests_are_taken_as_they_are_needed():
    taken = []

    def requests():
        for index in range(100):
            taken.append(index)
            yield Request(str(index), "p", [index])

    with serving(echo) as (url, _):
        groups = endpoint(url, concurrency=2).complete(requests())
        next(groups)
        assert len(taken) < 50
        groups.close()


@pytest.mark.parametrize(
    "failure",
    [
        (429, "slow down", {"Retry-After": "0"}),
        (500, "oops", {}),
        (503, "loading", {}),
        (200, "<html>", {}),
        (200, '{"choices": []}', {}),
        (200, '{"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}', {}),
        None,
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(failure):
    with serving(first_then(failure, failure)) as (url, asked):
        server = endpoint(url)
        assert next(server.complete([Request("a", "p", [5])]))[0].text == "p 5"
    assert len(asked) == 3
    assert server.num_retries == 2
    assert asked[0][2] == asked[2][2]


def test_what_does_not_pass_is_an_error_that_says_so():
    with (
        serving(lambda _: (503, "still loading", {})) as (url, asked),
        pytest.raises(EndpointUnavailable, match=r"it answered 503: 'still loading', 3 times"),
    ):
        list(endpoint(url).complete([Request("a", "p", [5])]))
    assert len(asked) == 3
    with pytest.raises(EndpointUnavailable, match=r"no answer .*refused"):
        list(endpoint(url).complete([Request("a", "p", [5])]))


def test_a_server_that_asks_for_time_gets_it():
    with serving(first_then((429, "", {"Retry-After": "1"}))) as (url, _):
        started = time.monotonic()
        next(endpoint(url).complete([Request("a", "p", [5])]))
    assert time.monotonic() - started >= 1


@pytest.mark.parametrize("status", [400, 401, 404, 302, 307])
def test_a_refusal_is_final_and_a_redirect_is_not_followed(status):
    with (
        serving(lambda _: (status, "no such model", {"Location": "http://127.0.0.1:1/"})) as (url, asked),
        pytest.raises(InvalidInput, match=rf"answered {status}: 'no such model'; check --endpoint"),
    ):
        list(endpoint(url).complete([Request("a", "p", [5])]))
    assert len(asked) == 1


def test_no_content_is_an_empty_completion():
    with serving(lambda _: make_completion(None, "content_filter")) as (url, _):
        empty = next(endpoint(url).complete([Request("a", "p", [5])]))[0]
    assert (empty.text, empty.finish) == ("", "content_filter")


def test_a_run_that_the_server_stopped_goes_on_to_the_same_file(tmp_path):
    tasks = [Task(f"t/{index}", f"Problem {index}") for index in range(6)]

    def sample(respond, target):
        with serving(respond) as (url, asked):
            try:
                sample_tasks(tasks, endpoint(url, concurrency=2), SAMPLING, target, lambda _: None)
            finally:
                asked_for.append({body["messages"][0]["content"] for _, _, body in asked})

    asked_for = []
    sample(echo, tmp_path / "whole.jsonl")
    with pytest.raises(EndpointUnavailable):
        sample(
            lambda body: (500, "", {}) if body["messages"][0]["content"] == "Problem 3" else echo(body),
            tmp_path / "out.jsonl",
        )
    sample(echo, tmp_path / "out.jsonl")
    assert asked_for[2] == {"Problem 3", "Problem 4", "Problem 5"}
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_a_killed_process_goes_on_to_the_same_file(tmp_path):
    """Kill -9 between two groups; then the same in this process."""
    tasks = [Task(f"t/{index}", f"Problem {index}") for index in range(30)]

    def slow(body):
        time.sleep(0.02)
        return echo(body)

    with serving(slow) as (url, _):
        code = f"""
from pathlib import Path
from codescaler.data.sample.endpoint import Endpoint
from codescaler.data.sample.sampling import Sampling, sample_tasks
from codescaler.types import Task
tasks = [Task(f"t/{{index}}", f"Problem {{index}}") for index in range(30)]
sample_tasks(tasks, Endpoint({url!r}, {SAMPLING!r}), {SAMPLING!r}, Path({str(tmp_path)!r}) / "out.jsonl", print)
"""
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
        partial = tmp_path / "out.jsonl.partial"
        while process.poll() is None and not (partial.exists() and partial.stat().st_size):
            time.sleep(0.001)
        process.kill()
        process.wait()
    num_done = partial.read_bytes().count(b"\n")
    assert 0 < num_done < 30
    with serving(echo) as (url, asked):
        sample_tasks(tasks, endpoint(url), SAMPLING, tmp_path / "out.jsonl", lambda _: None)
        assert len(asked) == (30 - num_done) * SAMPLING.num_samples
        sample_tasks(tasks, endpoint(url), SAMPLING, tmp_path / "whole.jsonl", lambda _: None)
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_addresses_in_every_form(path):
    assert make_chat_url(f"https://host:8000{path}") == "https://host:8000/v1/chat/completions"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:port", "file:///etc/passwd"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InvalidInput, match="give an address"):
        make_chat_url(url)
