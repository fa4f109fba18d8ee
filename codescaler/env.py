"""The only reader of environment variables.

Variables:
    CODESCALER_CPU_ISA: force one instruction set of the C++ kernels ("generic", "avx2", "avx512",
        "avx512_bf16"). It does not reach oneDNN; set ONEDNN_MAX_CPU_ISA as well before torch is imported.
"""

import os


def forced_cpu_isa() -> str | None:
    """Returns the instruction set that the user forces, or None."""
    return os.environ.get("CODESCALER_CPU_ISA") or None
