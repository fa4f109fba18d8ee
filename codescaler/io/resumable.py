"""A file of JSON lines that a killed run goes on with. Knows lines and settings, not what they mean."""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

from codescaler.errors import InvalidInput, WeightsError
from codescaler.io.files import open_output, write_text_file
from codescaler.io.json import read_json

Item = TypeVar("Item")


def require_new_file(target: Path) -> None:
    """Refuses an output that is there already, or whose name promises what is not written.

    Raises: InvalidInput.
    """
    if os.path.lexists(target):
        raise InvalidInput(f"{target} is there already; move it away or give another output")
    if target.suffix == ".gz":
        raise InvalidInput(f"{target} would be plain text, since a run must be able to go on; leave .gz off the name")


def lock(file: BinaryIO, partial: Path) -> None:
    """Keeps other runs from writing a partial file until it is closed.

    Raises: InvalidInput if one does.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InvalidInput(f"{partial} is being written by another run; wait for it, or give another output") from error


class ResumableFile:
    """A context in which `target` is written, one object with a task_id a line; it appears when the context ends well.

    Until then its lines are in `target`.partial, beside the settings that made them. Opened again with the same
    settings, it goes on after the last whole line.

    Raises: InvalidInput if `target` is there already, another run writes it, or other settings made its lines.
    OutputUnavailable if it cannot be written.
    """

    def __init__(self, target: Path, settings: Mapping[str, Any]) -> None:
        require_new_file(target)
        self._target = target
        self._partial, self._settings_path = (
            target.with_name(target.name + end) for end in (".partial", ".partial.json")
        )
        self._settings = json.loads(json.dumps(settings))

    def __enter__(self) -> "ResumableFile":
        self._file = open_output(self._partial, "a+")
        try:
            lock(self._file, self._partial)
            if self._file.tell():
                self._require_same_settings()
            else:
                write_text_file(self._settings_path, json.dumps(self._settings, indent=2) + "\n")
            self.done = self._read_done()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._file.flush()
            if kind is None:
                self._partial.replace(self._target)
                self._settings_path.unlink()

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds a line; it is handed to the system at once."""
        self._file.write(f"{json.dumps(record)}\n".encode())
        self._file.flush()

    def skip_done(self, items: Iterable[Item], task_id: Callable[[Item], str]) -> Iterator[Item]:
        """Passes over the items whose lines are there, and returns the others.

        Raises: InvalidInput if the lines were made from other items.
        """
        left = iter(items)
        for number, done in enumerate(self.done, 1):
            item = next(left, None)
            if item is None or task_id(item) != done:
                raise InvalidInput(
                    f"{self._partial}, line {number} is of the task {done!r:.80}, which does not come there now; "
                    "delete the partial output to start again"
                )
        return left

    def _require_same_settings(self) -> None:
        path = self._settings_path
        try:
            before = read_json(path)
        except WeightsError as error:
            raise InvalidInput(f"{path} cannot be read ({error}); delete the partial output to start again") from error
        for key in sorted({*before, *self._settings}):
            if before.get(key) != self._settings.get(key):
                raise InvalidInput(
                    f"{path} says that the lines so far were made with {key} {before.get(key)!r:.80}, and it is "
                    f"{self._settings.get(key)!r:.80} now; use the same, or delete the partial output to start again"
                )

    def _read_done(self) -> list[str]:
        """The task of each whole line; a line that was being written is cut off."""
        self._file.seek(0)
        done, end = [], 0
        while (line := self._file.readline()).endswith(b"\n"):
            try:
                done.append(str(json.loads(line)["task_id"]))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidInput(
                    f"{self._partial}, line {len(done) + 1} is damaged ({error!r:.80}); delete it to start again"
                ) from error
            end += len(line)
        self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)
        return done


def compute_digest(parts: Iterable[str | bytes]) -> str:
    """Names what was read, so that a run goes on with the same only: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


def compute_file_digest(paths: Iterable[Path]) -> str:
    """The same of files' names and contents, read a block at a time."""

    def read_parts() -> Iterator[bytes]:
        for path in paths:
            yield path.name.encode()
            with path.open("rb") as file:
                yield from iter(lambda: file.read(1 << 20), b"")

    return compute_digest(read_parts())
