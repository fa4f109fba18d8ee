"""Writes a reward model as a Hugging Face `*ForSequenceClassification` folder, as transformers, vLLM and we load it.

The folder stands alone: body, head, configuration, tokenizer and chat template. Nothing of the source is executed or
linked to; a LoRA source is written merged.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from codescaler.checkpoint.families import FAMILIES
from codescaler.checkpoint.layouts import join_projections
from codescaler.checkpoint.load import Checkpoint
from codescaler.checkpoint.lora import ADAPTER_CONFIG, ADAPTER_FILE
from codescaler.checkpoint.tensor_files import INDEX_FILE, write_tensors
from codescaler.errors import InvalidInput
from codescaler.io.files import find_file
from codescaler.io.json import read_json
from codescaler.text.chat import load_chat, read_template
from codescaler.text.settings import TEMPLATE_FILE, read_system_prompt, write_system_prompt
from codescaler.text.special_tokens import CONFIG_FILE, find_token_files
from codescaler.text.tokenizer import TOKENIZER_FILE

_BODY_FILE = "model-00001-of-00002.safetensors"
_HEAD_FILE = "model-00002-of-00002.safetensors"
_PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

# Left out of what is written: settings of a class, a head and a packing that the folder no longer has, and of remote
# code.
_DROPPED = (
    *("auto_map", "architectures", "num_labels", "id2label", "label2id", "text_config", "vision_config", "torch_dtype"),
    *("classifier_from_token", "is_original_qwen3_reranker", "reward_token_id", "quantization_config"),
)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Gives a folder to fill, which becomes `target` at the end, whole or not at all.

    Raises: InvalidInput if `target` is there and not an empty folder, or cannot be made.
    """
    target = target.resolve()
    if target == Path.cwd() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise InvalidInput(f"{target} is there already; give a new folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent)
    except OSError as error:
        raise InvalidInput(f"{target} cannot be made ({error}); give a folder that can be written") from error
    with scratch as name:
        folder = Path(name) / target.name
        folder.mkdir()
        yield folder
        if target.is_dir():
            target.rmdir()
        folder.rename(target)


def save_body(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes everything but the head; `save_head` completes the folder.

    Raises:
        UnsupportedModel: the checkpoint is int8.
        InvalidInput: there is neither a pad nor an EOS token, without which transformers scores no batch; or the
            template ends in the pad token, where transformers and vLLM pool different tokens.
        WeightsError: tokenizer or template are absent or damaged.
    """
    checkpoint.require_plain()
    config = describe_checkpoint(checkpoint)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    copy_text_side([source for source in (checkpoint.folder, checkpoint.base_folder) if source is not None], folder)
    _settle_padding(folder, config["pad_token_id"])
    body = join_projections({role: checkpoint.read_tensor(role) for role in checkpoint.sources}, checkpoint.config)
    tensors = {f"model.{role}": tensor.contiguous() for role, tensor in body.items()}
    write_tensors(folder / _BODY_FILE, tensors)
    index = {"weight_map": dict.fromkeys(tensors, _BODY_FILE) | {"score.weight": _HEAD_FILE}}
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, **index}, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class TrainedTensor:
    """A tensor in memory, as a source of a checkpoint."""

    tensor: torch.Tensor
    origin: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> str:
        return str(self.tensor.dtype).removeprefix("torch.")

    def read(self) -> torch.Tensor:
        return self.tensor


def save_trained(checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Writes a checkpoint with other tensors in place of its own, by canonical name, the head's among them.

    Raises: as `save_body`.
    """
    changed = {name: TrainedTensor(tensor, f"{checkpoint.folder}: trained {name}") for name, tensor in tensors.items()}
    body = {name: source for name, source in {**checkpoint.sources, **changed}.items() if not name.startswith("head.")}
    save_body(replace(checkpoint, sources=body), folder)
    save_head(tensors["head.weight"], folder)


def save_adapter(
    checkpoint: Checkpoint,
    tensors: Mapping[str, torch.Tensor],
    rank: int,
    alpha: float,
    base: str,
    revision: str | None,
    folder: Path,
) -> None:
    """Writes a PEFT LoRA adapter of the model `base`: factors and head, by canonical name, tokenizer and template.

    Raises: WeightsError as `save_body`.
    """
    names = {name.split(".")[-3] for name in tensors if ".lora_A." in name}
    settings = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(names),
        "modules_to_save": ["score"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    copy_text_side([checkpoint.folder], folder)
    stored = {
        f"base_model.model.{'score.weight' if name == 'head.weight' else f'model.{name}'}": tensor.contiguous()
        for name, tensor in tensors.items()
    }
    write_tensors(folder / ADAPTER_FILE, stored)


def save_head(weight: torch.Tensor, folder: Path) -> None:
    """Writes the head beside a body. Shapes: weight [D]; it is stored in float32."""
    write_tensors(folder / _HEAD_FILE, {"score.weight": weight.float().reshape(1, -1)})


def copy_text_side(sources: Sequence[Path], folder: Path) -> None:
    """Copies tokenizer, template and system prompt from the first folder that has each."""
    tokenizer = find_file(sources, TOKENIZER_FILE)
    if tokenizer is not None:
        for path in (tokenizer, *find_token_files(sources, tokenizer.parent).values()):
            shutil.copyfile(path, folder / path.name)
    # As it is resolved, not file by file: an adapter's own template may stand elsewhere than its base's.
    (folder / TEMPLATE_FILE).write_text(read_template(sources)[0], encoding="utf-8")
    write_system_prompt(read_system_prompt(sources), folder)


def _settle_padding(folder: Path, pad_id: int) -> None:
    """Names the pad token to the tokenizer, and makes sure that it is not the one that is pooled."""
    chat = load_chat(folder)
    (ids,) = chat.encode([chat.render(_PROBE)])
    if len(ids) and ids[-1] == pad_id:
        raise InvalidInput(
            f"the chat template ends in the pad token, {pad_id}: transformers leaves it out and vLLM scores it; set "
            "pad_token_id in config.json to a token that no text holds"
        )
    if "pad_token" not in chat.special_tokens:
        path = folder / CONFIG_FILE
        settings = read_json(path) if find_file([folder], CONFIG_FILE) else {}
        settings["pad_token"] = chat.tokenizer.id_to_token(pad_id)
        path.write_text(json.dumps(settings, ensure_ascii=False) + "\n", encoding="utf-8")


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    where = (checkpoint.base_folder or checkpoint.folder) / "config.json"
    raw = read_json(where)
    text = {key: value for key, value in (raw.get("text_config") or {}).items() if value is not None}
    values = {key: value for key, value in (raw | text).items() if key not in _DROPPED}
    pad: object = checkpoint.config.pad_token_id
    if pad is None:
        eos = values.get("eos_token_id")
        pad = eos[0] if isinstance(eos, list) and eos else eos
        if not isinstance(pad, int):
            raise InvalidInput(f"{where} has neither pad_token_id nor eos_token_id; set pad_token_id")
    return {
        **values,
        "architectures": [f"{FAMILIES[checkpoint.config.family].class_names[0]}ForSequenceClassification"],
        "model_type": checkpoint.config.family,
        "dtype": checkpoint.sources["embed_tokens.weight"].dtype,  # trained weights are not stored as they were
        "pad_token_id": pad,
        "problem_type": "regression",  # without it vLLM applies a sigmoid
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
    }
