"""Backends: one object of operations per device family, chosen once and passed by argument."""

import importlib.util
import logging

import torch

from codescaler.env import is_triton_interpreted, read_forced_cpu_isa
from codescaler.errors import BackendUnavailable, InvalidInput
from codescaler.ops import reference
from codescaler.ops.backend import Backend, replace_operations
from codescaler.ops.linear import LinearFormat, LinearWeights
from codescaler.ops.spec import AttentionSpec, Heads, RotaryTables
from codescaler.ops.tree import Tree

__all__ = [
    "BACKEND_NAMES",
    "AttentionSpec",
    "Backend",
    "Heads",
    "LinearFormat",
    "LinearWeights",
    "RotaryTables",
    "Tree",
    "explain_unavailable",
    "replace_operations",
    "select_backend",
]

BACKEND_NAMES = ("cpu", "triton", "reference")

# What is slow without kernels, and how to get them. Wheels with kernels are those of benches/tools/wheels.py.
_NO_EXTENSION = (
    "codescaler is here without C++ kernels; the wheels named manylinux_2_28 have them, for CPython 3.10 to 3.13 on "
    "Linux (glibc 2.28 or newer, x86-64 or AArch64); anywhere, `pip install .` in the folder of the source compiles "
    "them, with a C++17 compiler"
)
_SLOW_REASON = (
    "PyTorch alone computes, so attention writes every logit to memory, each step between matrix products is several "
    "passes over memory, and linear layers of 8 bits are no faster"
)

_log = logging.getLogger(__name__)


def explain_unavailable(name: str, device_type: str) -> str | None:
    """Says why backend `name` cannot run on `device_type` ("cpu", "cuda", ...), or None if it can."""
    if name == "reference":
        return None
    if name == "triton":
        return _explain_no_triton(device_type)
    if device_type != "cpu":
        return f"the C++ kernels run on device 'cpu', not {device_type!r}"
    if importlib.util.find_spec("codescaler._C") is None:
        return _NO_EXTENSION
    try:
        import codescaler.ops.cpu  # noqa: F401
    except ImportError as error:
        return f"the C++ extension codescaler._C cannot be imported ({error}); reinstall with a C++17 compiler"
    return None


def _explain_no_triton(device_type: str) -> str | None:
    if is_triton_interpreted() != (device_type == "cpu"):
        return (
            f"TRITON_INTERPRET is set: the interpreter runs on device 'cpu', not {device_type!r}; unset it for a GPU"
            if is_triton_interpreted()
            else "Triton's kernels run on a GPU; use device='cuda', or set TRITON_INTERPRET=1 to try them on a CPU"
        )
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed; pip install 'codescaler[gpu]'"
    if device_type == "cuda" and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        if major < 8:
            return f"Triton's kernels are for compute capability 8.0 or more, and this GPU has {major}.{minor}"
    return None


def select_backend(name: str, device_type: str, *, deterministic: bool = False) -> Backend:
    """Returns backend `name`, or with "auto" the fastest that this host has for `device_type`.

    `deterministic` asks for rows that have the same bits in any batch: on a CPU they have, on a GPU that takes linear
    layers of our own.

    Raises:
        BackendUnavailable: a backend or instruction set asked for by name cannot run here; it never falls back. Or it
            has no linear layers that are deterministic.
        InvalidInput: no backend has that name.
    """
    if name not in ("auto", *BACKEND_NAMES):
        raise InvalidInput(f"backend {name!r} is unknown; choose 'auto' or one of {', '.join(BACKEND_NAMES)}")
    if name == "auto":
        fastest = "cpu" if device_type == "cpu" else "triton"
        reason = explain_unavailable(fastest, device_type)
        if reason is None:
            name = fastest
        else:
            _log.warning(
                "backend 'auto' passes over %r (%s) and takes the slow 'reference': %s", fastest, reason, _SLOW_REASON
            )
            name = "reference"
    reason = explain_unavailable(name, device_type)
    if reason is not None:
        raise BackendUnavailable(f"backend {name!r} cannot run on {device_type!r}: {reason}")
    if name == "reference":
        if deterministic and device_type != "cpu":
            raise BackendUnavailable(
                f"deterministic=True cannot be kept by backend 'reference' on {device_type!r}: torch's products sum a "
                "row in an order that depends on the size of the batch; use backend='triton', or device='cpu'"
            )
        return reference.BACKEND
    if name == "triton":
        from codescaler.ops import triton

        return triton.make_backend(deterministic=deterministic)
    from codescaler.ops import cpu

    return cpu.make_backend(read_forced_cpu_isa())
