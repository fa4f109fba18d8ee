"""The one thread that runs torch: every engine of a process loads and computes there, in turns.

A forward uses all its CPU threads as it is, so two at a time gain nothing. The caller's torch state (autocast, default
device, thread count) belongs to the caller's thread and stays out. OpenMP's pool belongs to this thread: a forked child
has no pool but believes that it has one, so a child gets a new thread, and with it a new pool.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")

_thread = ThreadPoolExecutor(1, "codescaler")


def _renew() -> None:
    global _thread
    _thread = ThreadPoolExecutor(1, "codescaler")


os.register_at_fork(after_in_child=_renew)


def submit(num_threads: int, call: Callable[[], Result]) -> Future[Result]:
    """Has the thread run `call`; torch, and through it oneDNN and the C++ kernels, may use `num_threads` threads.

    Raises: RuntimeError if the interpreter is exiting. It waits for calls that were submitted before.
    """

    def run() -> Result:
        torch.set_num_threads(num_threads)
        with torch.inference_mode():
            return call()

    return _thread.submit(run)
