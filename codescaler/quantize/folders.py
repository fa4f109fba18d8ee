"""Writes the folder of a quantised model: what stays as it is, and the tensors of what is quantised."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from codescaler.checkpoint.load import Checkpoint
from codescaler.checkpoint.save import copy_text_side, describe_checkpoint
from codescaler.checkpoint.tensor_files import SINGLE_FILE, write_tensors
from codescaler.errors import UnsupportedModel
from codescaler.io.json import read_json


def require_own_tensors(checkpoint: Checkpoint, name: str, advice: str) -> None:
    """Raises UnsupportedModel if files of the family fuse projections, or the head is rows of the output layer.

    `name` is that of the format, and `advice` says what to do with the model.
    """
    if checkpoint.config.layout is not None or checkpoint.config.head == "vocabulary_rows":
        raise UnsupportedModel(
            f"{checkpoint.folder}: {name} folders are not written of models with fused projections or with rows of the "
            f"output layer as their head; {advice}."
        )


def save_folder(
    checkpoint: Checkpoint,
    tensors: Mapping[str, torch.Tensor],
    quantization_config: Mapping[str, Any],
    folder: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes all of a folder. `tensors` are by canonical name, `dtype` what config.json says of it; None: as it did.

    Raises: WeightsError as `save_body`.
    """
    # An adapter's base knows nothing of the head that it gets.
    is_adapter = checkpoint.base_folder is not None
    config = describe_checkpoint(checkpoint) if is_adapter else read_json(checkpoint.folder / "config.json")
    config = {**config, "quantization_config": quantization_config}
    if dtype:
        config.pop("torch_dtype", None)
        config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    copy_text_side([source for source in (checkpoint.folder, checkpoint.base_folder) if source is not None], folder)
    heads = {role: name for name, role in checkpoint.head_names.items()}
    stored = {heads.get(role, f"model.{role}"): tensor.contiguous() for role, tensor in tensors.items()}
    write_tensors(folder / SINGLE_FILE, stored)
