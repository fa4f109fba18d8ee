"""`TrainConfig`: every setting of a training run, said once and checked when a configuration is made."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args

from codescaler.errors import InvalidInput

Method = Literal["full", "lora", "head"]
Parallel = Literal["data", "fsdp"]

_LEARNING_RATES: dict[Method, float] = {"full": 1e-5, "lora": 2e-4, "head": 1e-3}


def _describe(
    meaning: str,
    *,
    least: float = -math.inf,
    above: float | None = None,
    most: float = math.inf,
    unset: str | None = None,
) -> Mapping[str, Any]:
    """What a field says of its setting: its meaning, the limits of a number, and what None stands for."""
    return {"meaning": meaning, "least": least, "above": above, "most": most, "unset": unset}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `fit`."""

    method: Method = field(
        default="full",
        metadata=_describe(
            "What learns: all weights (full), LoRA of every projection and the head (lora), or the head alone (head)."
        ),
    )
    learning_rate: float | None = field(
        default=None,
        metadata=_describe(
            "Learning rate at its peak.", above=0, unset=", ".join(f"{r:g} for {m}" for m, r in _LEARNING_RATES.items())
        ),
    )
    epochs: float = field(
        default=1.0,
        metadata=_describe("Passes over the problems. A fraction is allowed. max_steps overrides it.", above=0),
    )
    max_steps: int | None = field(
        default=None, metadata=_describe("Steps of the optimizer.", least=1, unset="as many as the epochs have")
    )
    step_tokens: int = field(
        default=16384,
        metadata=_describe(
            "Distinct tokens of one step: a shared prefix counts once. Problems are added until it is reached.", least=1
        ),
    )
    micro_batch_tokens: int = field(
        default=4096,
        metadata=_describe(
            "Distinct tokens of one forward and backward. Memory depends on it. A larger problem is left out and "
            "counted.",
            least=1,
        ),
    )
    max_length: int | None = field(
        default=None,
        metadata=_describe("Tokens of the longest program with its problem.", least=1, unset="the model's positions"),
    )
    warmup_fraction: float = field(
        default=0.1,
        metadata=_describe("Fraction of the steps in which the learning rate rises to its peak.", least=0, most=1),
    )
    final_fraction: float = field(
        default=0.1, metadata=_describe("Fraction of the peak at the end of the cosine.", least=0, most=1)
    )
    weight_decay: float = field(default=0.0, metadata=_describe("AdamW's weight decay, for matrices only.", least=0))
    beta1: float = field(default=0.9, metadata=_describe("AdamW's beta1.", least=0, most=0.999999))
    beta2: float = field(default=0.999, metadata=_describe("AdamW's beta2.", least=0, most=0.999999))
    epsilon: float = field(default=1e-8, metadata=_describe("AdamW's epsilon.", above=0))
    max_grad_norm: float = field(
        default=1.0, metadata=_describe("Largest norm of the gradient. A longer gradient is scaled down.", above=0)
    )
    center_coefficient: float = field(default=0.01, metadata=_describe("c of bradley_terry_loss.", least=0))
    teacher_weight: float = field(
        default=0.0,
        metadata=_describe(
            "Weight of margin_mse_loss beside the Bradley-Terry loss. Above 0, each program needs a teacher's "
            "score, and problems without a pair are learned from too.",
            least=0,
        ),
    )
    exit_weight: float = field(
        default=0.0,
        metadata=_describe(
            "Weight of exit_loss beside the Bradley-Terry loss. Above 0, the layers where fit-exits has exits learn to "
            "say what the last one says, so that an adaptive ranking drops programs earlier.",
            least=0,
        ),
    )
    average_last: float = field(
        default=0.0,
        metadata=_describe(
            "Fraction of the steps, the last ones, over which the weights are averaged. The average is the last model.",
            least=0,
            most=1,
        ),
    )
    lora_rank: int = field(default=16, metadata=_describe("Rank of LoRA's B A.", least=1))
    lora_alpha: float = field(default=32.0, metadata=_describe("LoRA changes a weight by alpha / rank * B A.", above=0))
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        default="auto",
        metadata=_describe(
            "Dtype of activations: auto is bfloat16 where the device is faster in it, else float32. Weights, "
            "gradients, optimizer, head and loss are float32."
        ),
    )
    gradient_checkpointing: bool = field(
        default=False, metadata=_describe("Keep only the input of each layer, and compute the rest a second time.")
    )
    evaluate_every: int | None = field(
        default=None,
        metadata=_describe(
            "Steps between two validations. The last step is always validated.",
            least=1,
            unset="as many as the first epoch has",
        ),
    )
    save_every: int | None = field(
        default=None,
        metadata=_describe(
            "Steps between two checkpoints to resume from. The last step always has a checkpoint.",
            least=1,
            unset="a checkpoint every ten minutes",
        ),
    )
    parallel: Parallel = field(
        default="data",
        metadata=_describe(
            "What each process of torchrun holds: a copy of everything (data), or a shard of weights and optimizer "
            "(fsdp)."
        ),
    )
    seed: int = field(default=0, metadata=_describe("Seed of the order of problems and of LoRA's start.", least=0))

    def __post_init__(self) -> None:
        for setting in list_settings():
            setting.check(getattr(self, setting.name))
        if self.exit_weight and self.method == "head":
            raise InvalidInput(f"exit_weight={self.exit_weight}, and with method='head' no layer learns; leave it out")

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after warm-up."""
        return _LEARNING_RATES[self.method] if self.learning_rate is None else self.learning_rate

    def compute_learning_rate(self, step: int, num_steps: int) -> float:
        """The learning rate of step `step` of 0..num_steps - 1: linear warm-up, then half a cosine."""
        num_warmup = max(1, round(self.warmup_fraction * num_steps))
        if step < num_warmup:
            return self.peak_learning_rate * (step + 1) / num_warmup
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        share = self.final_fraction + (1 - self.final_fraction) * (1 + math.cos(math.pi * progress)) / 2
        return self.peak_learning_rate * share


class Setting(NamedTuple):
    """One setting, read from its field of `TrainConfig`."""

    name: str
    kind: type
    choices: tuple[str, ...]
    meaning: str
    default: str
    may_be_none: bool
    least: float
    above: float | None
    most: float

    @property
    def allowed(self) -> str:
        """The values that may be given, in words."""
        if self.choices:
            return f"one of {', '.join(map(repr, self.choices))}"
        if self.kind is bool:
            return "True or False"
        kind = "whole number" if self.kind is int else "number"
        lowest = f"of at least {self.least:g}" if self.above is None else f"above {self.above:g}"
        return f"a {kind} {lowest}" + (f", at most {self.most:g}" if self.most < math.inf else "")

    @property
    def text(self) -> str:
        """The setting in full: its meaning, its default and the values that it may have."""
        return f"{self.meaning} Default: {self.default}. Give {self.allowed}."

    def check(self, value: object) -> None:
        """Raises `InvalidInput` for a value that may not be given."""
        if not (self._allows(value) or (value is None and self.may_be_none)):
            raise InvalidInput(f"{self.name}={value!r}; {'choose' if self.choices else 'give'} {self.allowed}")

    def _allows(self, value: object) -> bool:
        if self.choices:
            return value in self.choices
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if not isinstance(value, int if self.kind is int else (int, float)) or not math.isfinite(value):
            return False
        is_above = value >= self.least if self.above is None else value > self.above
        return is_above and value <= self.most


def list_settings() -> Iterator[Setting]:
    """Reads the settings from the fields of `TrainConfig`, in their order."""
    for each in fields(TrainConfig):
        kinds = get_args(each.type) or (each.type,)
        choices = tuple(kind for kind in kinds if isinstance(kind, str))
        about = dict(each.metadata)
        default = about.pop("unset") or str(each.default)
        yield Setting(
            each.name, str if choices else kinds[0], choices, default=default, may_be_none=NoneType in kinds, **about
        )


_LINES = (f"{setting.name}: {setting.text}" for setting in list_settings())
TrainConfig.__doc__ = "\n        ".join([f"{TrainConfig.__doc__}\n\n    Attributes:", *_LINES])
