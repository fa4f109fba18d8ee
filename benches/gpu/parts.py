"""What the parts of the kit share: the order that they run in, what they are given, and the rows that they give.

A part is a module of this folder. Its `run(setting, emit)` hands each row to `emit` as it comes. It runs in processes
of its own, so that a fault of the card ends that part and no other.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from codescaler.env import is_triton_interpreted
from codescaler.errors import BackendUnavailable
from codescaler.testing.interpreter import prepare_interpreter

Figure = float | int | str | None
Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """One part of the kit.

    Attributes:
        what: it does, in words. seconds: that it may take on a card.
        num_processes: that share its work there.
        is_counted: its rows are counts that the processes add up, so that they are of use only if none was cut off.
    """

    name: str
    what: str
    seconds: int
    num_processes: int = 1
    is_counted: bool = False


PARTS = (
    Part("environment", "what is here, and how fast it can be", 30),
    Part("operations", "tests of every operation, on the card", 110, num_processes=12, is_counted=True),
    Part("models", "models of every family beside transformers", 75, num_processes=12),
    Part("invariance", "rows whose bits depend on their batch", 45, num_processes=4),
    Part("launches", "what a launch costs the host", 20),
    Part("training", "a training step beside transformers and TRL's loss", 70),
    Part("workloads", "named workloads beside transformers", 200),
    Part("products", "our own matrix products beside torch's, and a sweep of their tiles", 50),
    Part("profile", "each kernel's time beside the roofline's", 40),
    Part("tiles", "a sweep of attention's tiles", 40),
)


@dataclass(frozen=True)
class Setting:
    """What a part is given.

    Attributes:
        device: the card, or with `is_small` the CPU, where kernels run in Triton's interpreter on tiny shapes.
        shard, num_shards: which of the processes this is, of those that share the work.
        done: names of rows that an earlier call has already.
    """

    device: torch.device
    is_small: bool
    shard: int = 0
    num_shards: int = 1
    done: frozenset[str] = frozenset()

    @property
    def num_rounds(self) -> int:
        """How often a call is timed."""
        return 1 if self.is_small else 7

    def take(self, items: Sequence[Item], name: Callable[[Item], str]) -> list[Item]:
        """Returns the items that this process does: its share of those whose row an earlier call does not have."""
        left = [item for item in items if name(item) not in self.done]
        return left[self.shard :: self.num_shards]


@dataclass(frozen=True)
class Row:
    """One result: whether it is as it must be (None where there is nothing to hold it against), figures, the fault."""

    name: str
    is_ok: bool | None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    fault: str = ""


Emit = Callable[[Row], None]


def free_memory(device: torch.device) -> None:
    """Gives what no tensor holds any more back to the card."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def make_setting(is_small: bool, shard: int, num_shards: int, done: frozenset[str]) -> Setting:
    """Returns the setting of this process.

    Raises:
        BackendUnavailable: there is no GPU, or with `is_small` no interpreter.
    """
    if is_small:
        if not is_triton_interpreted():
            raise BackendUnavailable("the small kit runs kernels in Triton's interpreter; set TRITON_INTERPRET=1")
        prepare_interpreter()
        return Setting(torch.device("cpu"), is_small, shard, num_shards, done)
    if not torch.cuda.is_available():
        raise BackendUnavailable("torch sees no GPU; make gpu SMALL=1 runs the kit on a CPU, on tiny shapes")
    return Setting(torch.device("cuda"), is_small, shard, num_shards, done)
