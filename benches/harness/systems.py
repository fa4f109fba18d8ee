"""What scores beside what: systems, the checkpoints that all of them load, and the rounds in which they take turns."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from benches.harness.baselines import Float32
from benches.harness.options import report_progress
from codescaler.checkpoint.load import Checkpoint, open_checkpoint
from codescaler.model.projections import list_linear_names
from codescaler.quantize.int8 import save_quantized
from codescaler.testing import ModelShape, measure_peak_flops, measure_seconds, save_chat, write_random_rm
from codescaler.types import ActivationBits, QuantScheme

OURS, PADDED, SORTED = "codescaler", "transformers, one padded batch", "transformers, sorted, by fours"
INT8 = "codescaler, int8"
FLASH, VLLM = "transformers, flash, unpadded", "vLLM"
Score = Callable[[list[list[int]]], Float32]
Input = TypeVar("Input")


@dataclass(frozen=True)
class System:
    """One way to score: its name, its function, and the tokens that its forwards run over, where that is known."""

    name: str
    score: Score
    num_computed_tokens: int | None


def write_checkpoint(folder: Path, shape: ModelShape) -> None:
    """Writes a random reward model that every system can load.

    vLLM wants a tokenizer, though it is given token ids, and OpenRLHF an EOS token to pad with.
    """
    write_random_rm(folder, shape)
    save_chat(folder)
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def save_with_int8(folder: Path, int8_folder: Path) -> None:
    """Writes a folder's model with every linear layer in int8, whatever that does to its scores."""
    checkpoint = open_checkpoint(folder)
    save_quantized(checkpoint, select_every_linear(checkpoint, 8), int8_folder)


def select_every_linear(checkpoint: Checkpoint, bits: ActivationBits) -> dict[str, QuantScheme]:
    """Returns how inputs are rounded if every linear layer is int8, with activations of so many bits."""
    names = list_linear_names(checkpoint.config.num_layers)
    return {name: QuantScheme.of(bits, checkpoint.sources[f"{name}.weight"].shape[1]) for name in names}


def take_turns(
    scorers: Mapping[str, Callable[[Input], object]],
    draw: Callable[[int], Input],
    rounds: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[dict[str, list[float]], float]:
    """Times every scorer once a round, so that a slow minute of the machine falls on all of them.

    `draw` gives what is scored in a round, by its number. Returns each one's seconds, and the best of the peaks
    measured before each run: on a shared machine one measurement may be several times too low.
    """
    seconds: dict[str, list[float]] = {name: [] for name in scorers}
    peaks = []
    for number in range(1, rounds + 1):
        drawn = draw(number)
        for name, score in scorers.items():
            peaks.append(measure_peak_flops(dtype, device))
            seconds[name].append(measure_seconds(lambda: score(drawn), device))  # noqa: B023
            report_progress(f"round {number} of {rounds}: {name}: {seconds[name][-1]:.2f} s")
    return seconds, max(peaks)
