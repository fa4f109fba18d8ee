"""Writes a reward model as a Hugging Face `*ForSequenceClassification` folder, as transformers, vLLM and we load it.

The folder stands alone: body, head, configuration, tokenizer and chat template. Nothing of the source is executed or
linked to; a LoRA source is written merged.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from codescaler.chat import CONFIG_FILE, TEMPLATE_FILE, TOKENIZER_FILE
from codescaler.errors import InvalidInput
from codescaler.model.tensor_files import INDEX_FILE, read_json
from codescaler.weights import Checkpoint

_BODY_FILE = "model-00001-of-00002.safetensors"
_HEAD_FILE = "model-00002-of-00002.safetensors"
_TEXT_FILES = (TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE, "special_tokens_map.json")
_CLASS_NAMES = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama", "gemma2": "Gemma2"}

# Left out of what is written: settings of a class that the folder no longer is, and of remote code.
_DROPPED = ("auto_map", "architectures", "num_labels", "id2label", "label2id", "problem_type", "text_config")


def save_body(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes everything but the head; `save_head` completes the folder.

    Raises: InvalidInput if there is neither a pad nor an EOS token, without which transformers scores no batch.
    """
    config = _config(checkpoint)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in _TEXT_FILES:
        for source in (checkpoint.folder, checkpoint.base_folder):
            if source is not None and (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
                break
    tensors = {f"model.{role}": checkpoint.tensor(role).contiguous() for role in checkpoint.sources}
    save_file(tensors, folder / _BODY_FILE, metadata={"format": "pt"})
    index = {"weight_map": dict.fromkeys(tensors, _BODY_FILE) | {"score.weight": _HEAD_FILE}}
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, **index}, indent=2) + "\n", encoding="utf-8")


def save_head(weight: torch.Tensor, folder: Path) -> None:
    """Writes the head beside a body. Shapes: weight [D]; it is stored in float32."""
    save_file({"score.weight": weight.float().reshape(1, -1)}, folder / _HEAD_FILE, metadata={"format": "pt"})


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
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
        "architectures": [f"{_CLASS_NAMES[checkpoint.config.family]}ForSequenceClassification"],
        "model_type": checkpoint.config.family,
        "pad_token_id": pad,
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
    }
