"""What is here, and how fast it can be: versions, the card, and the ceilings that other parts are held against."""

import importlib.metadata
import statistics

import torch

from benches.gpu.parts import Emit, Row, Setting
from codescaler.commands.info import describe_host
from codescaler.ops import select_backend
from codescaler.testing import measure_seconds

PACKAGES = ("torch", "triton", "transformers", "tokenizers", "safetensors", "numpy", "pybind11", "peft", "pytest")


def run(setting: Setting, emit: Emit) -> None:
    emit(Row("versions", None, {name: importlib.metadata.version(name) for name in PACKAGES}))
    emit(Row("card", None, _describe_card(setting.device)))
    host = describe_host()
    emit(Row("host", None, {"cpu": host["cpu_model"], "threads": host["num_threads"], "backend": host["backend"]}))
    emit(Row("backends", None, host["backends"]))
    description = select_backend("triton", setting.device.type).description
    emit(Row("triton backend", "Triton" in description, {"description": description}))
    dtype = torch.float32 if setting.is_small else torch.bfloat16
    emit(Row("matrix product", None, _measure_product(64 if setting.is_small else 8192, dtype, setting.device)))
    emit(Row("copy", None, _measure_copy(1 << 16 if setting.is_small else 1 << 32, setting.device)))


def _describe_card(device: torch.device) -> dict[str, str | int]:
    if device.type != "cuda":
        return {"name": "none: Triton's interpreter on the CPU"}
    card = torch.cuda.get_device_properties(device)
    return {
        "name": card.name,
        "capability": f"{card.major}.{card.minor}",
        "multiprocessors": card.multi_processor_count,
        "memory_gib": round(card.total_memory / 2**30),
        "l2_mib": round(card.L2_cache_size / 2**20),
        "cuda": str(torch.version.cuda),
    }


def _measure_product(size: int, dtype: torch.dtype, device: torch.device) -> dict[str, float | str]:
    """A square product of random data: of zeros it would be faster, since switching costs power."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = _measure_median_seconds(lambda: a @ b, device)
    return {"size": size, "dtype": str(dtype).removeprefix("torch."), "tflops": 2 * size**3 / seconds / 1e12}


def _measure_copy(num_bytes: int, device: torch.device) -> dict[str, float | str]:
    """A copy on the device; bytes read and bytes written both count."""
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = _measure_median_seconds(lambda: target.copy_(source), device)
    return {"gib": num_bytes / 2**30, "tb_per_s": 2 * num_bytes / seconds / 1e12}


def _measure_median_seconds(call, device: torch.device) -> float:  # type: ignore[no-untyped-def]
    for _ in range(3):
        call()
    return statistics.median(measure_seconds(call, device) for _ in range(10))
