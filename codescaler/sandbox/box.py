"""`Box`: a fork server in isolation, seen from the host, and the processes that it starts."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codescaler.errors import SandboxUnavailable
from codescaler.sandbox.inside.wire import MAX_MESSAGE_BYTES, ConnectionLost, receive, send
from codescaler.sandbox.isolation import Isolation, View, make_command

Role = Literal["program", "judge", "main", "replay", "together", "compile", "execute"]
How = Literal["by itself", "stopped", "late", "uncounted"]

_START_SECONDS = 20.0  # for a fork server to come up; it takes some 50 ms on an idle machine
_MAX_STRETCH = 32  # of wall time: on a busy machine, and for costs
_END_SECONDS = 20.0  # for the kernel to end what was killed
_ENVIRONMENT = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class End:
    """How a process ended, and what it took with all that it started.

    Attributes:
        exit_code: or the negative number of a signal.
        how: by itself, which limits on CPU time are too; stopped by the host; stopped at the end of its wall time;
            or in a way in which its time could not be counted.
    """

    exit_code: int
    cpu_seconds: float
    max_bytes: int
    how: How


class Box:
    """One fork server. Raises SandboxUnavailable if it cannot be started, with what it said.

    Attributes:
        kind: what it is for: two boxes of one kind can stand for each other.
    """

    def __init__(self, isolation: Isolation, settings: dict[str, Any], view: View, kind: tuple[str, int]) -> None:
        self._limits: dict[str, Any] = settings["limits"]
        self.kind = kind
        self._control, inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with inside, tempfile.TemporaryFile() as errors, Path("/proc/loadavg").open("rb") as load:
            # Where memory ends, the kernel should end a box before anything else of the host's.
            shell = 'echo 1000 > /proc/self/oom_score_adj; exec "$@"'
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", shell, "sh", *make_command(isolation, settings, view)],
                stdin=inside.fileno(),
                stdout=load,
                stderr=errors,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
            inside.close()  # or else its end would not show
            if not self._is_ready():
                self.close()
                errors.seek(0)
                said = errors.read()[-2000:].decode(errors="replace").strip().rpartition("\n")[2]
                code = self._process.returncode
                raise SandboxUnavailable(f"its fork server ended with status {code}: {said[:300] or 'it said nothing'}")

    def _is_ready(self) -> bool:
        self._control.settimeout(_START_SECONDS)
        try:
            return self._control.recv(16) == b"ready"
        except OSError:
            return False

    def start(self, role: Role, *files: int) -> "Process":
        """Starts a process in the box; `files` are the numbers of the host's files that it gets."""
        status, status_inside = socket.socketpair()
        work, work_inside = socket.socketpair()
        with status_inside, work_inside:
            numbers = [status_inside.fileno(), work_inside.fileno(), *files]
            try:
                socket.send_fds(self._control, [role.encode()], numbers)
            except OSError as error:
                status.close()
                work.close()
                raise SandboxUnavailable(f"a box has ended: {error}") from error
        return Process(status, work, self._limits.get(role, self._limits["any"])["wall_seconds"])

    @contextmanager
    def share_scratch(self) -> Iterator[None]:
        """Gives the processes of a block one scratch folder, where the box can: files there are data to either side."""
        try:
            self._control.send(b"share")
            is_shared = self._control.recv(16) == b"shared"
        except OSError as error:
            raise SandboxUnavailable(f"a box has ended: {error}") from error
        yield
        if is_shared:
            self._control.send(b"unshare")

    def close(self) -> None:
        """Ends the box with everything in it."""
        self._control.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Process:
    """A process in a box. `work` is the connection to it."""

    def __init__(self, status: socket.socket, work: socket.socket, wall_seconds: float) -> None:
        self._status, self.work = status, work
        # The watcher in the box keeps the time. That it does is not taken for granted.
        for connection in (status, work):
            connection.settimeout(_MAX_STRETCH * wall_seconds + _END_SECONDS)

    def tell(self, message: Any) -> None:
        """Sends a message; that a process is gone shows when it is waited for. Raises MessageTooLarge."""
        with suppress(ConnectionLost):
            send(self.work, message, MAX_MESSAGE_BYTES)

    def end(self, *, kill: bool) -> End:
        """Returns when nothing of the process is left, which with `kill` is at once.

        Raises: SandboxUnavailable if the box is broken.
        """
        with self._status, self.work:
            if kill:
                self._status.shutdown(socket.SHUT_WR)
            try:
                ended, *figures = receive(self._status, 1 << 12)
            except ConnectionLost as error:
                raise SandboxUnavailable(f"a box is broken: {error}") from error
        if ended == "broken":
            raise SandboxUnavailable(f"a box cannot start a process: {figures[0]}")
        cpu_seconds, max_kilobytes, how = figures
        return End(os.waitstatus_to_exitcode(ended), cpu_seconds, max_kilobytes * 1024, how)
