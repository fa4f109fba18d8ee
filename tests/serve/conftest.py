"""A server in this process, on a free port, with a tiny random model."""

import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import jsonschema
import pytest

from codescaler.engine import Engine
from codescaler.serve.app import make_app
from codescaler.serve.guard import Guard
from codescaler.serve.models import ServedModel
from codescaler.serve.server import MAX_CONNECTIONS, DrainingServer, make_config, open_listener
from codescaler.testing import save_chat, save_random_checkpoint

HOSTS = ["127.0.0.1", "localhost"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served")
    save_random_checkpoint(path, "qwen3", vocab_size=300, pad_token_id=299, max_position_embeddings=512)
    save_chat(path)
    return path


@pytest.fixture(scope="module")
def engine(folder):
    return Engine.from_pretrained(folder, device="cpu", dtype="float32")


@contextlib.contextmanager
def serve(*models, guard=None, drain_s=0.0, port=0, max_connections=MAX_CONNECTIONS):
    """Runs a server on a thread while the block lasts."""
    app = make_app([ServedModel(*model) for model in models], guard or Guard(HOSTS))
    listener = open_listener("127.0.0.1", port, None)
    server = DrainingServer(make_config(app, max_connections), app, drain_s)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield SimpleNamespace(
            url=f"http://127.0.0.1:{listener.getsockname()[1]}", app=app, server=server, service=app.state.service
        )
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def server(engine):
    with serve((engine, ("tiny", "other-name"))) as running:
        yield running


def send(url, body=None, headers=None, method=None):
    """Returns status, headers and JSON (or text) of an answer."""
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"} | (headers or {}), method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, read(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, read(error)


def read(answer):
    text = answer.read().decode()
    return json.loads(text) if "json" in answer.headers.get("content-type", "") else text


def check_answer(server, method, path, status, headers, answer):
    """An answer is what the server's own description says of it."""
    api = send(server.url + "/openapi.json")[2]
    responses = api["paths"][path][method.lower()]["responses"]
    content = responses.get(str(status), responses["default"])["content"]
    schema = content[headers["content-type"].partition(";")[0]]["schema"]
    jsonschema.Draft202012Validator(schema | {"components": api["components"]}).validate(answer)


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


def open_socket(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def make_head(length, path="/classify"):
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def wait_until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)
