"""`TrainConfig`: every setting of a training run, checked when it is made."""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from codescaler.errors import InvalidInput

Method = Literal["full", "lora", "head"]
Parallel = Literal["data", "fsdp"]

_LEARNING_RATES: dict[Method, float] = {"full": 1e-5, "lora": 2e-4, "head": 1e-3}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `fit`.

    Attributes:
        method: what learns: all weights, low-rank changes of every projection and the head, or the head alone.
        learning_rate: at its peak; None is 1e-5 for "full", 2e-4 for "lora", 1e-3 for "head".
        epochs: passes over the problems; a fraction is a share of one. Ignored where `max_steps` is given.
        max_steps: steps of the optimizer.
        step_tokens: distinct tokens (a shared prefix counts once) of one step: problems are added until it is reached.
        micro_batch_tokens: distinct tokens of one forward and backward; what memory depends on. A problem of more is
            left out and counted.
        max_length: tokens of the longest program with its problem, None for the model's positions.
        warmup_fraction: share of the steps in which the learning rate rises to its peak.
        final_fraction: share of the peak that the cosine comes down to.
        weight_decay: of matrices, as in AdamW; beta1, beta2, epsilon: AdamW's.
        max_grad_norm: a longer gradient is scaled down to this.
        center_coefficient: c of `bradley_terry_loss`.
        teacher_weight: of `margin_mse_loss` beside the Bradley-Terry loss; programs carry a teacher's `score` then, and
            problems without a pair are learned from too.
        lora_rank, lora_alpha: the change of a weight is alpha / rank * B A.
        dtype: of activations: "auto" is bfloat16 where the device has units for it, else float32. Weights, gradients,
            optimizer, head and loss are float32.
        gradient_checkpointing: keep each layer's input only, and compute the rest a second time.
        evaluate_every: steps between two validations, None for as many as the first epoch has; the last step is always
            validated.
        save_every: steps between two checkpoints to resume from, None for one every ten minutes; the last step has one.
        parallel: with torchrun: "data" keeps a copy of all on each process, "fsdp" a share of weights and optimizer.
        seed: of the order of problems and of LoRA's start.
    """

    method: Method = "full"
    learning_rate: float | None = None
    epochs: float = 1.0
    max_steps: int | None = None
    step_tokens: int = 16384
    micro_batch_tokens: int = 4096
    max_length: int | None = None
    warmup_fraction: float = 0.1
    final_fraction: float = 0.1
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    center_coefficient: float = 0.01
    teacher_weight: float = 0.0
    lora_rank: int = 16
    lora_alpha: float = 32.0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    evaluate_every: int | None = None
    save_every: int | None = None
    parallel: Parallel = "data"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("method", get_args(Method)),
            ("parallel", get_args(Parallel)),
            ("dtype", ("auto", "float32", "bfloat16")),
        ):
            if getattr(self, name) not in allowed:
                raise InvalidInput(f"{name}={getattr(self, name)!r}; choose one of {', '.join(map(repr, allowed))}")
        for name, low, high, is_open in _RANGES:
            value = getattr(self, name)
            if value is None and type(None) in _KINDS[name]:
                continue
            is_whole = int in _KINDS[name]
            is_number = (
                isinstance(value, int if is_whole else (int, float))
                and not isinstance(value, bool)
                and math.isfinite(value)
            )
            if not is_number or not low <= value <= high or (is_open and value == low):
                kind = "whole number" if is_whole else "number"
                bounds = (
                    f"{'above' if is_open else 'of at least'} {low:g}{f', at most {high:g}' if high < _FAR else ''}"
                )
                raise InvalidInput(f"{name}={value!r}; give a {kind} {bounds}")
        if not isinstance(self.gradient_checkpointing, bool):
            raise InvalidInput(f"gradient_checkpointing={self.gradient_checkpointing!r}; give True or False")

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after warm-up."""
        return _LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate

    def learning_rate_at(self, step: int, num_steps: int) -> float:
        """The learning rate of step `step` of 0..num_steps - 1: linear warm-up, then half a cosine."""
        num_warmup = max(1, round(self.warmup_fraction * num_steps))
        if step < num_warmup:
            return self.peak_learning_rate * (step + 1) / num_warmup
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        share = self.final_fraction + (1 - self.final_fraction) * (1 + math.cos(math.pi * progress)) / 2
        return self.peak_learning_rate * share


_FAR, _BELOW_ONE = 1e18, 0.999999
# Name, lowest, highest, and whether the lowest is excluded.
_RANGES: tuple[tuple[str, float, float, bool], ...] = (
    ("learning_rate", 0, _FAR, True),
    ("epochs", 0, _FAR, True),
    ("max_steps", 1, _FAR, False),
    ("step_tokens", 1, _FAR, False),
    ("micro_batch_tokens", 1, _FAR, False),
    ("max_length", 1, _FAR, False),
    ("warmup_fraction", 0, 1, False),
    ("final_fraction", 0, 1, False),
    ("weight_decay", 0, _FAR, False),
    ("beta1", 0, _BELOW_ONE, False),
    ("beta2", 0, _BELOW_ONE, False),
    ("epsilon", 0, _FAR, True),
    ("max_grad_norm", 0, _FAR, True),
    ("center_coefficient", 0, _FAR, False),
    ("teacher_weight", 0, _FAR, False),
    ("lora_rank", 1, _FAR, False),
    ("lora_alpha", 0, _FAR, True),
    ("evaluate_every", 1, _FAR, False),
    ("save_every", 1, _FAR, False),
    ("seed", 0, _FAR, False),
)
# What a setting may be stands in its annotation.
_KINDS = {field.name: get_args(field.type) or (field.type,) for field in fields(TrainConfig)}
