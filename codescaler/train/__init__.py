"""Training of reward models.

`fit` trains all weights, LoRA or a head on groups of right and wrong programs; `fit_head` fits a head on frozen
features; `prune` makes a smaller model to train; `bradley_terry_loss` is the loss, for training loops of one's own.
"""

from codescaler.train.config import TrainConfig
from codescaler.train.fit import TrainReport, fit
from codescaler.train.head import HeadReport, fit_head
from codescaler.train.loss import bradley_terry_loss
from codescaler.train.prune import PruneReport, prune
from codescaler.train.validation import Validation

__all__ = [
    "HeadReport",
    "PruneReport",
    "TrainConfig",
    "TrainReport",
    "Validation",
    "bradley_terry_loss",
    "fit",
    "fit_head",
    "prune",
]
