"""How far a result may lie from the truth: the house's error bounds."""

import numpy as np
import numpy.typing as npt
import torch

from codescaler.ops.cpu.linear import has_packed_linear


def assert_accurate(
    result: torch.Tensor, truth: torch.Tensor, peer: torch.Tensor, slack: torch.Tensor | float = 0.0
) -> None:
    """Asserts the house's error bound, which is derived and not picked.

    `truth` is the reference in float64; `peer` is PyTorch's result from the same inputs in the precision of
    `result`. The result may be at most twice as far from the truth as the peer is, plus one rounding to its
    own dtype; both for the largest error and for the root mean square. NaN and infinity stand in the same places.
    `slack` is what an operation may lose on top where its arithmetic is another than the peer's: the caller derives it.
    """
    assert result.shape == truth.shape == peer.shape, (result.shape, truth.shape, peer.shape)
    truth = truth.double()
    is_finite = truth.isfinite()
    assert torch.equal(result.double()[~is_finite].nan_to_num(7.0), truth[~is_finite].nan_to_num(7.0))
    if not is_finite.any():
        return
    slack = torch.as_tensor(slack, dtype=torch.float64, device=truth.device).expand_as(truth)
    rounding = torch.finfo(result.dtype).eps * truth[is_finite].abs() + slack[is_finite]
    errors, peer_errors = ((x.double() - truth)[is_finite].abs() for x in (result, peer))
    for name, norm in (("largest", torch.max), ("RMS", lambda e: e.square().mean().sqrt())):
        error, limit = norm(errors).item(), (2.0 * norm(peer_errors) + norm(rounding)).item()
        assert error <= limit, f"{name} error {error:.3e} is above the bound {limit:.3e}"


def run_peer_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """PyTorch's own linear layer as a peer of ours: through oneDNN where this CPU's oneDNN takes the dtype, as ours.

    MKL and cuBLAS, the defaults for float32, add up a row in parts and are 2-4 times as exact at thousands of inputs:
    on a GPU the peer adds up from the first input to the last.
    """
    if x.device.type == "cuda" and x.dtype == torch.float32:
        sums = torch.zeros(len(x), len(weight), device=x.device)
        for column, factors in zip(x.T, weight.T, strict=True):
            sums.addcmul_(column[:, None], factors)
        return sums if bias is None else sums + bias
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
