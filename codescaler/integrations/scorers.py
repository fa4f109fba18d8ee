"""Where scores come from, by one text: the URL of a server, or a model that is loaded into this process.

Trainers are configured by texts. Of a model, nothing is loaded until a text names one, and once a process.
"""

import threading
from typing import TYPE_CHECKING, Any

from codescaler.errors import InvalidInput

if TYPE_CHECKING:
    from codescaler.engine import Engine
    from codescaler.serve.client import AsyncClient, Client

TIMEOUT_S = 600.0  # for a server that is started anew: a run of days should not end with it
_engines: dict[str, "Engine"] = {}
_lock = threading.Lock()


def open_scorer(reward_model: str, **options: Any) -> "Engine | Client":
    """Returns the `Client` of a URL, else the engine of a folder or hub id. `options` are theirs.

    Raises: as `Client` or `Engine.from_pretrained`.
    """
    if not is_url(reward_model):
        return _load_engine(reward_model, options)
    from codescaler.serve.client import Client

    return Client(reward_model, **{"timeout_s": TIMEOUT_S} | options)


def open_async_scorer(reward_model: str, **options: Any) -> "Engine | AsyncClient":
    """Returns what `open_scorer` does, for event loops."""
    if not is_url(reward_model):
        return _load_engine(reward_model, options)
    from codescaler.serve.client import AsyncClient

    return AsyncClient(reward_model, **{"timeout_s": TIMEOUT_S} | options)


def is_url(reward_model: str) -> bool:
    """Whether a text names a server.

    Raises:
        InvalidInput: it is no text.
    """
    if not isinstance(reward_model, str) or not reward_model:
        raise InvalidInput(f"reward_model is {reward_model!r:.80}; give the URL of a server, a folder, or a hub id")
    return reward_model.startswith(("http://", "https://", "unix:"))


def _load_engine(model: str, options: dict[str, Any]) -> "Engine":
    from codescaler.engine import Engine

    with _lock:
        key = repr((model, sorted(options.items())))
        if key not in _engines:
            _engines[key] = Engine.from_pretrained(model, **options)
        return _engines[key]
