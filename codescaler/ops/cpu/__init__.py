"""The `cpu` backend: C++ kernels of `codescaler._C`, and oneDNN matrix products through torch."""

from codescaler.ops.cpu import openmp

openmp.share_library()  # before the extension is imported

from codescaler.ops.cpu.backend import list_supported_isas, make_backend  # noqa: E402

__all__ = ["list_supported_isas", "make_backend"]
