"""Int8 weights: how a linear layer's are made, and the folder that holds them, or fp8 weights."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from codescaler.checkpoint.compressed_tensors import make_quantization_config
from codescaler.checkpoint.load import Checkpoint
from codescaler.model.projections import list_linear_names
from codescaler.ops.reference import apply_hadamard
from codescaler.quantize.folders import require_own_tensors, save_folder
from codescaler.quantize.fp8 import quantize_weight_to_fp8
from codescaler.types import Fp8Scheme, Scheme

GetTensor = Callable[[str], torch.Tensor | None]


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a weight's nearest int8 multiples of a scale for each row: w = scale * q, scale = max |w| / 127.

    Shapes: [O, I] -> [O, I], [O, 1]. Dtypes: int8, float32. A row of zeros has scale 1.
    """
    wide = weight.float()
    size = wide.abs().amax(dim=1, keepdim=True)
    scale = torch.where(size < 2.0**-100, 1.0, size / 127.0)
    return torch.round(wide / scale).clamp(-127, 127).to(torch.int8), scale


def quantize_tensors(get: GetTensor, linears: Mapping[str, Scheme]) -> GetTensor:
    """Returns a look-up of canonical tensors. These linear layers are quantised in it, `weight` and `weight_scale`."""

    def get_quantized(name: str) -> torch.Tensor | None:
        linear, _, kind = name.rpartition(".")
        if linear not in linears or kind == "bias":
            return get(name)
        weight = get(f"{linear}.weight")
        assert weight is not None, linear
        if isinstance(linears[linear], Fp8Scheme):
            return quantize_weight_to_fp8(weight)[kind == "weight_scale"]
        if linears[linear].has_hadamard:
            weight = apply_hadamard(weight.float())
        return quantize_weight(weight)[kind == "weight_scale"]

    return get_quantized


def save_quantized(
    checkpoint: Checkpoint,
    linears: Mapping[str, Scheme],
    folder: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes a checkpoint with these linear layers, by canonical name, quantised: all of the folder, head included.

    `dtype` is what the embedding and the other linear layers are stored in; None leaves theirs.

    Raises: WeightsError as `save_body`. UnsupportedModel if files of the family fuse projections, or the head is rows
        of the output layer.
    """
    require_own_tensors(checkpoint, "int8", "load this one with quantization='int8'")
    num_layers = checkpoint.config.num_layers
    ignored = list_linear_names(num_layers).difference(linears)
    matrices = {"embed_tokens.weight", *(f"{name}.weight" for name in ignored)} if dtype else set()
    get, tensors = quantize_tensors(checkpoint.get, linears), {}
    for role in (*checkpoint.sources, *(f"{name}.weight_scale" for name in linears)):
        tensor = get(role)
        assert tensor is not None, role
        tensors[role] = tensor.to(dtype) if role in matrices else tensor
    save_folder(checkpoint, tensors, make_quantization_config(linears, num_layers), folder, dtype)
