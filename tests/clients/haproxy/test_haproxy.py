"""examples/haproxy/haproxy.cfg before four servers: siblings meet on one server, and a server that ends loses nothing.

Needs the program haproxy: apt-get install haproxy.
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

PYTHON = os.environ.get("CODESCALER_PYTHON", sys.executable)
CONFIG = Path(__file__).parents[3] / "examples/haproxy/haproxy.cfg"
NUM_PROBLEMS, NUM_SIBLINGS, NUM_CALLERS = 16, 8, 32
SYSTEM = "Judge the program by whether it is correct. " * 20  # longer than what a hash of the first bytes would see


@contextlib.contextmanager
def start_server(model, port=0):
    """Runs a server, and gives its process and port."""
    command = [PYTHON, "-P", "-m", "codescaler.cli", "serve", model, "--port", str(port)]
    command += ["--dtype", "float32", "--num-threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            found = next(filter(None, (re.search(r" on http://127.0.0.1:(\d+)$", line) for line in process.stderr)))
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop the server
            yield process, int(found[1])
        finally:
            process.kill()


@contextlib.contextmanager
def start_haproxy(ports, folder):
    """Runs HAProxy with the example's file, on ports of this machine, until it knows that the servers are up."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = CONFIG.read_text()
    for old, new in zip((8000, 8001, 8002, 8003, 8004), (port, *ports), strict=True):
        text, count = re.subn(rf"127\.0\.0\.1:{old}\b", f"127.0.0.1:{new}", text)
        assert count == 1
    (folder / "haproxy.cfg").write_text(text)
    with subprocess.Popen(["haproxy", "-f", str(folder / "haproxy.cfg")]) as process:
        try:
            while process.poll() is None and not is_open(port):
                time.sleep(0.05)
            assert process.poll() is None, "haproxy ended"
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def cluster(tiny, tmp_path):
    """HAProxy's URL, and the processes of the servers by name."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(start_server(tiny)) for _ in range(4)]
        url = stack.enter_context(start_haproxy([port for _, port in servers], tmp_path))
        names = ("one", "two", "three", "four")
        yield url, dict(zip(names, (process for process, _ in servers), strict=True))


def make_rows():
    """Problem and messages of every row, shuffled."""
    rows = [
        (
            f"problem {i}",
            [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": f'Add {i} to "x".\nGive a function.'},
                {"role": "assistant", "content": f"def f(x):\n    return x + {i} * {j} // {j + 1}"},
            ],
        )
        for i in range(NUM_PROBLEMS)
        for j in range(NUM_SIBLINGS)
    ]
    random.Random(0).shuffle(rows)
    return rows


def post(url, body, headers=None):
    """Sends one row on a new connection, once. Gives the answer and the name of the server."""
    headers = {"content-type": "application/json", "connection": "close"} | (headers or {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer), answer.headers["x-served-by"]


def send_all(send, rows, interrupt=lambda count: None):
    done = []

    def run(row):
        answer = send(row)
        done.append(answer)
        interrupt(len(done))
        return answer

    with ThreadPoolExecutor(NUM_CALLERS) as pool:
        return list(pool.map(run, rows))


def measure_share(rows, servers):
    """The share of rows that are where most of their siblings are."""
    counts = Counter((problem, server) for (problem, _), server in zip(rows, servers, strict=True))
    best = Counter()
    for (problem, _), count in counts.items():
        best[problem] = max(best[problem], count)
    return best.total() / len(rows)


def make_verl_sender(url, tiny, project):
    """As verl's RewardLoopWorker: text of the template, the folder as the name of the model."""

    def send(row):
        body = {"model": tiny, "input": texts[json.dumps(row[1])], "use_activation": False}
        answer, server = post(f"{url}/classify", body)
        return answer["data"][-1]["probs"][-1], server

    texts = {json.dumps(messages): project.ask("render", tiny, messages) for _, messages in make_rows()}
    return send


def make_openrlhf_sender(url, tiny, project):
    def send(row):
        *prompt, last = [message["content"] for message in row[1]]
        body = {"query": [project_texts[json.dumps(row[1])]], "prompts": ["\n".join(prompt)], "labels": [last]}
        answer, server = post(f"{url}/get_reward", body)
        return answer["rewards"][0], server

    project_texts = {json.dumps(messages): project.ask("render", tiny, messages) for _, messages in make_rows()}
    return send


def make_header_sender(url, tiny, project):
    """As our own client: the header names the problem."""

    def send(row):
        answer, server = post(f"{url}/classify", {"messages": row[1]}, {"x-session-id": row[0]})
        return answer["data"][0]["probs"][0], server

    return send


def test_siblings_meet_on_one_server_and_no_row_is_lost(cluster, tiny, project):
    url, processes = cluster
    rows = make_rows()
    expected = project.ask("score", tiny, [messages for _, messages in rows])
    for make_sender in (make_verl_sender, make_openrlhf_sender, make_header_sender):
        scores, servers = zip(*send_all(make_sender(url, tiny, project), rows), strict=True)
        share = measure_share(rows, servers)
        print(f"{make_sender.__name__}: {share:.1%} of rows beside their siblings, {dict(Counter(servers))}")
        assert list(scores) == expected
        assert share >= 0.95
        assert len(set(servers)) >= 3  # of 16 problems none may fall to one of four

    send = make_verl_sender(url, tiny, project)
    for name, number in (("one", signal.SIGKILL), ("two", signal.SIGTERM)):
        lost = processes[name]

        def interrupt(count, lost=lost, number=number):
            if count == len(rows) // 4:
                lost.send_signal(number)

        scores, servers = zip(*send_all(send, rows, interrupt), strict=True)
        print(f"{name} ends by {number.name}: {len(scores)} of {len(rows)} rows, {dict(Counter(servers))}")
        assert list(scores) == expected
        assert lost.wait(timeout=60) == (0 if number == signal.SIGTERM else -number)
        # Until two checks have failed, HAProxy sends rows of the lost server to any other one.
        deadline = time.monotonic() + 30
        while (share := measure_share(rows, send_servers(send, rows))) < 0.95 and time.monotonic() < deadline:
            time.sleep(1)
        assert share >= 0.95  # the others keep their problems


def send_servers(send, rows):
    return [server for _, server in send_all(send, rows)]
