"""`run_server`: uvicorn around the application, with a time limit for headers and an end that loses no accepted row."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from codescaler.errors import InvalidInput

HEADER_S = 10.0  # that a client may take from its connection to the end of its headers
KEEP_ALIVE_S = 75
MAX_CONNECTIONS = 8192
BACKLOG = 4096  # connections that come in one moment, of trainers with a connection a row
DRAIN_S = 2.0  # from "not ready" to the closed socket: load balancers ask about once a second
GRACE_S = 180.0  # that accepted rows may take after that


class TimedProtocol(HttpToolsProtocol):
    """HTTP that closes a connection whose headers do not come: a slow client must not hold it for ever."""

    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_due = self.loop.call_later(HEADER_S, self._give_up)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._headers_due is None:  # a later request of the connection
            self._headers_due = self.loop.call_later(HEADER_S, self._give_up)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _give_up(self) -> None:
        self._headers_due = None
        self.transport.close()


class DrainingServer(uvicorn.Server):
    """A server that says "not ready" before it closes its socket, and then answers what it has accepted."""

    def __init__(self, config: uvicorn.Config, app: Starlette, drain_s: float) -> None:
        super().__init__(config)
        self._state = app.state
        self._drain_s = drain_s

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._state.service.is_draining:  # the second signal waits for nothing
            self.should_exit = self.force_exit = True
            return
        self._state.service.is_draining = True
        self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_s, self._exit)

    def _exit(self) -> None:
        self.should_exit = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was handled is not raised again: the exit code is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in previous.items():
                signal.signal(sig, handler)


def run_server(app: Starlette, listener: socket.socket, *, drain_s: float = DRAIN_S) -> None:
    """Serves until SIGTERM or SIGINT, and returns when every accepted request has its answer."""
    DrainingServer(make_config(app), app, drain_s).run(sockets=[listener])


def make_config(app: Starlette) -> uvicorn.Config:
    """Returns uvicorn's settings: its fast loop and parser by name, so that their absence is an error."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=TimedProtocol,
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(GRACE_S),
    )


def open_listener(host: str, port: int, uds: Path | None) -> socket.socket:
    """Returns a socket that listens, on a port (0: any free one) or in a file that only its user can open.

    Raises:
        InvalidInput: the address or file cannot be used.
    """
    try:
        if uds is None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        else:
            if uds.exists() and stat.S_ISSOCK(uds.lstat().st_mode):
                uds.unlink()  # left by a server that was killed
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                os.fchmod(listener.fileno(), 0o600)  # before the file is there, so that nobody is faster
                listener.bind(str(uds))
                listener.listen(BACKLOG)
            except OSError:
                listener.close()
                raise
    except OSError as error:
        raise InvalidInput(f"{uds or f'{host}:{port}'} cannot be listened on ({error}); choose another") from error
    return listener
