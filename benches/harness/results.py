"""Where figures are written, with what they were measured on."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benches.harness.options import report_progress
from codescaler.commands.info import describe_environment
from codescaler.testing import ModelShape, describe_device

RESULTS = Path(__file__).parents[1] / "results"


def describe_command(name: str, words: Sequence[str] | None = None) -> str:
    """The command of a bench and its words, those of this process if None; files and folders by their last name."""
    return " ".join(["python benches", name, *(word.rpartition("/")[2] for word in words or sys.argv[1:])])


def save(
    name: str,
    arguments: argparse.Namespace,
    shape: ModelShape,
    device: torch.device,
    values: Mapping[str, Any],
) -> Path:
    """Writes figures to benches/results/, with what they were measured on, and returns the file's path."""
    suffix = "" if device.type == "cpu" else f"_{device.type}"
    path = RESULTS / f"{name}_{arguments.shape}_{arguments.dtype}{suffix}.json"
    path.parent.mkdir(exist_ok=True)
    setting = {
        "shape": {"name": arguments.shape, **asdict(shape)},
        "dtype": arguments.dtype,
        "device": describe_device(device, "cpu"),
        **describe_environment("auto", "transformers"),
    }
    path.write_text(json.dumps(setting | dict(values), indent=2) + "\n")
    report_progress(f"wrote {path}")
    return path
