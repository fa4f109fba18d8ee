"""Checks of an engine's arguments, and what "auto" means for a device and a dtype."""

import contextlib
import logging
from collections.abc import Sequence

import torch

from codescaler.errors import BackendUnavailable, InvalidInput
from codescaler.ops import Backend

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_log = logging.getLogger(__name__)


def require_choice(name: str, value: str | None, allowed: Sequence[str | None]) -> None:
    """Raises InvalidInput if an argument is none of the values allowed."""
    if value not in allowed:
        raise InvalidInput(f"{name}={value!r} is unknown; choose {' or '.join(map(repr, allowed))}")


def require_count(name: str, count: int | None) -> None:
    """Raises InvalidInput if an argument is neither a whole number of at least 1 nor None."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise InvalidInput(f"{name}={count!r}; give a whole number of at least 1, or None")


def is_list(value: object) -> bool:
    """Says whether a value is a sequence of items: a text is none."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def make_current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Makes a GPU the current one, on which Triton launches, whatever GPU the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def select_device(device: str, why_not_gpu: str | None = None) -> torch.device:
    """Returns the device of this name; "auto" is a GPU where there is one, and no reason against it.

    Raises: InvalidInput if it is no device name of ours. BackendUnavailable if there is no such GPU.
    """
    if device == "auto":
        has_gpu = torch.cuda.is_available()
        if has_gpu and why_not_gpu is not None:
            _log.warning("device 'auto' passes over the GPU (%s) and takes the CPU", why_not_gpu)
        return torch.device("cuda" if has_gpu and why_not_gpu is None else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise InvalidInput(f"device={device!r} is no device name ({error}); try 'cpu' or 'cuda'") from error
    if target.type not in ("cpu", "cuda"):
        raise InvalidInput(f"device={device!r} is not supported; use 'cpu' or 'cuda'")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if target.type == "cuda" and (target.index or 0) >= count:
        raise BackendUnavailable(f"device={device!r}: torch sees {count} GPUs; use device='cpu' or another index")
    return target


def select_dtype(dtype: str, saved: str, device: torch.device, backend: Backend) -> torch.dtype:
    """Returns the dtype to compute in; every change from the checkpoint's own is logged."""
    wanted = saved if dtype == "auto" else dtype
    if dtype == "auto" and device.type == "cpu":
        is_slow = wanted == "float16" or (wanted == "bfloat16" and not backend.is_bf16_fast)
        if is_slow:
            _log.info("checkpoint is %s; computing in float32, which this CPU is faster and no less exact in", saved)
            wanted = "float32"
    return _DTYPES[wanted]
