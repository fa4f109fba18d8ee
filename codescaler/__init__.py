"""codescaler scores programs with reward models.

The names of `__all__` are the public interface. They load on first use: `import codescaler` itself imports nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codescaler import errors, train
    from codescaler.engine import Engine
    from codescaler.integrations.reward_function import RewardFunction
    from codescaler.monitor import RewardMonitor
    from codescaler.serve.client import Client
    from codescaler.text import extract
    from codescaler.text.shaping import shaped_reward
    from codescaler.train import TrainConfig
    from codescaler.types import RankedCandidate

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Engine",
    "RankedCandidate",
    "RewardFunction",
    "RewardMonitor",
    "TrainConfig",
    "errors",
    "extract",
    "shaped_reward",
    "train",
]

_MODULES = {
    "errors": "codescaler.errors",
    "extract": "codescaler.text.extract",
    "train": "codescaler.train",
}
_MODULE_OF = {
    "Client": "codescaler.serve.client",
    "Engine": "codescaler.engine",
    "RankedCandidate": "codescaler.types",
    "RewardFunction": "codescaler.integrations.reward_function",
    "RewardMonitor": "codescaler.monitor",
    "TrainConfig": "codescaler.train",
    "shaped_reward": "codescaler.text.shaping",
}


if not TYPE_CHECKING:  # a type checker would take every name for one that exists

    def __getattr__(name: str) -> Any:
        """Loads a public name when it is asked for."""
        if name in _MODULES:
            return importlib.import_module(_MODULES[name])
        if name in _MODULE_OF:
            return getattr(importlib.import_module(_MODULE_OF[name]), name)
        raise AttributeError(
            f"module 'codescaler' has no attribute {name!r}; its public names are {', '.join(__all__)}"
        )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
