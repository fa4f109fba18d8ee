"""How far a result may lie from the truth: the house's error bounds."""

import numpy as np
import numpy.typing as npt
import torch

from codescaler.ops.cpu.linear import has_packed_linear


def assert_accurate(result: torch.Tensor, truth: torch.Tensor, peer: torch.Tensor) -> None:
    """Asserts the house's error bound, which is derived and not picked.

    `truth` is the reference in float64; `peer` is PyTorch's result from the same inputs in the precision of
    `result`. The result may be at most twice as far from the truth as the peer is, plus one rounding to its
    own dtype; both for the largest error and for the root mean square. NaN and infinity stand in the same places.
    """
    assert result.shape == truth.shape == peer.shape, (result.shape, truth.shape, peer.shape)
    truth = truth.double()
    is_finite = truth.isfinite()
    assert torch.equal(result.double()[~is_finite].nan_to_num(7.0), truth[~is_finite].nan_to_num(7.0))
    if not is_finite.any():
        return
    rounding = torch.finfo(result.dtype).eps * truth[is_finite].abs()
    errors, peer_errors = ((x.double() - truth)[is_finite].abs() for x in (result, peer))
    for name, norm in (("largest", torch.max), ("RMS", lambda e: e.square().mean().sqrt())):
        error, limit = norm(errors).item(), (2.0 * norm(peer_errors) + norm(rounding)).item()
        assert error <= limit, f"{name} error {error:.3e} is above the bound {limit:.3e}"


def run_peer_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """PyTorch's own linear layer as a peer of ours: through oneDNN where this CPU's oneDNN takes the dtype, as ours.

    MKL, the default for float32, adds up a row in parts and is 2-4 times as exact at thousands of inputs.
    """
    if x.device.type != "cpu" or not has_packed_linear(x.dtype):
        return torch.nn.functional.linear(x, weight, bias)
    operands = (x.to_mkldnn(), weight.to_mkldnn(), None if bias is None else bias.to_mkldnn())
    result: torch.Tensor = torch.nn.functional.linear(*operands).to_dense()
    return result


FLOAT32_SCORE_LIMIT = 1e-4  # of the scores' mean size: how far (maximum) float32 scores may lie from transformers'


def score_error_limit(peer: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Returns how far (RMS) bfloat16 scores may lie from float32's: twice as far as a peer's bfloat16 scores,
    such as transformers', plus a thousandth of the scores' mean size.
    """
    return 2.0 * measure_rms_distance(peer, truth) + 1e-3 * float(np.abs(truth).mean())


def measure_rms_distance(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Returns the root mean square of the differences."""
    return float(np.sqrt(np.square(np.subtract(left, right, dtype=np.float64)).mean()))
