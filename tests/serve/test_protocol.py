"""What a connection may take: each limit, with bytes that would pass without it."""

import socket
import time

import pytest

from codescaler.serve.holding import SharedLimit
from codescaler.serve.server import DrainingServer, count_connections, make_config, open_listener

from .conftest import Gate, make_head, open_socket, send, serve, wait_until

BODY = b'{"input":"a"}'
REQUEST = make_head(len(BODY)) + BODY
HEAD = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = make_head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")


def read_all(connection):
    """Returns what comes until the server closes the connection."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def talk(server, data):
    with open_socket(server) as connection:
        connection.sendall(data)
        return read_all(connection)


def shorten(monkeypatch, **seconds):
    for name, value in seconds.items():
        place = "app" if name == "BODY_S" else "protocol"
        monkeypatch.setattr(f"codescaler.serve.{place}.{name}", value)


def test_slow_headers_are_cut_off(server, monkeypatch):
    shorten(monkeypatch, HEADER_S=0.1)
    assert talk(server, HEAD) == b""
    assert talk(server, b"") == b""


def test_a_request_that_came_in_time_is_read_by_a_busy_loop(server, monkeypatch):
    """Timers run before sockets are read."""
    shorten(monkeypatch, HEADER_S=0.2)
    with open_socket(server) as connection:
        server.server._loop.call_soon_threadsafe(time.sleep, 0.5)
        connection.sendall(REQUEST)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_half_a_body_is_answered_and_cut_off(server, monkeypatch):
    shorten(monkeypatch, BODY_S=0.1, MESSAGE_S=0.3)
    answer = talk(server, make_head(1000) + b'{"input":')
    assert b"408" in answer.partition(b"\r\n")[0] and b"body_too_slow" in answer


def test_a_body_that_nobody_reads_is_cut_off(server, monkeypatch):
    """A request that is refused by its headers has its answer, but its body may go on for ever."""
    shorten(monkeypatch, MESSAGE_S=0.2)
    answer = talk(server, make_head(1000).replace(b"127.0.0.1", b"evil.example") + b"{")
    assert answer.startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("between", [b"\r\n", b"GET /"])
def test_a_byte_after_an_answer_holds_no_connection(server, monkeypatch, between):
    """Uvicorn stops the timer of an idle connection at its first byte."""
    shorten(monkeypatch, HEADER_S=0.2)
    with open_socket(server) as connection:
        connection.sendall(REQUEST)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(between)
        assert connection.recv(1 << 16) == b""


def test_a_request_that_follows_too_early_takes_no_answer_away(server, engine, monkeypatch):
    shorten(monkeypatch, HEADER_S=0.05)
    with Gate(engine) as gate, open_socket(server) as connection:
        connection.sendall(REQUEST + b"GET /")
        assert gate.entered.wait(10)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        gate.open()
        connection.settimeout(30)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"X: " + b"a" * 1_000_000,
        HEAD + b"X: a\r\n" * 300 + b"\r\n",
        b"GET /" + b"a" * 1_000_000,
        CHUNKED + b"1;" + b"a" * 1_000_000,
        CHUNKED + b"0\r\nX: " + b"a" * 1_000_000,
        CHUNKED + b"0\r\n" + b"X: a\r\n" * 100_000,
    ],
    ids=["header", "headers", "address", "extension", "trailer", "trailers"],
)
def test_headers_are_bounded(server, monkeypatch, data):
    """The parser would keep all of them."""
    shorten(monkeypatch, REFUSED_S=0.2)
    answer = talk(server, data)
    assert answer.startswith(b"HTTP/1.1 431") and b"headers_too_large" in answer


@pytest.mark.parametrize(
    "data",
    [
        make_head(5).replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"0\r\n\r\n",
        make_head(5).replace(b"\r\n\r\n", b"\r\nContent-Length: 13\r\n\r\n") + BODY,
        make_head("9" * 30),
        make_head(-1),
        HEAD.replace(b"Host: ", b"Host : ") + b"\r\n",
        HEAD + b"X: a\0b\r\n\r\n",
        b"GET http://a:b:c/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        CHUNKED + b"ffffffffffffffffff\r\n",
    ],
)
def test_what_two_readers_could_read_in_two_ways_is_refused(server, monkeypatch, data):
    shorten(monkeypatch, REFUSED_S=0.2)
    answer = talk(server, data)
    assert answer.startswith(b"HTTP/1.1 400") and b'"code":"not_http"' in answer


def test_a_second_host_is_no_way_around(server):
    for hosts in (b"127.0.0.1\r\nHost: evil.example", b"evil.example\r\nHost: 127.0.0.1"):
        answer = talk(server, b"GET /v1/models HTTP/1.1\r\nHost: " + hosts + b"\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 403")


def test_an_upgrade_is_refused_by_name(server, monkeypatch):
    shorten(monkeypatch, REFUSED_S=0.2)
    upgrade = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert b"upgrade_not_supported" in talk(server, upgrade)


def test_an_answer_that_nobody_reads_holds_no_connection(server, monkeypatch):
    shorten(monkeypatch, WRITE_S=0.2)
    with open_socket(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        page, name = HEAD.replace(b"/health/live", b"/openapi.json") + b"\r\n", connection.getsockname()

        def is_held():
            return any(one.client == name for one in list(server.server.server_state.connections))

        wait_until(is_held)
        connection.setblocking(False)
        try:
            for _ in range(2000):
                connection.send(page)
        except BlockingIOError:
            pass
        wait_until(lambda: not is_held())


def test_an_address_that_has_its_part_of_the_connections_is_refused(engine, monkeypatch):
    """And is served again when it has closed some."""
    shorten(monkeypatch, REFUSED_S=0.2)
    monkeypatch.setattr("codescaler.serve.server.MAX_CONNECTIONS", 3)
    with serve((engine, ("tiny",)), max_connections=3) as running:
        connections = [open_socket(running) for _ in range(3)]
        wait_until(lambda: len(running.server.server_state.connections) == 3)
        with open_socket(running) as one_more:
            answer = read_all(one_more)
        assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in answer
        for connection in connections:
            connection.close()
        wait_until(lambda: not running.server.server_state.connections)
        assert send(running.url + "/health/live")[0] == 200


def test_connections_take_a_part_of_the_files():
    assert [count_connections(files) for files in (1, 1024, 20_000, 10**9)] == [1, 256, 5000, 8192]


def test_the_fast_loop_and_parser_run(server):
    """Without them uvicorn takes slower ones in silence, and the limits above are of this parser."""
    config = make_config(server.app)
    assert config.loop == "uvloop"
    with pytest.raises(AttributeError):
        DrainingServer(make_config(server.app), None, 0.0)
    assert isinstance(config.http.args[0], SharedLimit)
    assert "uvloop" in str(type(server.server._loop))


def test_a_socket_in_a_file_that_a_server_listens_on_is_not_taken(tmp_path):
    path = tmp_path / "socket"
    with open_listener("", 0, path):
        with pytest.raises(ValueError, match="a server listens there"):
            open_listener("", 0, path)
        assert path.exists()
