"""Training of reward models.

`fit` trains all weights, LoRA or a head on groups of correct and incorrect programs. `fit_head` fits a head on frozen
features. `prune` makes a smaller model to train. `bradley_terry_loss` is the loss, for other training loops.

Names load on first use, since the command line reads the settings without torch. So no module here may have the name
of a public function: the import of such a module would replace the function.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codescaler.train.config import TrainConfig
    from codescaler.train.head import HeadReport, fit_head
    from codescaler.train.loss import bradley_terry_loss
    from codescaler.train.pruning import PruneReport, prune
    from codescaler.train.trainer import TrainReport, fit
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

_MODULES = {
    "config": ["TrainConfig"],
    "head": ["HeadReport", "fit_head"],
    "loss": ["bradley_terry_loss"],
    "pruning": ["PruneReport", "prune"],
    "trainer": ["TrainReport", "fit"],
    "validation": ["Validation"],
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is asked for."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"codescaler.train.{module}"), name)
    raise AttributeError(f"module 'codescaler.train' has no attribute {name!r}; choose from {', '.join(__all__)}")
