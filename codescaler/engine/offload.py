"""The weights of a decoder out of the memory of its device, and back: what `Engine.sleep` and `Engine.wake` do.

The storage of a weight is emptied in place, and filled again. So every object that holds the weight, or a view of it,
stays as it is.
"""

import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, UntypedStorage

MIN_BYTES = 1 << 20  # of a storage that moves: thousands of norms take longer to move than they are worth


class _Moved(NamedTuple):
    storage: UntypedStorage
    content: Tensor


class Offload:
    """The large tensors that `holder` reaches, moved to host memory until `restore`."""

    def __init__(self, holder: object, min_bytes: int = MIN_BYTES) -> None:
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in find_tensors(holder)}
        # All copies first: if host memory is short, nothing has been emptied.
        large = [storage for storage in storages.values() if storage.nbytes() >= min_bytes]
        self._moved = [_Moved(storage, _view_bytes(storage).to("cpu", copy=True)) for storage in large]
        for storage in large:
            storage.resize_(0)

    @property
    def num_bytes(self) -> int:
        """Bytes that were moved."""
        return sum(moved.content.nbytes for moved in self._moved)

    def restore(self) -> None:
        """Puts everything back where it was. If memory is short, it raises, holds none, and can be called again."""
        try:
            for storage, content in self._moved:
                storage.resize_(content.nbytes)
        except BaseException:
            for storage, _ in self._moved:
                storage.resize_(0)
            raise
        for storage, content in self._moved:
            _view_bytes(storage).copy_(content)
        self._moved = []


def find_tensors(holder: object) -> Iterator[Tensor]:
    """Yields the tensors in a record: in its fields, lists and dictionaries, and in what its functions close over."""
    if isinstance(holder, Tensor):
        yield holder
    for part in _list_parts(holder):
        yield from find_tensors(part)


def _list_parts(holder: Any) -> list[object]:
    if isinstance(holder, (list, tuple)):
        return list(holder)
    if isinstance(holder, dict):
        return list(holder.values())
    if isinstance(holder, types.FunctionType):
        return [cell.cell_contents for cell in holder.__closure__ or ()]
    if type(holder).__module__.startswith("codescaler."):
        slots = [getattr(holder, name) for name in getattr(type(holder), "__slots__", ())]
        return [*vars(holder).values(), *slots] if hasattr(holder, "__dict__") else slots
    return []


def _view_bytes(storage: UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
