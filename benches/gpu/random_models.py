"""Random reward models of named shapes, made on the card: ours and transformers', of the same weights."""

import zlib
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from codescaler.checkpoint.config import parse_config
from codescaler.model.decoder import Decoder, build_decoder
from codescaler.model.projections import list_linear_names
from codescaler.ops import select_backend
from codescaler.quantize.int8 import quantize_tensors
from codescaler.testing import QWEN3_0_6B, QWEN3_1_7B, QWEN3_8B, ModelShape, Workload
from codescaler.testing.workloads import list_qwen3_tensor_sizes, make_qwen3_config
from codescaler.types import Fp8Scheme, Scheme

SHAPES = {"1.7b": QWEN3_1_7B, "8b": QWEN3_8B, "0.6b": QWEN3_0_6B}  # those with most targets first
SMALL_SHAPES = {"tiny": ModelShape(64, 112, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=32)}
SMALL_WORKLOADS = {"bon3": Workload(20, (5, 9, 3))}
_STD = 0.02


class RandomWeights:
    """Tensors of a random Qwen3 reward model by canonical name, the same each time one is asked for.

    They are bfloat16 numbers in every dtype, so that runs in float32 and bfloat16 hold the same model.
    """

    def __init__(self, shape: ModelShape, device: torch.device) -> None:
        self.device = device
        self.config = parse_config(make_qwen3_config(shape, torch.bfloat16), where="config.json")
        sizes = list_qwen3_tensor_sizes(shape).items()
        self.sizes = {name.removeprefix("model.").replace("score.", "head."): size for name, size in sizes}

    def get(self, name: str) -> Tensor | None:
        """Returns a tensor of normal numbers, std 0.02, around 1 for norms; None for one that Qwen3 does not have."""
        if name not in self.sizes:
            return None
        generator = torch.Generator(self.device).manual_seed(zlib.crc32(name.encode()))
        tensor = torch.empty(self.sizes[name], dtype=torch.bfloat16, device=self.device)
        return tensor.normal_(float("norm" in name), _STD, generator=generator)


def build_ours(
    shape: ModelShape,
    dtype: torch.dtype,
    device: torch.device,
    *,
    deterministic: bool = False,
    has_fp8: bool = False,
) -> Decoder:
    """Returns our decoder; with `has_fp8` all its linear layers are fp8."""
    weights = RandomWeights(shape, device)
    config, get = weights.config, weights.get
    if has_fp8:
        linears: dict[str, Scheme] = dict.fromkeys(list_linear_names(shape.num_layers), Fp8Scheme())
        config, get = replace(config, quantized_linears=linears), quantize_tensors(get, linears)
    backend = select_backend("triton", device.type, deterministic=deterministic)
    return build_decoder(config, get, backend, dtype, device)


def build_transformers(shape: ModelShape, dtype: torch.dtype, device: torch.device, attention: str = "sdpa") -> Any:
    config = transformers.Qwen3Config(**make_qwen3_config(shape, dtype))
    with device:
        model = transformers.AutoModelForSequenceClassification.from_config(
            config, dtype=dtype, attn_implementation=attention
        )
    weights = RandomWeights(shape, device)
    names = {name: name.removeprefix("model.").replace("score.", "head.") for name in model.state_dict()}
    tensors = {name: weights.get(canonical) for name, canonical in names.items()}
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items() if tensor is not None})
    return model.eval()
