"""The `cpu` backend: C++ kernels of `codescaler._C`, and oneDNN matrix products through torch."""

from codescaler.ops.cpu.backend import make_backend, supported_isas

__all__ = ["make_backend", "supported_isas"]
