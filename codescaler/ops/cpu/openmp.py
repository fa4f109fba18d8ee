"""The one pool of threads: the extension of a wheel names no OpenMP library, and finds that of torch."""

import ctypes
import sys
from pathlib import Path

import torch

_FOLDERS = ("lib", "../torch.libs")  # of torch's folder: where its builds and auditwheel put what they bring
_SYSTEM = "libgomp.so.1"


def share_library() -> None:
    """Makes the symbols of torch's OpenMP visible to the extension, which is loaded after it.

    Some builds of torch do so themselves, those for AArch64 do not. A torch that brings no library has loaded the
    system's. Nothing is loaded twice: the library that torch has loaded is found by its file or name.
    """
    if sys.platform != "linux":
        return
    home = Path(torch.__file__).parent
    brought = [str(path) for folder in _FOLDERS for path in sorted((home / folder).glob("libgomp*.so*"))]
    for name in brought or [_SYSTEM]:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue  # the import of the extension says what is missing
