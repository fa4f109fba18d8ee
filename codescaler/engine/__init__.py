"""`Engine` and the queue behind it: what a process loads to score. Loads neither training nor quantization."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _pause_collector() -> Iterator[None]:
    """Spares a large import the garbage collector, which finds nothing in what is loaded to stay.

    It would look through torch's objects again and again, an eighth of the time to a first score. They are then old
    objects, as if it had.
    """
    if not gc.isenabled() or gc.get_freeze_count():  # a caller has plans of its own
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.unfreeze()  # into the oldest generation, unread
        gc.enable()


with _pause_collector():
    from codescaler.engine.engine import Engine

__all__ = ["Engine"]
