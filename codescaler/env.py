"""The only reader of environment variables.

Variables:
    CODESCALER_CPU_ISA: force one instruction set of the C++ kernels ("generic", "avx2", "avx512", "avx512_bf16"; on
        Arm "generic", "neon", "neon_bf16"). It does not reach oneDNN; set ONEDNN_MAX_CPU_ISA as well before torch is
        imported.
    CODESCALER_API_KEY: what `codescaler data sample --endpoint` and our client show a server, and what clients must
        show `codescaler serve`. No other program's variable is read, so that its key is not sent to whatever server is
        named.
    WORLD_SIZE, LOCAL_RANK: torchrun's; how many processes it started, and which of this machine's this one is.
    NO_COLOR: set to anything, output for people has no colours (no-color.org).
    OMP_WAIT_POLICY: OpenMP's; how threads of a CPU kernel wait for each other. `codescaler serve` sets it to passive
        where it is not set.
    TRITON_INTERPRET: Triton's own; set to 1, its kernels run in its interpreter on the CPU, slowly.
"""

import os

from codescaler.errors import InvalidInput

API_KEY = "CODESCALER_API_KEY"


def read_forced_cpu_isa() -> str | None:
    """Returns the instruction set that the user forces, or None."""
    return os.environ.get("CODESCALER_CPU_ISA") or None


def read_api_key() -> str | None:
    """Returns the key that a server is shown, or that its clients must show; or None."""
    return os.environ.get(API_KEY) or None


def may_use_colours() -> bool:
    """Whether output for people may have colours, as far as the user is concerned."""
    return not os.environ.get("NO_COLOR")


def use_passive_waiting() -> None:
    """Has OpenMP's threads sleep while they wait, unless the user says otherwise. Call it before torch is imported.

    A thread that spins for one that has no core takes that core's time: beside other programs, forwards of a small
    model took 40 times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def count_launched_processes() -> int:
    """The number of processes that torchrun started, 1 without it."""
    return _read_count("WORLD_SIZE", "1")


def read_local_rank() -> int:
    """Returns which of this machine's processes this one is, 0 without torchrun."""
    return _read_count("LOCAL_RANK", "0")


def _read_count(name: str, default: str) -> int:
    value = os.environ.get(name, default)
    if not value.isdecimal():
        raise InvalidInput(f"the environment variable {name} is {value!r}, which torchrun does not write; unset it")
    return int(value)


def is_triton_interpreted() -> bool:
    """Whether Triton's interpreter is asked for, read as Triton reads it."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")
