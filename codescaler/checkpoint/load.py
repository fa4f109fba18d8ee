"""A checkpoint folder to validated tensors under canonical names.

Nothing but JSON and safetensors is ever read: no pickle, no code. Everything about the folder is checked from
headers before the first tensor is read. This module does not know how a decoder uses the tensors.

Canonical names are those of `config.list_tensor_shapes`, and `head.weight` [1, D], `head.bias` [1]. A head that is an
MLP has `head.hidden.weight` [M, D] and `head.hidden.bias` [M] too, and M in place of D.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from codescaler.checkpoint.config import DTYPES, list_tensor_shapes, parse_config, select_text_fields
from codescaler.checkpoint.download import resolve_folder
from codescaler.checkpoint.heads import HeadForm, Tokens, choose_head, find_head, list_head_shapes, refuse_other_heads
from codescaler.checkpoint.layouts import split_projections
from codescaler.checkpoint.lora import ADAPTER_CONFIG, LoraAdapter, MergedTensor, open_adapter
from codescaler.checkpoint.packed import replace_packed
from codescaler.checkpoint.tensor_files import (
    INDEX_FILE,
    SINGLE_FILE,
    VALUE_HEAD_FILE,
    TensorSource,
    open_model_files,
    open_safetensors,
    require_scale,
)
from codescaler.checkpoint.vocabulary import find_output_layer, read_vocabulary_head
from codescaler.errors import (
    CodescalerError,
    HostileFile,
    InvalidInput,
    MissingTensor,
    ShapeMismatch,
    UnsupportedModel,
    WeightsError,
)
from codescaler.io.files import find_file
from codescaler.io.json import read_json
from codescaler.types import HADAMARD_BLOCK, ModelConfig

_BODY = re.compile(r"(?:model\.language_model\.|language_model\.model\.|model\.)?((?:embed_tokens|layers|norm)\..+)")
# Output layers, tables that are computed here, and the towers of a model that sees as well.
_UNUSED = re.compile(
    r"(?:language_model\.)?lm_head\.weight|output\.weight|(?:.+\.)?rotary_emb\.inv_freq"
    r"|(?:model\.)?(?:vision_tower|multi_modal_projector)\..+"
)
_LANGUAGE_MODEL = re.compile(".*For(?:CausalLM|ConditionalGeneration)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors are all present and of the right shape, none of them read yet.

    `config.head` is the head that was found and `config.dtype` the dtype the embedding is stored in.
    `base_folder` is the base model's folder if `folder` is a LoRA adapter. `head_names` are canonical names of the
    head's tensors, by stored name. `output_layer` is that of a language model [V, D], and of no reward model.
    """

    folder: Path
    config: ModelConfig
    sources: Mapping[str, TensorSource] = field(repr=False)
    base_folder: Path | None = None
    head_names: Mapping[str, str] = field(default_factory=dict)
    output_layer: TensorSource | None = field(default=None, repr=False)

    def has(self, name: str) -> bool:
        """Says whether the checkpoint has a tensor of this canonical name."""
        return name in self.sources

    def read_tensor(self, name: str) -> torch.Tensor:
        """Returns a tensor in its stored dtype, or in float32 if an adapter changes it.

        A packed one has the dtype of its scales.
        It may be a view of the mapped file: do not write to it.

        Raises:
            MissingTensor: the checkpoint has no such tensor. HostileFile: a quantised weight's scale is not positive.
        """
        if name not in self.sources:
            raise MissingTensor(f"{self.folder}: there is no tensor {name!r}; ask has() first.")
        tensor = self.sources[name].read()
        return require_scale(tensor, self.sources[name].origin) if name.endswith(".weight_scale") else tensor

    def require_plain(self) -> None:
        """Raises UnsupportedModel if linear layers are quantised, which cannot be trained."""
        if self.config.quantized_linears:
            raise UnsupportedModel(
                f"{self.folder} is quantised to {self.config.quantization}, which can be scored with but not trained; "
                "train the model as it was before, and run `codescaler quantize` on the result."
            )

    def require_trainable(self) -> None:
        """Raises UnsupportedModel if linear layers are int8, or if there are experts."""
        self.require_plain()
        if self.config.experts is not None:
            raise UnsupportedModel(
                f"{self.folder} is a mixture of experts, whose weights cannot be trained yet; fit a head on it with "
                "`codescaler fit-head`, or train a dense model."
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
    classifier_from_token: Tokens | None = None,
) -> Checkpoint:
    """Opens a checkpoint folder or a LoRA adapter folder and checks it from its headers.

    `head` "required" wants a reward head; "optional" takes it where there is one; "none" leaves heads aside, so any
    supported causal LM will do.
    `base_model` is the folder or hub id of an adapter's base model, None what the adapter names; `revision`
    and `local_files_only` are for looking up that base model on the hub, and for nothing else.
    `classifier_from_token` makes a head of a causal LM's output layer: the row of one token, or of the second of two
    minus the first. None means what config.json says under that key, if it has no other head.

    Raises:
        InvalidInput: an argument is not usable. UnsupportedModel: the engine does not compute this model.
        WeightsError: a file or tensor is missing, damaged, misleading or of another shape.
    """
    if head not in ("required", "optional", "none"):
        raise InvalidInput(f"head is {head!r}; give 'required', 'optional' or 'none'.")
    if head == "none" and classifier_from_token is not None:
        raise InvalidInput("classifier_from_token names a head, and head='none' leaves it aside; give one of the two.")
    folder, adapter, body = Path(folder), None, Path(folder)
    if find_file([folder], ADAPTER_CONFIG):
        adapter = open_adapter(folder)
        body = _locate_base_folder(folder, adapter, base_model, revision, local_files_only)
    elif base_model is not None:
        raise InvalidInput(f"base_model was given, but {folder} has no {ADAPTER_CONFIG}; leave base_model out.")
    where = str(body / "config.json")
    raw = read_json(body / "config.json")
    config = parse_config(raw, where=where)
    stored = replace_packed(open_model_files(body), config.packed_bits)
    folders = list(dict.fromkeys((body, folder)))
    added = _open_added(folders, adapter)
    fields = select_text_fields(raw, where)
    class_name = (adapter.class_name if adapter else None) or config.architecture
    form = None
    if head != "none":
        names = {*stored, *added}
        if head == "required":
            refuse_other_heads(class_name, names, where)
        form = choose_head(find_head(class_name, names), fields, config.vocab_size, classifier_from_token)
    if form is None and head == "required":
        raise MissingTensor(_explain_no_head(folders, config))
    config = _apply_own_vocabulary(config, added)
    shapes = list_tensor_shapes(config)
    _check_hadamard(config, shapes, where)
    shapes |= list_head_shapes(form, {**stored, **added}, config.hidden_size)
    sources = _assign_roles(split_projections(stored, config), form, shapes)
    sources |= _assign_roles(split_projections(added, config), form, shapes)
    if adapter is not None:
        sources |= _merge_adapter(adapter, sources)
    if form is not None and form.tokens:
        embedding = sources.get("embed_tokens.weight")
        row = read_vocabulary_head(form.tokens, {**stored, **added}, embedding, fields, config, folders[::-1])
        sources["head.weight"] = row
    output_layer = None
    if _LANGUAGE_MODEL.fullmatch(class_name or ""):
        output_layer = find_output_layer({**stored, **added}, sources.get("embed_tokens.weight"), fields, config)
    _validate(sources, shapes, form, folder, _list_stored_dtypes(config))
    if output_layer is not None and output_layer.shape[1:] != (config.hidden_size,):
        raise ShapeMismatch(
            f"{output_layer.origin} has shape {output_layer.shape}; {config.hidden_size} inputs are wanted."
        )
    config = replace(config, dtype=sources["embed_tokens.weight"].dtype)
    if form is not None:
        config = replace(config, head=form.kind, head_input=form.input)
    base, head_names = None if adapter is None else body, {} if form is None else form.tensors
    return Checkpoint(folder, config, sources, base, head_names, output_layer)


def _locate_base_folder(
    folder: Path,
    adapter: LoraAdapter,
    base_model: str | Path | None,
    revision: str | None,
    local_files_only: bool,
) -> Path:
    """Returns the folder of an adapter's base model."""
    for name in (SINGLE_FILE, INDEX_FILE):
        if find_file([folder], name):
            raise WeightsError(f"{folder} holds both {ADAPTER_CONFIG} and {name}; move one of the two models away.")
    if base_model is None:
        base_model, revision = adapter.base_model, revision or adapter.revision
    if base_model is None:
        raise WeightsError(f"{folder / ADAPTER_CONFIG} names no base model; give base_model.")
    try:
        body = resolve_folder(base_model, revision=revision, local_files_only=local_files_only)
    except CodescalerError as error:
        raise WeightsError(f"the base model of the adapter {folder}: {error} Or give another base_model.") from error
    if find_file([body], ADAPTER_CONFIG):
        raise UnsupportedModel(f"the base model {body} is an adapter itself; merge it with PEFT and give the result.")
    return body


def _check_hadamard(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Refuses a Hadamard transform of a number of inputs that has none."""
    for name, scheme in config.quantized_linears.items():
        if scheme.has_hadamard and shapes[f"{name}.weight"][1] % HADAMARD_BLOCK:
            raise UnsupportedModel(
                f"{where}: {name} has {shapes[f'{name}.weight'][1]} inputs, no multiple of the "
                f"{HADAMARD_BLOCK} of a Hadamard transform; quantise the model again, as `codescaler quantize` does."
            )


def _open_added(folders: Collection[Path], adapter: LoraAdapter | None) -> dict[str, TensorSource]:
    """Returns the tensors beside a model's own: whole ones of an adapter, and LLaMA-Factory's value head."""
    added: dict[str, TensorSource] = dict(adapter.replaced) if adapter else {}
    for path in (folder / VALUE_HEAD_FILE for folder in folders):
        if os.path.lexists(path):
            added |= open_safetensors(path)
    return added


def _explain_no_head(folders: Sequence[Path], config: ModelConfig) -> str:
    pickle = next((path for folder in folders if (path := folder / "value_head.bin").exists()), None)
    found = f" Its head is in {pickle}, a pickle, which is never read: save it as {VALUE_HEAD_FILE}." if pickle else ""
    return (
        f"{folders[-1]}: {config.architecture or config.family} has no reward head.{found} Give a reward model, or "
        "make one by `codescaler fit-head`. head='none' is for features only, scorer='likelihood' (--scorer) ranks "
        "with a language model, and classifier_from_token names the token that a model answers with."
    )


def _apply_own_vocabulary(config: ModelConfig, added: Mapping[str, TensorSource]) -> ModelConfig:
    """Returns the configuration with the tokens of an adapter's own embedding: it may have others than its base."""
    for name, tensor in added.items():
        match = _BODY.fullmatch(name)
        if match and match[1] == "embed_tokens.weight" and len(tensor.shape) == 2:
            return replace(config, vocab_size=tensor.shape[0])
    return config


def _assign_roles(
    stored: Mapping[str, TensorSource], form: HeadForm | None, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, TensorSource]:
    """Returns tensors by canonical name; refuses one without a role, for ignoring it could change scores.

    Without a head, tensors outside the body have nothing to do with the features.
    """
    roles: dict[str, TensorSource] = {}
    for name, tensor in stored.items():
        match = _BODY.fullmatch(name)
        if _UNUSED.fullmatch(name) or (form is None and match is None):
            continue
        role = match[1] if match else (form.tensors.get(name) if form else None)
        if role is None or role not in shapes:
            kind = form.kind if form else "none"
            raise WeightsError(
                f"{tensor.origin} has no role in the model that config.json describes (head: {kind}). Without it, "
                "scores could be others than the model's. Fix config.json if it is wrong"
                + ("." if match else ", or load the body alone with head='none'.")
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
    form: HeadForm | None,
    folder: Path,
    quantized: Mapping[str, str],
) -> None:
    """Checks that every tensor is there, has its shape, and has a dtype that can be computed with."""
    optional = form.optional if form else ()
    missing = [name for name in shapes if name not in sources and name not in optional]
    if missing:
        stored_names = {role: name for name, role in form.tensors.items()} if form else {}
        listed = ", ".join(stored_names.get(name, name) for name in missing[:3])
        raise MissingTensor(f"{folder} lacks {len(missing)} tensors: {listed}{', ...' if len(missing) > 3 else ''}.")
    head = sources.get("head.weight")
    if head is not None and len(head.shape) == 2 and head.shape[0] != 1:
        raise ShapeMismatch(f"{head.origin} scores {head.shape[0]} labels; a reward model has one.")
    for name, source in sources.items():
        if source.shape != shapes[name]:
            raise ShapeMismatch(
                f"{source.origin} has shape {source.shape}, config.json asks for {shapes[name]}; "
                "fix whichever is wrong."
            )
        dtypes = (quantized[name],) if name in quantized else DTYPES
        if source.dtype not in dtypes:
            raise ShapeMismatch(f"{source.origin} is stored as {source.dtype}; convert it to {', '.join(dtypes)}.")
