"""Which channels of an MLP can be left out, and what the others have to do then.

A channel is an input of the down projection, and an output of gate and up. Channels that move together on real programs
stand for each other: the down projection is fitted again, by least squares, to give what all channels gave. The channel
that is missed least after that goes first (optimal brain surgeon, with whole columns for weights).
"""

import torch
from torch import Tensor

_PART = 16  # of the channels go before the fit is made anew: two that stand for each other must not go together
_DAMPING = 1e-3  # of a channel's own moment


def choose_channels(down: Tensor, moments: Tensor, width: int) -> tuple[Tensor, Tensor, float]:
    """Returns the channels to keep, in order, the down projection of these, and the share of its output that is lost.

    Shapes: down [D, F]; moments [F, F] of its inputs; results [width], [D, width]. The share is of mean squares.
    """
    wide = down.double()
    damped = moments.double()
    size = damped.diagonal()
    damped = damped + torch.diag(_DAMPING * size + 1e-9 * size.mean() + 1e-12)
    kept = torch.arange(len(size))
    while len(kept) > width:
        count = max(width, len(kept) - max(1, len(kept) // _PART))
        inverse, fitted = _fit(wide, damped, kept)
        missed = fitted.square().sum(dim=0) / inverse.diagonal()
        kept = kept[missed.topk(count).indices.sort().values]
    _, fitted = _fit(wide, damped, kept)
    whole = torch.einsum("df,fg,dg->", wide, damped, wide)
    left = torch.einsum("df,fg,dg->", fitted, damped[kept][:, kept], fitted)
    return kept, fitted.float(), float(1 - left / whole)


def _fit(down: Tensor, moments: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the inverse of the kept channels' moments, and the down projection that does best with these."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments[kept][:, kept]))
    return inverse, down @ moments[:, kept] @ inverse
