"""Several processes of one training run, as `torchrun` starts them; alone, everything here does nothing.

"data": each process holds all weights and takes every n-th micro-batch of a step; gradients are summed. "fsdp":
weights, gradients and optimizer are sharded over the processes (PyTorch's FSDP2), layer by layer.
"""

import contextlib
import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Parameter

from codescaler.env import count_launched_processes
from codescaler.ops.autograd import hold_casts
from codescaler.train.config import Parallel
from codescaler.train.model import RewardModel


@dataclass(frozen=True)
class Processes:
    """One process among `count`; that of `rank` 0 writes and shows."""

    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None  # of "fsdp"

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether weights are sharded over the processes, which may be one."""
        return self.mesh is not None

    @property
    def loss_scale(self) -> float:
        """FSDP averages gradients over processes, where the sum is wanted."""
        return float(self.count) if self.is_sharded else 1.0

    def shard(self, model: RewardModel) -> None:
        """Shards the weights, with "fsdp"."""
        if self.mesh is not None:
            for layer in model.layers:
                fully_shard(layer, mesh=self.mesh)
            fully_shard(model, mesh=self.mesh)

    def hold_weights(self, model: RewardModel) -> AbstractContextManager[None]:
        """For the micro-batches of a step, which share their weights. Sharded weights are not kept whole."""
        return contextlib.nullcontext() if self.is_sharded else hold_casts(model, model.dtype)

    def all_reduce_gradients(self, parameters: list[Parameter]) -> None:
        """Leaves on every process the sum of all processes' gradients."""
        if self.count == 1 or self.is_sharded:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def all_reduce_sum(self, values: list[float], device: torch.device) -> list[float]:
        """The sums of each value over all processes."""
        if self.count == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def broadcast(self, decision: bool) -> bool:
        """What the first process has decided."""
        if self.count == 1:
            return decision
        decided = torch.tensor(float(decision), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.broadcast(decided, src=0)
        return bool(decided)

    def barrier(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier()


@contextlib.contextmanager
def join_processes(parallel: Parallel, device: torch.device) -> Iterator[Processes]:
    """Joins the processes that torchrun started, if it did and nobody has yet, and parts from them at the end."""
    joined = count_launched_processes() > 1 and not dist.is_initialized()
    if joined:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    mesh = None
    try:
        if not dist.is_initialized():
            yield Processes()
            return
        if parallel == "fsdp":
            mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        yield Processes(dist.get_rank(), dist.get_world_size(), mesh)
    finally:
        if joined:
            dist.destroy_process_group()
            # PyTorch's caches keep the mesh, and that its group, whose threads would outlive the interpreter: one that
            # then frees a tensor of Python's aborts the process.
            if mesh is not None:
                mesh._pg_registry.clear()
            gc.collect()


def gather_tensor(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded over the processes, gathered; all of them have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded as `like` is."""
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device)
