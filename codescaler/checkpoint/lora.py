"""PEFT LoRA adapters: what one changes in its base model, and the merge, tensor by tensor.

Formula: `W + scale * B @ A` in float32, which the reader rounds once to the dtype it computes in; scale = alpha / r,
or alpha / sqrt(r) if rank-stabilised. Source: Hu et al., LoRA, 2021, equation 3; Kalajdzievski, rsLoRA, 2023; names
and patterns as in peft 0.21. This module knows names as the adapter writes them, not which of them a model has.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codescaler.checkpoint.config import DTYPES
from codescaler.checkpoint.tensor_files import StoredTensor, TensorSource, explain_no_safetensors, open_safetensors
from codescaler.errors import HostileFile, MissingTensor, ShapeMismatch, UnsupportedModel, WeightsError
from codescaler.io.json import Fields, read_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])(\.\w+)?\.weight")
_SAVED = re.compile(r"\.modules_to_save(\.\w+)?(?=\.(weight|bias)$)")
_UNUSED = re.compile(r".+\.original_module\.(weight|bias)")  # what a module to save was before
_TASKS = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}

# Settings of LoRA's variants, each of which must be absent, null, false or empty.
_VARIANTS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
# The other ways to initialise (pissa, olora, corda, loftq, lora_ga) change the base weights as well.
_PLAIN_INITS = (None, True, False, "gaussian", "eva", "mica", "orthogonal")

# An untrusted regular expression bounds no time: with few repeats and choices on short names it cannot backtrack long.
_MAX_REPEATS, _MAX_CHOICES, _MAX_NAME = 2, 4, 120


@dataclass(frozen=True)
class LoraDelta:
    """A low-rank change of one weight. Shapes: a [r, inputs], b [outputs, r]."""

    a: StoredTensor
    b: StoredTensor
    scale: float


@dataclass(frozen=True)
class MergedTensor:
    """A base weight with its change, merged each time it is read."""

    base: TensorSource
    delta: LoraDelta

    def __post_init__(self) -> None:
        shape = (self.delta.b.shape[0], self.delta.a.shape[1])
        if shape != self.base.shape:
            raise ShapeMismatch(
                f"{self.delta.a.origin} and its lora_B change a weight of shape {shape}, but "
                f"{self.base.origin} has {self.base.shape}; give the base model of the adapter."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def dtype(self) -> str:
        return "float32"

    @property
    def origin(self) -> str:
        return self.base.origin

    def read(self) -> torch.Tensor:
        weight = self.base.read()
        a, b = self.delta.a.read().float(), self.delta.b.read().float()
        return torch.addmm(weight.float(), b, a, alpha=self.delta.scale)


@dataclass(frozen=True)
class LoraAdapter:
    """What an adapter folder says.

    `replaced` holds whole tensors by the name they have in a full checkpoint, `deltas` low-rank changes by
    the name of the weight they change. `class_name` is that of a model for its task, None if the base model decides.
    """

    base_model: str | None
    revision: str | None
    class_name: str | None
    replaced: Mapping[str, StoredTensor]
    deltas: Mapping[str, LoraDelta]


def open_adapter(folder: Path) -> LoraAdapter:
    """Reads an adapter's settings and headers.

    `fan_in_fan_out` is not looked at: PEFT resets it for linear layers, and these models have no other.

    Raises:
        UnsupportedModel: it is no plain LoRA.
        WeightsError: a setting, a tensor or a file is missing or makes no sense.
    """
    where = folder / ADAPTER_CONFIG
    fields = Fields(read_json(where), str(where))
    _refuse_variants(fields)
    if not (folder / ADAPTER_FILE).exists():
        raise MissingTensor(explain_no_safetensors(folder, ADAPTER_FILE))
    replaced: dict[str, StoredTensor] = {}
    factors: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in open_safetensors(folder / ADAPTER_FILE).items():
        if not name.startswith(_PREFIX):
            raise WeightsError(f"{tensor.origin} has no role: an adapter's names start with {_PREFIX!r}.")
        name = name.removeprefix(_PREFIX)
        if _UNUSED.fullmatch(name):
            continue
        match = _FACTOR.fullmatch(name)
        if match is None and "lora_" in name:
            raise UnsupportedModel(f"{tensor.origin} belongs to a LoRA variant; merge it into its base with PEFT.")
        group, key = (factors.setdefault(match["module"], {}), match["factor"]) if match else (replaced, name)
        key = _SAVED.sub("", key)
        if key in group and not _is_equal(tensor, group[key]):  # PEFT writes a saved embedding twice
            raise HostileFile(f"{tensor.origin} and {group[key].origin} mean the same tensor, and differ; remove one.")
        group[key] = tensor
    return LoraAdapter(
        base_model=fields.read_text("base_model_name_or_path", "") or None,
        revision=fields.read_text("revision", "") or None,
        class_name=_TASKS.get(fields.read_text("task_type", "")),
        replaced=replaced,
        deltas={f"{module}.weight": _make_delta(fields, module, pair) for module, pair in factors.items()},
    )


def _is_equal(a: StoredTensor, b: StoredTensor) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype) and a.dtype in DTYPES and torch.equal(a.read(), b.read())


def _refuse_variants(fields: Fields) -> None:
    settings: dict[str, Any] = {key: fields.values.get(key) for key in _VARIANTS if fields.values.get(key)}
    if fields.read_text("peft_type", "LORA") != "LORA":
        settings["peft_type"] = fields.values["peft_type"]
    if fields.read_text("bias", "none") != "none":
        settings["bias"] = fields.values["bias"]
    if fields.values.get("init_lora_weights") not in _PLAIN_INITS:
        settings["init_lora_weights"] = fields.values["init_lora_weights"]
    for key, value in settings.items():
        raise UnsupportedModel(
            f"{fields.where}: {key} is {str(value)[:80]}; only plain LoRA is merged here. "
            "Merge this adapter into its base model with PEFT, save that, and load it."
        )


def _make_delta(fields: Fields, module: str, pair: Mapping[str, StoredTensor]) -> LoraDelta:
    """Pairs the two factors of a module and works out their scale."""
    if len(pair) != 2:
        (only,) = pair.values()
        raise MissingTensor(f"{only.origin} has no partner: lora_A and lora_B come in pairs. Save the adapter again.")
    a, b = pair["A"], pair["B"]
    rank = int(_read_by_pattern(fields, "rank_pattern", "r", module))
    alpha = _read_by_pattern(fields, "alpha_pattern", "lora_alpha", module)
    for tensor, axis in ((a, 0), (b, 1)):
        if len(tensor.shape) != 2 or tensor.shape[axis] != rank or tensor.dtype not in DTYPES:
            raise ShapeMismatch(
                f"{tensor.origin} is {tensor.dtype} of shape {tensor.shape}, but {fields.where} gives it "
                f"rank {rank}; it should be a matrix of that rank in {', '.join(DTYPES)}."
            )
    return LoraDelta(a, b, alpha / (math.sqrt(rank) if fields.read_flag("use_rslora") else rank))


def _read_by_pattern(fields: Fields, patterns_key: str, default_key: str, module: str) -> float:
    """Returns the value of the first pattern that matches the end of a module's name, or else the default."""
    patterns = fields.read_object(patterns_key)
    is_rank = default_key == "r"
    for pattern in patterns.values:
        is_simple = len(re.findall(r"[*+?{]", pattern)) <= _MAX_REPEATS and pattern.count("|") <= _MAX_CHOICES
        if not is_simple or re.search(r"\)[*+?{]", pattern) or max(len(pattern), len(module)) > _MAX_NAME:
            raise UnsupportedModel(
                f"{patterns.where}: {pattern[:80]!r} on {module[:80]!r} could match without end; "
                "write the pattern in a simpler way."
            )
        try:
            # Dot before the name, then the name to its end: PEFT's own rule.
            is_match = re.match(rf"(.*\.)?({pattern})$", module)
        except (re.error, OverflowError) as error:  # "a{99999999999}" overflows
            raise WeightsError(f"{patterns.where}: {pattern[:80]!r} is no regular expression ({error}).") from error
        if is_match:
            return patterns.read_size(pattern) if is_rank else patterns.read_number(pattern)
    return fields.read_size(default_key, 8) if is_rank else fields.read_number(default_key, 8)
