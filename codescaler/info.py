"""What a result file says about the machine and the software that made it."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from codescaler.ops import select_backend


def describe_environment(backend: str, *packages: str) -> dict[str, Any]:
    """Returns the processor, what `backend` runs on there, torch's thread count, and versions, of `packages` too."""
    names = ("codescaler", "torch", *packages)
    return {
        "cpu_model": cpu_model(),
        "backend": select_backend(backend, "cpu").description,
        "num_threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in names},
        },
    }


def cpu_model() -> str:
    """Returns the processor's name, which Linux tells in one file only."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
