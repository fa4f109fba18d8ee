"""`prune`: a smaller model to train: the first layers of another, the first merges of its tokenizer, fewer channels.

What is left still reads text as the whole model does, a few layers deep; training has to make up for the rest.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from codescaler.checkpoint.download import resolve_folder
from codescaler.checkpoint.load import Checkpoint, open_checkpoint
from codescaler.checkpoint.save import TrainedTensor, new_folder, save_body, save_head, save_trained
from codescaler.engine.options import require_count
from codescaler.errors import InvalidInput, UnsupportedModel
from codescaler.io.json import read_json
from codescaler.io.records import read_groups
from codescaler.ops import select_backend
from codescaler.text.chat import load_chat
from codescaler.text.encoder import build_encoder
from codescaler.text.program import make_conversation
from codescaler.text.tokenizer import TOKENIZER_FILE
from codescaler.train.narrowing import narrow_mlps

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class PruneReport:
    """What `prune` made.

    Attributes:
        output_dir: the smaller model's folder.
        num_layers, vocab_size, mlp_width, num_parameters: of it, and the same `_before` of the model given.
        lost: for each layer, the share (of mean squares, on problems held out) of what its MLP had to add, so that the
            hidden states are the whole model's, that it does not; empty where all channels stay.
    """

    output_dir: Path
    num_layers: int
    num_layers_before: int
    vocab_size: int
    vocab_size_before: int
    mlp_width: int
    mlp_width_before: int
    num_parameters: int
    num_parameters_before: int
    lost: tuple[float, ...] = ()


def prune(
    model: str | Path,
    output_dir: str | Path,
    *,
    num_layers: int | None = None,
    vocab_size: int | None = None,
    mlp_width: int | None = None,
    groups: str | Path | None = None,
    num_passes: int = 6,
    show_progress: bool = False,
    base_model: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> PruneReport:
    """Writes a model with fewer layers, tokens or channels, with its head if it has one, as a Hugging Face folder.

    A byte-pair tokenizer that knows the first merges alone reads any text, in more tokens.

    Args:
        model: folder or hub id of a causal LM or a reward model.
        output_dir: a folder that is not there yet, or is empty; it appears whole or not at all.
        num_layers: layers to keep, from the first on; None for all.
        vocab_size: tokens to keep: all that no merge makes (single bytes, special tokens), then those of the first
            merges; None for all.
        mlp_width: channels of each MLP to keep, those that add most on the programs of `groups`; None for all.
            Each narrow MLP is then trained to bring the model's hidden states where they were, layer after layer.
        groups: JSON lines of groups; labels are not read. The more tokens, the less is lost: 160,000 of them are some
            minutes for a model of 0.5B. Layers and tokens of the vocabulary go first.
        num_passes: of that training over the programs; 0 to fit the down projections alone.
        show_progress: show a bar on stderr.
        base_model: base of a LoRA folder, which is merged.
        revision: branch, tag or commit on the hub.
        local_files_only: never ask the hub.

    Raises:
        InvalidInput: there are not as many layers, tokens or channels, or fewer tokens than no merge makes; one of
            `mlp_width` and `groups` was given without the other; there are fewer tokens than channels; as `save_body`.
        UnsupportedModel: the tokenizer is no byte-pair encoding; the channels are of experts, or a norm is behind them.
        WeightsError: the model cannot be used.
    """
    require_count("num_layers", num_layers)
    require_count("vocab_size", vocab_size)
    require_count("mlp_width", mlp_width)
    if num_passes < 0:
        raise InvalidInput(f"num_passes={num_passes}; give 0 or more")
    if (mlp_width is None) != (groups is None):
        raise InvalidInput("mlp_width needs groups of programs, and groups are for mlp_width alone; give both or none")
    source = resolve_folder(model, revision=revision, local_files_only=local_files_only)
    checkpoint = open_checkpoint(source, head="optional", base_model=base_model, local_files_only=local_files_only)
    if checkpoint.config.head not in ("none", "sequence_classification"):
        raise InvalidInput(
            f"{source} has a {checkpoint.config.head} head; give a model with one for sequence classification, or none"
        )
    before = checkpoint.config
    num_layers = before.num_layers if num_layers is None else num_layers
    if num_layers > before.num_layers:
        raise InvalidInput(f"num_layers={num_layers}; {source} has {before.num_layers}")
    if mlp_width is not None and mlp_width > before.intermediate_size:
        raise InvalidInput(f"mlp_width={mlp_width}; {source} has {before.intermediate_size}")
    if mlp_width is not None and before.experts is not None:
        raise UnsupportedModel(f"{source} is a mixture of experts, whose channels are not pruned; leave mlp_width out")
    if mlp_width is not None and before.has_post_norms:
        raise UnsupportedModel(
            f"{source} has a norm behind each MLP, so that none can be fitted to what it adds; leave mlp_width out"
        )
    tokenizer, ids = None, list(range(before.vocab_size))
    if vocab_size is not None:
        path = load_chat(checkpoint.folder, checkpoint.base_folder).tokenizer_path
        tokenizer, ids = select_first_merges(read_json(path), vocab_size, str(path))
    rows = TrainedTensor(checkpoint.read_tensor("embed_tokens.weight")[ids], f"{source}: rows of the embedding")
    kept = {role: tensor for role, tensor in checkpoint.sources.items() if _is_kept(role, num_layers)}
    head = checkpoint.get("head.weight")
    with new_folder(Path(output_dir)) as folder:
        written = folder if groups is None else folder.with_name(f"{folder.name}.wide")
        written.mkdir(exist_ok=True)
        save_body(replace(checkpoint, sources=kept | {"embed_tokens.weight": rows}), written)
        save_head(torch.zeros(before.hidden_size) if head is None else head, written)
        if tokenizer is not None:
            (written / TOKENIZER_FILE).write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
        _change_config(written, lambda config: _make_config(config, num_layers, ids))
        lost: tuple[float, ...] = ()
        if groups is not None and mlp_width is not None:
            lost = _narrow(open_checkpoint(written), groups, mlp_width, num_passes, show_progress, folder)
        after = open_checkpoint(folder)
    return PruneReport(
        output_dir=Path(output_dir),
        num_layers=num_layers,
        num_layers_before=before.num_layers,
        vocab_size=len(ids),
        vocab_size_before=before.vocab_size,
        mlp_width=after.config.intermediate_size,
        mlp_width_before=before.intermediate_size,
        num_parameters=_count_parameters(after),
        num_parameters_before=_count_parameters(checkpoint),
        lost=lost,
    )


def _narrow(
    checkpoint: Checkpoint, groups: str | Path, width: int, num_passes: int, show_progress: bool, folder: Path
) -> tuple[float, ...]:
    """Writes a model of so many channels in each MLP, and returns what each layer loses."""
    encoder, programs = build_encoder(checkpoint), []
    for group in read_groups(groups):
        conversations = [make_conversation(group.problem, code, group.system) for code in group.codes]
        if conversations:
            programs.append(encoder.encode_pairs(conversations, [group.name] * len(conversations)).sequences)
    if not programs:
        raise InvalidInput(f"{groups} has no program; give groups with programs")
    found = narrow_mlps(checkpoint.config, checkpoint.get, select_backend("auto", "cpu"), programs, width, num_passes)
    changed: dict[str, torch.Tensor] = {"head.weight": checkpoint.read_tensor("head.weight")}
    lost = []
    with tqdm(found, total=checkpoint.config.num_layers, desc="layers", disable=not show_progress) as bar:
        for index, mlp in enumerate(bar):
            for name, tensor in mlp.tensors.items():
                whole = f"layers.{index}.mlp.{name}"
                changed[whole] = tensor.to(checkpoint.read_tensor(whole).dtype)
            lost.append(mlp.lost)
            bar.set_postfix(lost=f"{100 * mlp.lost:.1f}%")
    narrow = replace(checkpoint, config=replace(checkpoint.config, intermediate_size=width))
    save_trained(narrow, changed, folder)
    _change_config(folder, lambda config: config | {"intermediate_size": width})
    return tuple(lost)


def _change_config(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(change(read_json(path)), indent=2) + "\n", encoding="utf-8")


def select_first_merges(tokenizer: Mapping[str, Any], vocab_size: int, where: str) -> tuple[dict[str, Any], list[int]]:
    """Returns a `tokenizer.json` that knows the first merges alone, and the old id of each of its tokens, by new id.

    Raises: InvalidInput if `vocab_size` is not between what no merge makes and all. UnsupportedModel if it is no
    byte-pair encoding.
    """
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise UnsupportedModel(f"{where} is no byte-pair encoding; keep its whole vocabulary (leave vocab_size out)")
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    known: dict[str, int] = model["vocab"] | added
    made = {"".join(merge) for merge in merges}
    kept = {token for token in known if token not in made or token in added}
    if not len(kept) <= vocab_size <= len(known):
        raise InvalidInput(
            f"vocab_size={vocab_size}; {where} has {len(known)} tokens, of which no merge makes {len(kept)}"
        )
    num_merges = 0
    for merge in merges:  # each of tokens that came before, so that the first ones are whole
        token = "".join(merge)
        if token not in kept and len(kept) == vocab_size:
            break
        kept.add(token)
        num_merges += 1
    old = sorted(known[token] for token in kept)
    new = {old_id: new_id for new_id, old_id in enumerate(old)}
    small = {token: new[old_id] for token, old_id in model["vocab"].items() if token in kept}
    return {
        **tokenizer,
        "added_tokens": [token | {"id": new[token["id"]]} for token in tokenizer["added_tokens"]],
        "post_processor": _replace_ids(tokenizer.get("post_processor"), new),
        "model": model | {"vocab": small, "merges": model["merges"][:num_merges]},
    }, old


def _replace_ids(processor: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with other ids: those of TemplateProcessing stand in lists called "ids"."""
    if isinstance(processor, dict):
        return {
            key: [new[old] for old in value] if key == "ids" else _replace_ids(value, new)
            for key, value in processor.items()
        }
    return [_replace_ids(value, new) for value in processor] if isinstance(processor, list) else processor


def _make_config(config: dict[str, Any], num_layers: int, ids: Sequence[int]) -> dict[str, Any]:
    """A model's config.json with fewer layers, and `ids` of the tokens by their new id."""
    new = {old_id: new_id for new_id, old_id in enumerate(ids)}
    changed: dict[str, Any] = {"num_hidden_layers": num_layers, "vocab_size": len(ids)}
    if config.get("layer_types") is not None:
        changed["layer_types"] = config["layer_types"][:num_layers]
    for name in _TOKEN_IDS:
        value = config.get(name)
        if value is not None:
            # A list of several ends of text; what the tokenizer does not know is never met.
            changed[name] = [new[old] for old in value if old in new] if isinstance(value, list) else new.get(value)
    return config | changed


def _is_kept(role: str, num_layers: int) -> bool:
    """Whether a tensor belongs to the first layers, or to none."""
    kind, _, rest = role.partition(".")
    return kind != "head" and (kind != "layers" or int(rest.partition(".")[0]) < num_layers)


def _count_parameters(checkpoint: Checkpoint) -> int:
    return sum(math.prod(source.shape) for source in checkpoint.sources.values())
