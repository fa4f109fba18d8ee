"""The one pool of threads: the extension of a wheel names no OpenMP library, and finds that of torch."""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

import torch

_FOLDERS = ("lib", "../torch.libs")  # of torch's folder: where its builds and auditwheel put what they bring
_FILES = ("libgomp*.so*", "libomp*.so*", "libiomp*.so*")  # LLVM's and Intel's have the functions of GCC's too
_SYSTEM = ("libgomp.so.1", "libomp.so", "libomp.so.5", "libiomp5.so")


def share_library() -> None:
    """Makes the symbols of torch's OpenMP visible to the extension, which is loaded after it.

    Some builds of torch do so themselves, those for AArch64 do not. A torch that brings no library has loaded the
    system's. A library is loaded only where none is resident.
    """
    if sys.platform != "linux":
        return
    home = Path(torch.__file__).parent
    brought = [str(path) for folder in _FOLDERS for name in _FILES for path in sorted((home / folder).glob(name))]
    for resident in (os.RTLD_NOLOAD, 0):
        for name in (*brought, *_SYSTEM):
            with contextlib.suppress(OSError):  # where there is none, the import of the extension says what is missing
                ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL | resident)
                return
