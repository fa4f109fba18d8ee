"""What this machine and this installation can do: for `codescaler info`, and for files of results."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from codescaler.checkpoint.download import resolve_folder
from codescaler.checkpoint.load import open_checkpoint
from codescaler.errors import BackendUnavailable, InvalidInput
from codescaler.ops import BACKEND_NAMES, explain_unavailable, select_backend
from codescaler.text.encoder import build_encoder
from codescaler.text.extract import LANGUAGES, is_valid_code


def describe_environment(backend: str, *packages: str) -> dict[str, Any]:
    """Returns the processor, what `backend` runs on there, torch's thread count, and versions, of `packages` too."""
    names = ("codescaler", "torch", *packages)
    return {
        "cpu_model": read_cpu_model(),
        "backend": select_backend(backend, "cpu").description,
        "num_threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in names},
        },
    }


def describe_host() -> dict[str, Any]:
    """Returns `describe_environment`, and which backends, GPUs and languages are available, or why they are not."""
    optional = ("triton", "transformers", "peft", "trl", "gguf")
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    return {
        **describe_environment("auto", "numpy", "safetensors", "tokenizers", "jinja2"),
        "optional_packages": {name: _get_version(name) or "not installed" for name in optional},
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "instruction_sets": _list_instruction_sets(),
        "backends": {
            f"{name} on {device}{', deterministic' if deterministic else ''}": _describe_backend(
                name, device, deterministic
            )
            for device in devices
            for name in BACKEND_NAMES
            for deterministic in ((False, True) if device == "cuda" else (False,))
        },
        "languages": {language: _describe_language(language) for language in LANGUAGES},
    }


def _describe_backend(name: str, device: str, deterministic: bool) -> str:
    try:
        reason = explain_unavailable(name, device)
        return reason or select_backend(name, device, deterministic=deterministic).description
    except BackendUnavailable as error:
        return str(error)


def describe_model(model: str) -> dict[str, Any]:
    """Returns what a model's folder says of itself, its system prompt among it. All of it is untrusted text."""
    folder = resolve_folder(model)
    checkpoint = open_checkpoint(folder, head="optional")
    config, text = checkpoint.config, build_encoder(checkpoint).text
    return {
        "folder": str(folder),
        "architecture": config.architecture,
        "head": config.head,
        "dtype": config.dtype,
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "max_positions": config.max_positions,
        "system_prompt": text.system,
    }


def _list_instruction_sets() -> list[str]:
    if explain_unavailable("cpu", "cpu") is not None:
        return []
    from codescaler.ops.cpu import list_supported_isas

    return list_supported_isas()


def _describe_language(language: str) -> str:
    try:
        is_valid_code("", language)
    except InvalidInput as error:
        return str(error)
    return "available"


def _get_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_cpu_model() -> str:
    """Returns the processor's name, which Linux tells in one file only."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
