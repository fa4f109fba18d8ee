"""The `triton` backend: our Triton kernels, and matrix products by torch (cuBLAS or hipBLASLt on a GPU)."""

from codescaler.ops.triton.backend import make_backend

__all__ = ["make_backend"]
