"""Scales that pass from the inputs of a linear map into its weight, so that its activations lose less to 8 bits.

Where few channels of an input are large, the steps that they ask for leave little of the others. A channel is divided
by a scale, and the weight's column multiplied by it; what divides is the operation that makes the channel, a norm's
weight or the rows of a linear map, so that nothing is computed for it. Source: Xiao et al. 2023, arXiv:2211.10438 (its
scales for the inputs of o and down are ours). All scales are powers of two here: a model of floating-point numbers
gives the same bits with them as without.
"""

from collections.abc import Callable, Mapping

import torch

from codescaler.model.projections import FUSED
from codescaler.types import ModelConfig

GetTensor = Callable[[str], torch.Tensor | None]
Exponents = tuple[int, ...]  # a linear map's scales: 2 to the power of these, one an input

_MIGRATION = 0.7  # share of an input's size that its weight takes over; 0.5 to 0.85 rank alike
_LEAST_SHARE = 2.0**-10  # of the largest channel: one that was silent on a few programs may speak on others


def smoothing_exponents(size: torch.Tensor, weight: torch.Tensor, group: tuple[int, int] = (1, 1)) -> Exponents:
    """Returns the exponents of a linear map's scales, given the largest size of each of its inputs.

    With `group` (G, H), inputs are heads of H channels, G after each other made from the same values, which get the
    same scale. Shapes: size [I], weight [O, I] -> I numbers.
    """
    num_alike, width = group
    sizes = torch.stack([size.float(), weight.float().abs().amax(dim=0)]).view(2, -1, num_alike, width).amax(dim=2)
    logs = sizes.clamp_min(_LEAST_SHARE * sizes.amax(dim=(1, 2), keepdim=True)).log2()
    logs = _MIGRATION * logs[0] - (1 - _MIGRATION) * logs[1]
    exponents = (logs - logs.median()).round().int()
    return tuple(exponents.view(-1, 1, width).expand(-1, num_alike, width).reshape(-1).tolist())


def makers(config: ModelConfig) -> dict[str, str]:
    """Returns what makes the inputs of each fused linear map, by name in a layer, where that can divide them.

    A norm that computes with 1 + w cannot: 1 + w is not held exactly in the dtype of w.
    """
    norms = {} if config.norm_weight_offset else {"qkv": "input_layernorm", "gate_up": "post_attention_layernorm"}
    return {**norms, "o": "self_attn.v_proj", "down": "mlp.up_proj"}


def smoothed(get: GetTensor, config: ModelConfig, exponents: Mapping[tuple[str, ...], Exponents]) -> GetTensor:
    """Returns a look-up of canonical tensors in which these fused linear maps have their scales."""
    made_by = makers(config)
    columns: dict[str, torch.Tensor] = {}
    rows: dict[str, torch.Tensor] = {}
    for names, values in exponents.items():
        layer, number, name = names[0].split(".", 2)
        matrix = next(matrix for matrix, fused in FUSED.items() if name == fused[0])
        scale = torch.tensor(values, dtype=torch.float32).exp2()
        columns |= {f"{name}.weight": scale for name in names}
        if matrix == "o":  # one of the heads that read the same value
            scale = scale.view(config.num_kv_heads, -1, config.head_dim)[:, 0].reshape(-1)
        rows |= {f"{layer}.{number}.{made_by[matrix]}.{kind}": 1 / scale for kind in ("weight", "bias")}

    def get_smoothed(name: str) -> torch.Tensor | None:
        tensor = get(name)
        if tensor is None or not (name in columns or name in rows):
            return tensor
        # float16 has too few exponents to stay exact.
        dtype = torch.float32 if tensor.dtype == torch.float16 else tensor.dtype
        tensor = tensor.to(dtype)
        if name in columns:
            tensor = tensor * columns[name].to(dtype)
        if name in rows:
            tensor = tensor * rows[name].to(dtype).view(-1, *[1] * (tensor.dim() - 1))
        return tensor

    return get_smoothed
