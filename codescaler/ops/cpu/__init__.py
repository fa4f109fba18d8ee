"""The `cpu` backend: C++ kernels of `codescaler._C`, and oneDNN matrix products through torch."""

from codescaler.ops.cpu.backend import list_supported_isas, make_backend

__all__ = ["list_supported_isas", "make_backend"]
