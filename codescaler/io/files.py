"""The one door to files that somebody else may have put there: regular files only, and none above a size.

A name that is taken by a link to nothing, a pipe, a device or a folder is an error. It never counts as an absent file.
This module knows no format.
"""

import io
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from codescaler.errors import HostileFile, MissingTensor, OutputUnavailable


def find_file(folders: Iterable[Path], name: str) -> Path | None:
    """Returns the file of this name in the first folder that has one, None if none does. A link is followed.

    Raises:
        HostileFile: the name is there, and is no regular file.
    """
    for folder in folders:
        path = folder / name
        if os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name that is too long
            return path
        if os.path.lexists(path):
            raise HostileFile(f"{path} is {_describe_entry(path)}, no regular file; put the file itself there.")
    return None


def require_file(path: Path) -> None:
    """Checks that a regular file is there.

    Raises:
        MissingTensor: there is none.
    """
    if not os.path.isfile(path):  # noqa: PTH113
        inner = path.parent / "model" / path.name  # where a training run has its model
        advice = f"give {inner.parent}" if inner.is_file() else "name the folder of a model, or fetch it again"
        raise MissingTensor(f"{path} is not there or is not a regular file; {advice}.")


def read_file(path: Path, max_bytes: int) -> bytes:
    """Returns the content of a regular file. A link is followed, a pipe is not waited for.

    Raises:
        MissingTensor: there is no regular file. HostileFile: it is too large, or cannot be read.
    """
    require_file(path)
    num_bytes = path.stat().st_size
    if num_bytes > max_bytes:
        raise HostileFile(f"{path} takes {num_bytes} bytes, above the limit of {max_bytes}; fetch it again.")
    return read_start(path, max_bytes)


def read_start(path: Path, num_bytes: int) -> bytes:
    """Returns the first bytes of a regular file, all if it has no more.

    Raises: as `read_file`.
    """
    require_file(path)
    try:
        with io.FileIO(path, opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise HostileFile(f"{path} is no regular file any more; put the file itself there.")
            return file.read(min(num_bytes, status.st_size)) or b""
    except OSError as error:
        raise HostileFile(f"{path} cannot be read ({error.strerror}); fetch the file again.") from error


def read_text_file(path: Path, max_bytes: int) -> str:
    """Returns the text of a regular file in UTF-8.

    Raises:
        As `read_file`. HostileFile: it is not UTF-8.
    """
    try:
        return read_file(path, max_bytes).decode()
    except UnicodeDecodeError as error:
        raise HostileFile(f"{path} is not UTF-8 ({error}); fetch the file again.") from error


def open_output(path: Path, mode: Literal["w", "a", "a+", "x"]) -> BinaryIO:
    """Opens a regular file to write bytes. What stands under the name is not followed and not waited for.

    Raises:
        OutputUnavailable: it cannot be made, or the name is a link, a pipe, a device or a folder. Each write raises it
            too, e.g. on a full disk.
    """
    try:
        file = _OutputFile(path, mode, opener=_open_no_link)
    except OSError as error:
        raise _explain_output(path, error) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OutputUnavailable(f"{path} is {_describe_entry(path)}, no regular file; give another output")
    return cast(BinaryIO, io.BufferedRandom(file) if "+" in mode else io.BufferedWriter(file))


def require_writable(folder: Path) -> None:
    """Checks that a file can be made in a folder, before work whose result is to be written there.

    Raises: OutputUnavailable.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputUnavailable(f"no file can be made in {folder} ({error.strerror}); give another folder") from error


def write_text_file(path: Path, text: str) -> None:
    """Writes a text in UTF-8, in place of the regular file that may be there.

    Raises: as `open_output`.
    """
    with open_output(path, "w") as file:
        file.write(text.encode())


class _OutputFile(io.FileIO):
    """A file whose errors name it: a full disk alone would say "No space left on device"."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise _explain_output(Path(os.fsdecode(cast(Path, self.name))), error) from error


def _explain_output(path: Path, error: OSError) -> OutputUnavailable:
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        return OutputUnavailable(f"{path} is {_describe_entry(path)}, no regular file; give another output")
    return OutputUnavailable(f"{path} cannot be written ({error.strerror}); make room, or give another output")


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW, 0o666)


def _describe_entry(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"a link to {os.fsdecode(path.readlink())!r}"
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
