"""Who may call the server: each rule, with a request that would pass without it."""

import base64
import contextlib
import gzip
import json
import re
import stat
import subprocess
import sys

import pytest

from codescaler.errors import InvalidInput
from codescaler.serve.app import MAX_BODY_BYTES
from codescaler.serve.client import Client
from codescaler.serve.guard import Guard, is_loopback, list_hosts
from codescaler.serve.page import ASSETS
from codescaler.serve.refusal import Refusal
from codescaler.serve.server import open_listener

from .conftest import HOSTS, send, serve

KEY = "0123456789abcdef"
ROW = {"input": "a"}


@pytest.fixture(scope="module")
def guarded(engine):
    with serve((engine, ("tiny",)), guard=Guard(HOSTS, [KEY, "another-key-of-16"])) as running:
        yield running


@pytest.mark.parametrize("path", ["/classify", "/metrics", "/", "/v1/models", "/openapi.json", "/v1/programs"])
def test_a_key_guards_every_route(guarded, path):
    body = ROW if path in ("/classify", "/v1/programs") else None
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}):
        assert send(guarded.url + path, body, headers)[0] == 401
    assert send(guarded.url + path, body, {"Authorization": f"Bearer {KEY}"})[0] in (200, 400)
    assert send(guarded.url + path, body, {"X-Api-Key": "another-key-of-16"})[0] in (200, 400)


@pytest.mark.parametrize("given", [KEY, "wrong", "another-key-of-16", ""])
def test_the_time_tells_nothing_of_a_key(monkeypatch, given):
    compared = []
    monkeypatch.setattr(
        "hmac.compare_digest", lambda one, other: (compared.append((len(one), len(other))), one == other)[1]
    )
    with contextlib.suppress(Refusal):
        Guard(None, [KEY, "another-key-of-16"]).admit("/classify", {"authorization": f"Bearer {given}"}, "peer")
    assert compared == [(32, 32), (32, 32)]


def test_a_browser_sends_the_key_as_a_password(guarded):
    status, headers, _ = send(guarded.url + "/")
    assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="codescaler"')
    assert send(guarded.url + "/v1/models")[1]["WWW-Authenticate"] == "Bearer"  # a program is not asked
    for said, expected in ((f"any:{KEY}", 200), (f":{KEY}", 200), (KEY, 401), (f"{KEY}:", 401), ("any:wrong", 401)):
        basic = {"Authorization": f"Basic {base64.b64encode(said.encode()).decode()}"}
        assert send(guarded.url + "/v1/models", headers=basic)[0] == expected
    assert send(guarded.url + "/", headers={"Authorization": "Basic \u00e9=:"})[0] == 401


def test_a_supervisor_needs_no_key(guarded):
    assert send(guarded.url + "/health/live")[0] == send(guarded.url + "/health/ready")[0] == 200


def test_the_client_shows_its_key(guarded, monkeypatch):
    with Client(guarded.url, api_key=KEY) as client:
        assert client.list_models() == ["tiny"]
    monkeypatch.setenv("CODESCALER_API_KEY", KEY)
    with Client(guarded.url) as client:
        assert client.list_models() == ["tiny"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:80"])
def test_a_foreign_host_is_refused(server, host):
    status, _, answer = send(server.url + "/classify", ROW, {"Host": host})
    assert (status, answer["error"]["code"]) in ((403, "host_not_allowed"), (400, "host_not_allowed"))


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1.evil.example"])
def test_a_foreign_origin_is_refused_and_no_answer_is_shared(server, origin):
    status, headers, answer = send(server.url + "/classify", ROW, {"Origin": origin})
    assert (status, answer["error"]["code"]) == (403, "origin_not_allowed")
    assert not [name for name in headers if name.lower().startswith("access-control")]
    assert send(server.url + "/classify", ROW, {"Origin": server.url})[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_read(server, kind):
    """What a page may post without asking first."""
    assert send(server.url + "/classify", ROW, {"Content-Type": kind})[0] == 415


def test_limits_of_a_body(server):
    body = json.dumps(ROW).encode()
    assert send(server.url + "/classify", gzip.compress(body), {"Content-Encoding": "gzip"})[0] == 415
    assert send(server.url + "/classify", b" " * (MAX_BODY_BYTES + 1))[0] == 413
    for nested in (b'{"messages":' + b"[" * 100_000, b'{"input":' + b"9" * 100_000 + b"}", b"\xff\xfe", b""):
        assert send(server.url + "/classify", nested)[0] == 400
    assert send(server.url + "/../../etc/passwd")[0] == 404


def test_no_text_of_a_client_is_logged(server, caplog):
    send(server.url + "/classify", {"input": "a-secret-program " * 300})
    assert "a-secret-program" not in caplog.text


def test_a_key_is_long_enough():
    with pytest.raises(InvalidInput, match="15 characters; give at least 16"):
        Guard(None, ["x" * 15])


def test_names_of_the_loopback():
    assert list_hosts("127.0.0.1", ["proxy"]) == ["127.0.0.1", "[::1]", "localhost", "proxy"]
    assert list_hosts("10.0.0.1") == ["10.0.0.1"]
    assert [is_loopback(host) for host in ("::1", "[::1]", "LOCALHOST", "127.8.8.8", "0.0.0.0", "example")] == [
        True, True, True, True, False, False
    ]  # fmt: skip


def test_a_socket_in_a_file_is_its_users_alone(tmp_path):
    path = tmp_path / "socket"
    open_listener("", 0, path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    open_listener("", 0, path).close()  # what a killed server left is replaced
    path.unlink()
    path.write_text("no socket")
    with pytest.raises(InvalidInput, match="cannot be listened on"):
        open_listener("", 0, path)
    assert path.read_text() == "no socket"


def test_another_host_without_a_key_is_refused(folder):
    command = [sys.executable, "-m", "codescaler.cli", "serve", str(folder), "--host", "0.0.0.0", "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "lets other machines in; give --api-key-file or CODESCALER_API_KEY, or say --no-auth" in ended.stderr


def test_the_page_runs_nothing_but_its_own_files(server):
    for path, (_, kind) in ASSETS.items():
        status, headers, text = send(server.url + path)
        assert (status, headers["content-type"].partition(";")[0]) == (200, kind)
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'" in policy and "unsafe" not in policy
        assert "http://" not in text and "https://" not in text
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|\son\w+=|\sstyle=", text)


@pytest.mark.parametrize("host", ["[::1]x:80", "[::1", "localhost:80:80", "localhost@evil.example"])
def test_what_is_no_name_and_port_is_refused(server, host):
    assert send(server.url + "/classify", ROW, {"Host": host})[0] in (400, 403)


def test_another_port_is_another_origin_and_a_slash_is_no_way_around(server):
    assert send(server.url + "/classify", ROW, {"Origin": "http://127.0.0.1:3000"})[0] == 403
    assert send(server.url + "/health/", headers={"Host": "evil.example"})[0] == 404
    assert list_hosts("2001:db8::1", ["proxy:8443"]) == ["[2001:db8::1]", "proxy"]
