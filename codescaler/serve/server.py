"""`run_server`: uvicorn around the application, and an end that loses no accepted row."""

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from codescaler.errors import InvalidInput
from codescaler.serve.holding import SharedLimit
from codescaler.serve.protocol import KEEP_ALIVE_S, LimitedProtocol

MAX_CONNECTIONS = 8192
MAX_FILES = 1 << 16  # that the process asks for: each connection is one
BACKLOG = 4096  # connections that come in one moment, of trainers with a connection a row
DRAIN_S = 2.0  # from "not ready" to the closed socket: load balancers ask about once a second
GRACE_S = 180.0  # that accepted rows may take after that


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
    DrainingServer(make_config(app, count_connections(raise_file_limit())), app, drain_s).run(sockets=[listener])


def raise_file_limit() -> int:
    """Raises the number of files that this process may open, and returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return MAX_FILES if soft == resource.RLIM_INFINITY else soft


def count_connections(num_files: int) -> int:
    """Returns how many connections the server may have: a quarter of its files, since a limit that is shared bends."""
    return max(1, min(MAX_CONNECTIONS, num_files // 4))


def make_config(app: Starlette, max_connections: int = MAX_CONNECTIONS) -> uvicorn.Config:
    """Returns uvicorn's settings: its fast loop and parser by name, so that their absence is an error."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=partial(LimitedProtocol, SharedLimit(max_connections)),  # type: ignore[arg-type]
        ws="none",
        access_log=False,
        log_level="error",  # a line for each bad request would let a client fill a disk
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
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
            _remove_abandoned(uds)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                os.fchmod(listener.fileno(), 0o600)  # before the file is there, so that nobody is faster
                listener.bind(str(uds))
                listener.listen(BACKLOG)
            except OSError:
                listener.close()
                raise
    except (OSError, OverflowError) as error:  # a port that is no number of 16 bits overflows
        raise InvalidInput(f"{uds or f'{host}:{port}'} cannot be listened on ({error}); choose another") from error
    return listener


def _remove_abandoned(uds: Path) -> None:
    """Removes the socket that a killed server has left.

    Raises: OSError if a server listens there: it would lose its clients and never know.
    """
    if not (uds.exists() and stat.S_ISSOCK(uds.lstat().st_mode)):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(uds))
        except ConnectionRefusedError:
            uds.unlink()
            return
    raise OSError(errno.EADDRINUSE, "a server listens there")
