"""A training step on a group of eight programs: ours, transformers packed without sharing, and padded with TRL's loss.

Weights and optimizer are float32, products bfloat16. Ours is one prefix tree; packed has each program once with its
prompt; TRL's layout has a pair of programs with its prompt each, correct ones first, four pairs a step, so pairs a
second are what compares. Losses and gradients of the same pairs must agree first. Ours runs with gradient
checkpointing too, and sharded by FSDP2 over one card, which shows what its hooks cost. The kernels of our step stand
beside the roofline's.
"""

import contextlib
import itertools
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional

from benches.gpu.parts import Emit, Row, Setting, free_memory
from benches.gpu.profile import make_gap_row, make_kernel_rows, record_kernels
from benches.gpu.random_models import SMALL_SHAPES, SMALL_WORKLOADS, RandomWeights, build_transformers
from benches.harness.baselines import VARLEN, score_packed
from benches.tools.roofline import predict_step
from codescaler.ops import select_backend
from codescaler.testing import QWEN3_1_7B, WORKLOADS, ModelShape, measure_seconds
from codescaler.train.batches import make_micro_batch
from codescaler.train.config import TrainConfig
from codescaler.train.model import build_model
from codescaler.train.problems import TokenizedProblem
from codescaler.train.processes import Processes, gather_tensor

PAIRS_OF_A_STEP = 4  # of TRL's layout: with eight, activations at 1.7B shapes do not fit beside the optimizer in 80 GB
LEARNING_RATE = 1e-7  # weights hardly move, so that every round is of the same model
OURS = "codescaler"
LOSS_LIMIT, GRADIENT_LIMIT = 0.02, 0.05  # between systems that round in other places: of the loss, and of the norm

Ids = Sequence[int]
Pair = tuple[Ids, Ids]
Built = tuple[Callable[[], None], int, Callable[[], Tensor]]


def run(setting: Setting, emit: Emit) -> None:
    shape = SMALL_SHAPES["tiny"] if setting.is_small else QWEN3_1_7B
    workload = SMALL_WORKLOADS["bon3"] if setting.is_small else WORKLOADS["bon8"]
    programs = workload.draw_sequences()
    labels = [index % 2 == 0 for index in range(len(programs))]
    pairs = [
        (right, wrong)
        for (right, is_correct), (wrong, is_wrong) in itertools.product(zip(programs, labels, strict=True), repeat=2)
        if is_correct and not is_wrong
    ]
    builders: dict[str, Callable[..., Built]] = {
        OURS: _build_ours,
        f"{OURS}, checkpointed": partial(_build_ours, is_checkpointed=True),
        f"{OURS}, FSDP2 of one card": partial(_build_ours, is_sharded=True),
        "packed, varlen": _build_packed,
        "padded, TRL": _build_padded,
    }
    results: dict[str, dict[str, float]] = {}
    profiled: list[Row] = []
    for name, build in builders.items():
        step, pairs_of_a_step, loss_of_all = build(shape, programs, labels, pairs, setting.device)
        results[name] = _measure(step, pairs_of_a_step, loss_of_all, setting)
        if name == OURS:
            events = record_kernels(step, setting)
            rows = [*make_kernel_rows(events, predict_step(shape, workload)), make_gap_row(events)]
            profiled = [Row(f"{name}: {row.name}", row.is_ok, row.figures) for row in rows]
        del step, loss_of_all
        if dist.is_initialized():
            dist.destroy_process_group()
        free_memory(setting.device)
    ours = results[OURS]
    for name, figures in results.items():
        is_close = (
            abs(figures["loss"] - ours["loss"]) <= LOSS_LIMIT * abs(ours["loss"])
            and abs(figures["gradient_norm"] - ours["gradient_norm"]) <= GRADIENT_LIMIT * ours["gradient_norm"]
        )
        figures["ours_is_faster"] = ours["pairs_per_s"] / figures["pairs_per_s"]
        emit(Row(name, is_close, figures, "" if is_close else "loss or gradient differ from ours"))
    for row in profiled:
        emit(row)


def _build_ours(
    shape: ModelShape,
    programs: list[list[int]],
    labels: list[bool],
    pairs: list[Pair],
    device: torch.device,
    *,
    is_checkpointed: bool = False,
    is_sharded: bool = False,
) -> Built:
    weights = RandomWeights(shape, device)
    checkpoint: Any = SimpleNamespace(config=weights.config, get=weights.get)
    config = TrainConfig(center_coefficient=0.0, gradient_checkpointing=is_checkpointed)
    model = build_model(checkpoint, select_backend("triton", device.type), config, _compute_dtype(device), device)
    processes = Processes()
    if is_sharded:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        processes = Processes(0, 1, init_device_mesh(device.type, (1,)))
        processes.shard(model)
    sequences = [np.array(ids, dtype=np.int32) for ids in programs]
    problem = TokenizedProblem("group", sequences, labels, 0.0, 0)

    def compute_loss() -> Tensor:
        batch = make_micro_batch([problem], device)
        scores = model(batch.tree)[-1, batch.places]
        return model.backend.pairwise_loss(scores, batch.labels, batch.offsets, batch.margins)[0]

    return _make_stepper(model, compute_loss, partial(processes.hold_weights, model)), len(pairs), compute_loss


def _build_packed(
    shape: ModelShape, programs: list[list[int]], labels: list[bool], pairs: list[Pair], device: torch.device
) -> Built:
    model = build_transformers(shape, torch.float32, device, VARLEN).train()

    def compute_loss() -> Tensor:
        with _make_autocast(device):
            scores = score_packed(model, programs).float()
        is_correct = torch.tensor(labels, device=device)
        gaps = scores[is_correct].unsqueeze(1) - scores[~is_correct].unsqueeze(0)
        return -functional.logsigmoid(gaps).mean()

    return _make_stepper(model, compute_loss), len(pairs), compute_loss


def _build_padded(
    shape: ModelShape, programs: list[list[int]], labels: list[bool], pairs: list[Pair], device: torch.device
) -> Built:
    model = build_transformers(shape, torch.float32, device).train()
    padding = int(model.config.pad_token_id)
    some = sorted(pairs, key=lambda pair: max(map(len, pair)))
    some = some[(len(some) - PAIRS_OF_A_STEP) // 2 :][:PAIRS_OF_A_STEP]  # as long as half of them are

    def compute_loss(chosen: list[Pair]) -> Tensor:
        with _make_autocast(device):
            return compute_trl_loss(model, chosen, padding)

    def compute_loss_in_parts() -> Tensor:
        """In parts that fit; each leaves its share of the gradient."""
        total = torch.zeros((), device=device)
        for start in range(0, len(pairs), PAIRS_OF_A_STEP):
            part = pairs[start : start + PAIRS_OF_A_STEP]
            share = compute_loss(part) * (len(part) / len(pairs))
            share.backward()
            total += share.detach()
        return total.requires_grad_()

    return _make_stepper(model, lambda: compute_loss(some)), len(some), compute_loss_in_parts


def compute_trl_loss(model: Any, pairs: Sequence[Pair], padding: int) -> Tensor:
    """The loss of TRL's `RewardTrainer` on pairs (chosen, rejected), in the layout of its collator.

    All chosen sequences, then all rejected ones, padded on the right to the longest; -logsigmoid of the difference of
    scores, averaged. `benches/test_gpu.py` holds loss and gradients equal to the trainer's own.
    """
    sequences = [list(pair[side]) for side in (0, 1) for pair in pairs]
    width = max(map(len, sequences))
    ids = torch.tensor([ids + [padding] * (width - len(ids)) for ids in sequences], device=model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences], device=model.device)
    chosen, rejected = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.squeeze(-1).chunk(2)
    return -functional.logsigmoid(chosen.float() - rejected.float()).mean()


def _make_stepper(
    model: torch.nn.Module,
    loss: Callable[[], Tensor],
    hold: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Callable[[], None]:
    """A step of AdamW with clipping; its attribute `model` is the model. `hold` is around a forward and a backward."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step() -> None:
        with hold():
            loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step.model = model  # type: ignore[attr-defined]
    return step


def _measure(step: Any, num_pairs: int, loss_of_all: Callable[[], Tensor], setting: Setting) -> dict[str, float]:
    loss = loss_of_all()
    loss.backward()
    gradients = [p.grad for p in step.model.parameters() if p.grad is not None]
    norm = gather_tensor(torch.nn.utils.get_total_norm(gradients))
    step.model.zero_grad(set_to_none=True)
    step()  # the first makes the optimizer's moments
    seconds = statistics.median(measure_seconds(step, setting.device) for _ in range(setting.num_rounds))
    figures = {
        "loss": loss.item(),
        "gradient_norm": float(norm),
        "ms": 1e3 * seconds,
        "pairs_per_s": num_pairs / seconds,
    }
    if setting.device.type == "cuda":
        figures["peak_gib"] = torch.cuda.max_memory_allocated(setting.device) / 2**30
        torch.cuda.reset_peak_memory_stats(setting.device)
    return figures


def _compute_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _make_autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
