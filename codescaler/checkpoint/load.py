"""A checkpoint folder to validated tensors under canonical names.

Nothing but JSON and safetensors is ever read: no pickle, no code. Everything about the folder is checked from
headers before the first tensor is read. This module does not know how a decoder uses the tensors.

Canonical names are those of `model.config.tensor_shapes`, and `head.weight` [1, D], `head.bias` [1].
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from codescaler.checkpoint.config import DTYPES, list_tensor_shapes, parse_config
from codescaler.checkpoint.download import resolve_folder
from codescaler.checkpoint.lora import ADAPTER_CONFIG, LoraAdapter, MergedTensor, open_adapter
from codescaler.checkpoint.tensor_files import INDEX_FILE, SINGLE_FILE, StoredTensor, TensorSource, open_model_files
from codescaler.errors import (
    CodescalerError,
    HostileFile,
    InvalidInput,
    MissingTensor,
    ShapeMismatch,
    UnsupportedModel,
    WeightsError,
)
from codescaler.io.json import read_json
from codescaler.types import HADAMARD_BLOCK, HeadKind, ModelConfig

_BODY = re.compile(r"(?:model\.language_model\.|language_model\.model\.|model\.)?((?:embed_tokens|layers|norm)\..+)")
_UNUSED = re.compile(r"(?:language_model\.)?lm_head\.weight|(?:.+\.)?rotary_emb\.inv_freq")

# Stored name of a head's tensors -> canonical name.
HEADS: dict[HeadKind, dict[str, str]] = {
    "none": {},
    "sequence_classification": {"score.weight": "head.weight"},
    "token_classification": {"score.weight": "head.weight", "score.bias": "head.bias"},
    "value_head": {"v_head.summary.weight": "head.weight", "v_head.summary.bias": "head.bias"},
}
_HEAD_NAMES = {name for names in HEADS.values() for name in names}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors are all present and of the right shape, none of them read yet.

    `config.head` is the head that was found and `config.dtype` the dtype the embedding is stored in.
    `base_folder` is the base model's folder if `folder` is a LoRA adapter.
    """

    folder: Path
    config: ModelConfig
    sources: Mapping[str, TensorSource] = field(repr=False)
    base_folder: Path | None = None

    def has(self, name: str) -> bool:
        """Says whether the checkpoint has a tensor of this canonical name."""
        return name in self.sources

    def read_tensor(self, name: str) -> torch.Tensor:
        """Returns a tensor in its stored dtype, or in float32 if an adapter changes it.

        It may be a view of the mapped file: do not write to it.

        Raises:
            MissingTensor: the checkpoint has no such tensor. HostileFile: a quantised weight's scale is not positive.
        """
        if name not in self.sources:
            raise MissingTensor(f"{self.folder}: there is no tensor {name!r}; ask has() first.")
        tensor = self.sources[name].read()
        if name.endswith(".weight_scale") and not bool((tensor.isfinite() & (tensor > 0)).all()):
            raise HostileFile(f"{self.sources[name].origin} holds a scale that is no positive number; fetch it again.")
        return tensor

    def require_plain(self) -> None:
        """Raises UnsupportedModel if linear layers are quantised, which cannot be trained."""
        if self.config.quantized_linears:
            raise UnsupportedModel(
                f"{self.folder} is quantised to {self.config.quantization}, which can be scored with but not trained; "
                "train the model as it was before, and run `codescaler quantize` on the result."
            )

    def get(self, name: str) -> torch.Tensor | None:
        """Returns what `tensor` does, or None if there is no such tensor."""
        return self.read_tensor(name) if self.has(name) else None


def open_checkpoint(
    folder: Path,
    *,
    head: Literal["required", "optional", "none"] = "required",
    base_model: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Opens a checkpoint folder or a LoRA adapter folder and checks it from its headers.

    `head` "required" wants a reward head; "optional" takes it where there is one; "none" leaves heads aside, so any
    supported causal LM will do.
    `base_model` is the folder or hub id of an adapter's base model, None what the adapter names; `revision`
    and `local_files_only` are for looking up that base model on the hub, and for nothing else.

    Raises:
        InvalidInput: an argument is not usable. UnsupportedModel: the engine does not compute this model.
        WeightsError: a file or tensor is missing, damaged, misleading or of another shape.
    """
    if head not in ("required", "optional", "none"):
        raise InvalidInput(f"head is {head!r}; give 'required', 'optional' or 'none'.")
    folder, adapter, body = Path(folder), None, Path(folder)
    if (folder / ADAPTER_CONFIG).exists():
        adapter = open_adapter(folder)
        body = _locate_base_folder(folder, adapter, base_model, revision, local_files_only)
    elif base_model is not None:
        raise InvalidInput(f"base_model was given, but {folder} has no {ADAPTER_CONFIG}; leave base_model out.")
    config = parse_config(read_json(body / "config.json"), where=str(body / "config.json"))
    stored = open_model_files(body)
    kind: HeadKind = "none" if head == "none" else _choose_head_kind(config, stored, adapter)
    if kind == "none" and head == "required":
        raise MissingTensor(
            f"{folder}: {config.architecture} has no reward head. Give a reward model, or head='none' for features "
            "only."
        )
    shapes = list_tensor_shapes(config)
    for name, scheme in config.quantized_linears.items():
        if scheme.has_hadamard and shapes[f"{name}.weight"][1] % HADAMARD_BLOCK:
            raise UnsupportedModel(
                f"{body / 'config.json'}: {name} has {shapes[f'{name}.weight'][1]} inputs, no multiple of the "
                f"{HADAMARD_BLOCK} of a Hadamard transform; quantise the model again, as `codescaler quantize` does."
            )
    head_shapes: dict[str, tuple[int, ...]] = {"head.weight": (1, config.hidden_size), "head.bias": (1,)}
    shapes |= {role: head_shapes[role] for role in HEADS[kind].values()}
    sources: dict[str, TensorSource] = dict(_assign_roles(stored, kind, shapes))
    if adapter is not None:
        sources |= _assign_roles(adapter.replaced, kind, shapes)
        sources |= _merge_adapter(adapter, sources)
    _validate(sources, shapes, kind, folder, _list_stored_dtypes(config))
    config = replace(config, head=kind, dtype=sources["embed_tokens.weight"].dtype)
    return Checkpoint(folder, config, sources, None if adapter is None else body)


def _locate_base_folder(
    folder: Path,
    adapter: LoraAdapter,
    base_model: str | Path | None,
    revision: str | None,
    local_files_only: bool,
) -> Path:
    """Returns the folder of an adapter's base model."""
    for name in (SINGLE_FILE, INDEX_FILE):
        if (folder / name).exists():
            raise WeightsError(f"{folder} holds both {ADAPTER_CONFIG} and {name}; move one of the two models away.")
    if base_model is None:
        base_model, revision = adapter.base_model, revision or adapter.revision
    if base_model is None:
        raise WeightsError(f"{folder / ADAPTER_CONFIG} names no base model; give base_model.")
    try:
        body = resolve_folder(base_model, revision=revision, local_files_only=local_files_only)
    except CodescalerError as error:
        raise WeightsError(f"the base model of the adapter {folder}: {error} Or give another base_model.") from error
    if (body / ADAPTER_CONFIG).exists():
        raise UnsupportedModel(f"the base model {body} is an adapter itself; merge it with PEFT and give the result.")
    return body


def _choose_head_kind(config: ModelConfig, stored: Mapping[str, StoredTensor], adapter: LoraAdapter | None) -> HeadKind:
    """Returns the head to score with, by the adapter's task, the architecture or a value head's tensor."""
    if adapter is not None and adapter.head is not None:
        return adapter.head
    if config.head != "none":
        return config.head
    if "v_head.summary.weight" in stored or (adapter and "v_head.summary.weight" in adapter.replaced):
        return "value_head"
    return "none"


def _assign_roles(
    stored: Mapping[str, StoredTensor], kind: HeadKind, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, StoredTensor]:
    """Returns tensors by canonical name; refuses one without a role, for ignoring it could change scores."""
    roles: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        if _UNUSED.fullmatch(name) or (kind == "none" and name in _HEAD_NAMES):
            continue
        match = _BODY.fullmatch(name)
        role = match[1] if match else HEADS[kind].get(name)
        if role is None or role not in shapes:
            raise WeightsError(
                f"{tensor.origin} has no role in the model that config.json describes (head: {kind}). "
                "Fix config.json, or save the model without this tensor."
            )
        if role in roles:
            raise HostileFile(f"{tensor.origin} and {roles[role].origin} mean the same tensor; remove one.")
        roles[role] = tensor
    return roles


def _merge_adapter(adapter: LoraAdapter, sources: Mapping[str, TensorSource]) -> dict[str, TensorSource]:
    """Returns the weights that an adapter changes, merged with their changes."""
    merged: dict[str, TensorSource] = {}
    for name, delta in adapter.deltas.items():
        match = _BODY.fullmatch(name)
        role = match[1] if match else name
        if not role.endswith("_proj.weight") or role not in sources:
            raise UnsupportedModel(
                f"{delta.a.origin}: only attention and MLP projections that the base model has are merged. "
                "Merge this adapter into its base model with PEFT, save that, and load it."
            )
        if sources[role].dtype in ("int8", "float8_e4m3fn"):
            raise UnsupportedModel(
                f"{sources[role].origin} is {sources[role].dtype}, and a LoRA adapter cannot be merged into it. "
                "Give the base model as it was before, with quantization='int8' if it is to be quantised after."
            )
        if role in merged:
            raise HostileFile(f"{delta.a.origin} changes {role} a second time; remove one.")
        merged[role] = MergedTensor(sources[role], delta)
    return merged


def _list_stored_dtypes(config: ModelConfig) -> dict[str, str]:
    """The dtype of each quantised weight, by its tensor's name."""
    dtypes = {"int8": "int8", "fp8": "float8_e4m3fn"}
    return {f"{name}.weight": dtypes[scheme.name] for name, scheme in config.quantized_linears.items()}


def _validate(
    sources: Mapping[str, TensorSource],
    shapes: Mapping[str, tuple[int, ...]],
    kind: HeadKind,
    folder: Path,
    quantized: Mapping[str, str],
) -> None:
    """Checks that every tensor is there, has its shape, and has a dtype that can be computed with."""
    # A value head always has a bias; a token classifier's is a matter of configuration.
    optional = {"head.bias"} if kind == "token_classification" else set()
    missing = [name for name in shapes if name not in sources and name not in optional]
    if missing:
        stored_names = {role: name for name, role in HEADS[kind].items()}
        listed = ", ".join(stored_names.get(name, name) for name in missing[:3])
        raise MissingTensor(f"{folder} lacks {len(missing)} tensors: {listed}{', ...' if len(missing) > 3 else ''}.")
    for name, source in sources.items():
        if name == "head.weight" and len(source.shape) == 2 and source.shape[0] != 1:
            raise ShapeMismatch(f"{source.origin} scores {source.shape[0]} labels; a reward model has one.")
        if source.shape != shapes[name]:
            raise ShapeMismatch(
                f"{source.origin} has shape {source.shape}, config.json asks for {shapes[name]}; "
                "fix whichever is wrong."
            )
        dtypes = (quantized[name],) if name in quantized else DTYPES
        if source.dtype not in dtypes:
            raise ShapeMismatch(f"{source.origin} is stored as {source.dtype}; convert it to {', '.join(dtypes)}.")
