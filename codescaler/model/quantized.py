"""Int8 weights: how a linear map's are made, and how a checkpoint's `config.json` says which ones it holds.

The file format is compressed-tensors' "int-quantized" with 8-bit weights, one scale an output, and activations
quantised a token at a time while they are multiplied (W8A8, dynamic), which vLLM loads too. Source: the package
compressed-tensors 0.20, `quantization/quant_config.py` and `compressors/naive_quantized`. This module opens no file.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from codescaler.errors import UnsupportedModel
from codescaler.model.fields import Fields
from codescaler.model.projections import fused_linears, linear_names

GetTensor = Callable[[str], torch.Tensor | None]

_WEIGHTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
_ACTIVATIONS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
_MODULE = re.compile(r"(?:model\.)?(layers\.\d+\.\w+\.\w+_proj)")


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a weight's nearest int8 multiples of a scale for each row: w = scale * q, scale = max |w| / 127.

    Shapes: [O, I] -> [O, I], [O, 1]. Dtypes: int8, float32. A row of zeros has scale 1.
    """
    wide = weight.float()
    size = wide.abs().amax(dim=1, keepdim=True)
    scale = torch.where(size < 2.0**-100, 1.0, size / 127.0)
    return torch.round(wide / scale).clamp(-127, 127).to(torch.int8), scale


def quantized(get: GetTensor, linears: Collection[str]) -> GetTensor:
    """Returns a look-up of canonical tensors in which these linear maps are int8, `weight` and `weight_scale`."""

    def get_quantized(name: str) -> torch.Tensor | None:
        linear, _, kind = name.rpartition(".")
        if linear not in linears or kind == "bias":
            return get(name)
        weight = get(f"{linear}.weight")
        assert weight is not None, linear
        return quantize_weight(weight)[kind == "weight_scale"]

    return get_quantized


def quantization_config(ignored: Collection[str]) -> dict[str, Any]:
    """Returns `quantization_config` of a folder whose linear maps are int8 but for those of these canonical names."""
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": _WEIGHTS, "input_activations": _ACTIVATIONS},
        },
        "ignore": ["lm_head", "score", *(f"model.{name}" for name in sorted(ignored))],
    }


def int8_linears(fields: Fields, num_layers: int) -> frozenset[str]:
    """Returns the canonical names of the linear maps that are int8 by `quantization_config`; none where it is absent.

    Raises: UnsupportedModel: it says anything else than `quantization_config` above would.
    """
    if fields.values.get("quantization_config") is None:
        return frozenset()
    scheme = fields.object("quantization_config")
    _require(scheme, "quant_method", "compressed-tensors")
    _require(scheme, "format", "int-quantized")
    _require(scheme, "quantization_status", "compressed")
    for name in ("kv_cache_scheme", "sparsity_config", "transform_config"):
        if scheme.values.get(name):  # absent, null and {} say the same
            raise _unsupported(scheme, name, str(scheme.values[name])[:80])
    groups = scheme.object("config_groups")
    if len(groups.values) != 1:
        raise _unsupported(groups, "config_groups", f"{len(groups.values)} groups")
    group = groups.object(next(iter(groups.values)))
    _require(group, "targets", ["Linear"])
    _require(group, "output_activations", None)
    for key, expected in (("weights", _WEIGHTS), ("input_activations", _ACTIVATIONS)):
        part = group.object(key)
        for name, value in expected.items():
            _require(part, name, value)
        for name in ("group_size", "block_structure", "actorder"):
            _require(part, name, None)
    if group.values.get("format") is not None:
        _require(group, "format", "int-quantized")
    return linear_names(num_layers) - _ignored(scheme, num_layers)


def _ignored(scheme: Fields, num_layers: int) -> frozenset[str]:
    """The linear maps that stay as they are; each by its whole name, and with those it is multiplied with."""
    names = scheme.values.get("ignore")
    names = [] if names is None else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise scheme.wrong("ignore", "list names of modules")
    matches = [_MODULE.fullmatch(name) for name in names]
    unknown = [n for n, match in zip(names, matches, strict=True) if match is None and n not in ("lm_head", "score")]
    if unknown:
        raise _unsupported(scheme, "ignore", repr(unknown[0])[:80])
    ignored = frozenset(match[1] for match in matches if match)
    for fused in fused_linears(num_layers):
        if ignored.intersection(fused) and not ignored.issuperset(fused):
            raise UnsupportedModel(
                f"{scheme.where}: ignore holds some of {', '.join(fused)}, which are computed as one; quantise the "
                "model again with all or none of them, as `codescaler quantize` does."
            )
    return ignored


def _require(fields: Fields, key: str, expected: object) -> None:
    if fields.values.get(key) != expected or type(fields.values.get(key)) is not type(expected):
        raise _unsupported(fields, key, repr(fields.values.get(key))[:80])


def _unsupported(fields: Fields, key: str, seen: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{fields.where}: {key} is {seen}; of quantised models only int8 ones of the compressed-tensors format "
        "int-quantized are computed (weights by channel, activations by token). Give the model as it was before, with "
        "quantization='int8', or make it one by `codescaler quantize`."
    )


def scale_shapes(linears: Collection[str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Returns name and shape of the scales of these linear maps, given every tensor's shape."""
    return {f"{name}.weight_scale": (shapes[f"{name}.weight"][0], 1) for name in linears}
