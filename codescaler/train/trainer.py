"""`fit`: trains a reward model on groups of correct and incorrect programs, one prefix tree a forward.

One forward over the tree of k candidates gives every pair of a correct and an incorrect one, up to k^2 / 4 pairs. A
trainer on padded pairs computes the problem again for each half of each pair. The model code is the engine's.
"""

import dataclasses
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codescaler.checkpoint.download import resolve_folder
from codescaler.checkpoint.load import Checkpoint, open_checkpoint
from codescaler.checkpoint.save import save_adapter, save_trained
from codescaler.engine.options import require_count, select_device
from codescaler.env import count_launched_processes, read_local_rank
from codescaler.errors import InvalidInput, ShapeMismatch, TrainingDiverged, WeightsError
from codescaler.ops import select_backend
from codescaler.text.control_tokens import ControlTokenMode
from codescaler.text.encoder import build_encoder
from codescaler.text.settings import BosRule, TextSettings, write_text_settings
from codescaler.train.batches import Indices, MicroBatch, make_micro_batch, plan_all_steps, plan_epoch
from codescaler.train.checkpointing import RunFolder
from codescaler.train.config import TrainConfig
from codescaler.train.loss import exit_loss, margin_mse_loss
from codescaler.train.metrics_logger import CURVES_FILE, MetricsLogger, draw_curves
from codescaler.train.model import build_model
from codescaler.train.problems import Groups, TokenizedProblem, compute_data_digest, count_pairs, prepare_training_data
from codescaler.train.processes import Processes, gather_tensor, join_processes, shard_like
from codescaler.train.speed import count_step_flops, measure_peak_flops
from codescaler.train.validation import Validation, validate

SAVE_SECONDS = 600  # between two checkpoints, where no number of steps is given
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainReport:
    """What `fit` did.

    Attributes:
        output_dir: the run's folder; its `model` is the reward model, best on validation.
        num_problems, num_pairs, num_tokens: what was learned from, in one pass.
        counts: what was left out, by reason.
        num_steps: steps of the optimizer, `best_step` the one whose model was kept.
        before, best: validation of the model given and of the one kept; None without validation problems.
        seconds, tokens_per_second, mfu: of this call's training steps.
        rank: of this process among several.
    """

    output_dir: Path
    num_problems: int
    num_pairs: int
    num_tokens: int
    counts: Mapping[str, int]
    num_steps: int
    best_step: int
    before: Validation | None
    best: Validation | None
    seconds: float
    tokens_per_second: float
    mfu: float
    rank: int = 0


def fit(
    model: str | Path,
    groups: Groups,
    output_dir: str | Path,
    config: TrainConfig | None = None,
    *,
    validation: Groups | None = None,
    resume: bool = False,
    device: str = "auto",
    num_threads: int | None = None,
    system: str | None = None,
    control_tokens: ControlTokenMode | None = None,
    chat_template: str | None = None,
    bos: BosRule = "tokenizer",
    base_model: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    show_progress: bool = False,
) -> TrainReport:
    """Trains a reward model and writes it as a Hugging Face folder, or with LoRA as a PEFT folder.

    On a CPU the same arguments give the same bits on the same number of threads, however often the run was interrupted
    and resumed. Under torchrun all processes call this with the same arguments.

    Args:
        model: folder or hub id of a reward model, whose head is where training starts (a head's bias is left out); or
            of a causal LM, whose head starts at 0.
        groups: a file of JSON lines, or records: groups, or pairs (see `codescaler.io.records`). Without `validation`,
            those that say they are of the split "validation" are validated on.
        output_dir: the run's folder (see `train.checkpointing`), new or empty. The model given is written there first,
            so that one is there at any time, and what hinders its writing shows before hours are spent.
        config: settings, by default `TrainConfig()`.
        validation: problems to validate on and to choose the best model by, the one given among them; none: the last
            model is kept.
        resume: go on from the last checkpoint in `output_dir`, if there is one.
        device: as in `Engine.from_pretrained`, like all that follow.
        num_threads: CPU threads.
        system: the system prompt of records that have none, which becomes that of the folder written.
        control_tokens: what control tokens in programs are. The reward model must then score with the same.
        chat_template: the text of a chat template in place of the model's, which becomes that of the folder written.
        bos: as in `Engine.from_pretrained`. The reward model must then score with the same.
        base_model: base of a LoRA folder.
        revision: branch, tag or commit on the hub.
        local_files_only: never ask the hub.
        show_progress: show a bar on stderr.

    Raises:
        InvalidInput: a record, an argument or the folder cannot be used, nothing is left to learn from, or a task is
            both trained and validated on. WeightsError, UnsupportedModel: the model cannot be used.
        TrainingDiverged: a loss or gradient is not finite; the last checkpoint is intact.
    """
    config = config or TrainConfig()
    require_count("num_threads", num_threads)
    target = select_device(device)
    if target.type == "cuda" and target.index is None and count_launched_processes() > 1:
        target = torch.device("cuda", read_local_rank())
        torch.cuda.set_device(target)
    source = resolve_folder(model, revision=revision, local_files_only=local_files_only)
    checkpoint = open_checkpoint(source, head="optional", base_model=base_model, local_files_only=local_files_only)
    checkpoint.require_trainable()
    if config.method == "lora" and checkpoint.base_folder is not None:
        raise InvalidInput(f"{source} is a LoRA adapter itself; merge it with PEFT to train another one on it")
    _require_trainable(checkpoint, source, config)
    given = TextSettings(system, control_tokens, chat_template, bos)
    text = build_encoder(checkpoint, text=given).text
    learned, validated, counts = prepare_training_data(checkpoint, groups, validation, config, text)
    steps = plan_all_steps(learned, config)
    # A hub id stays one, so that an adapter finds its base on another machine.
    base = str(checkpoint.folder.resolve()) if os.path.isdir(Path(model).expanduser()) else str(model)  # noqa: PTH112
    settings = {
        "model": str(model),
        "base_model": None if base_model is None else str(base_model),
        "revision": revision,
        **text.describe(are_programs=True),
        **dataclasses.asdict(config),
        "data": compute_data_digest(learned, validated),
    }
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads or threads_before)
    try:
        # Whatever the caller's own torch state is.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(target.type, enabled=False),
            join_processes(config.parallel, target) as processes,
        ):
            # No name here for the run: at the end nothing may hold the process group.
            return _Run(checkpoint, base, revision, given, config, learned, validated, steps, target, processes).train(
                Path(output_dir), settings, counts, resume=resume, show_progress=show_progress
            )
    finally:
        torch.set_num_threads(threads_before)


@dataclass
class _Work:
    """What some steps took."""

    num_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def add(self, other: "_Work") -> None:
        self.num_tokens += other.num_tokens
        self.flops += other.flops
        self.seconds += other.seconds

    def compute_speed(self, peak: float) -> dict[str, float]:
        per_second = 1.0 / self.seconds if self.seconds else 0.0
        return {
            "seconds": self.seconds,
            "num_tokens": self.num_tokens,
            "tokens_per_second": self.num_tokens * per_second,
            "mfu": self.flops * per_second / peak,
        }


def _require_trainable(checkpoint: Checkpoint, source: Path, config: TrainConfig) -> None:
    """Raises InvalidInput if what is trained could not go on from this head, or could not be written."""
    head, is_lora = checkpoint.config.head, config.method == "lora"
    if head in ("mlp", "appended_token"):
        raise InvalidInput(
            f"{source} has a head of kind {head}, and training is of one linear layer behind the text; start from the "
            "language model below it, or make a new head with fit-head"
        )
    if is_lora and head not in ("none", "sequence_classification"):
        raise InvalidInput(
            f"{source} has a {head} head, which an adapter for sequence classification cannot "
            "replace; train with method='full' or 'head'"
        )
    if is_lora and checkpoint.config.layout is not None:
        raise InvalidInput(
            f"{source}: its files fuse projections, and an adapter is written for single ones; train with "
            "method='full' or 'head'"
        )
    if config.exit_weight and checkpoint.config.num_layers == 1:
        raise InvalidInput(f"exit_weight={config.exit_weight}, and {source} has one layer, so no exits; leave it out")


class _Run:
    """One run on this process: model, optimizer, and the way through its steps."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        base: str,
        revision: str | None,
        text: TextSettings,
        config: TrainConfig,
        learned: Sequence[TokenizedProblem],
        validated: Sequence[TokenizedProblem],
        steps: Sequence[Sequence[Indices]],
        device: torch.device,
        processes: Processes,
    ) -> None:
        self.checkpoint, self.base, self.revision, self.config = checkpoint, base, revision, config
        self.text = text
        self.learned, self.validated, self.steps = learned, validated, steps
        self.device, self.processes = device, processes
        self.steps_per_epoch = len(plan_epoch(learned, config, 0))
        backend = select_backend("auto", device.type)
        self.dtype = backend.fastest_dtype if config.dtype == "auto" else getattr(torch, config.dtype)
        self.model = build_model(checkpoint, backend, config, self.dtype, device)
        self.pairwise_loss = self.model.backend.pairwise_loss
        processes.shard(self.model)
        self.parameters = self.model.get_trainable_parameters()
        self.means: dict[str, Tensor] = {}  # of the weights of the last steps
        decayed = [p for p in self.parameters.values() if p.ndim >= 2]
        others = [p for p in self.parameters.values() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.peak_learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            fused=True,
        )

    def train(
        self,
        output_dir: Path,
        settings: Mapping[str, Any],
        counts: Mapping[str, int],
        *,
        resume: bool,
        show_progress: bool,
    ) -> TrainReport:
        config, processes = self.config, self.processes
        folder = RunFolder(output_dir)
        if processes.is_first:
            folder.open({**settings, "dtype": str(self.dtype)}, resume=resume)
        processes.barrier()
        counters = self._restore(folder, resume)
        first_step, num_steps = counters["step"], len(self.steps)
        logger = None
        if processes.is_first:
            folder.keep_log_until(first_step)
            logger = MetricsLogger(folder.path, first_step=first_step, num_steps=num_steps, show_progress=show_progress)
        peak = measure_peak_flops(self.dtype, self.device) * processes.count
        evaluate_every = config.evaluate_every or self.steps_per_epoch
        total = _Work()
        saved_at = time.monotonic()
        try:
            if counters["best_step"] is None:
                self._keep_best(folder, logger, counters, 0)
                counters["before"] = counters["best"]
            for step in range(first_step, num_steps):
                started = time.perf_counter()
                record, work = self._step(step, folder)
                work.seconds = time.perf_counter() - started
                total.add(work)
                self._note(folder, logger, record | work.compute_speed(peak))
                done, is_last = step + 1, step + 1 == num_steps
                self._average_weights(done, num_steps)
                if done % evaluate_every == 0 or is_last:
                    self._keep_best(folder, logger, counters, done)
                is_due = time.monotonic() - saved_at > SAVE_SECONDS
                if is_last or (done % config.save_every == 0 if config.save_every else processes.broadcast(is_due)):
                    self._save(folder, counters | {"step": done})
                    saved_at = time.monotonic()
        finally:
            if logger is not None:
                logger.close()
        if processes.is_first:
            draw_curves(folder.read_log(), folder.path / CURVES_FILE)
        processes.barrier()
        return TrainReport(
            output_dir=Path(output_dir),
            num_problems=len(self.learned),
            num_pairs=sum(count_pairs(problem.labels) for problem in self.learned),
            num_tokens=sum(problem.num_tokens for problem in self.learned),
            counts=counts,
            num_steps=num_steps,
            best_step=counters["best_step"],
            before=_read_validation(counters["before"]),
            best=_read_validation(counters["best"]),
            seconds=total.seconds,
            tokens_per_second=total.compute_speed(peak)["tokens_per_second"],
            mfu=total.compute_speed(peak)["mfu"],
            rank=processes.rank,
        )

    def _step(self, step: int, folder: RunFolder) -> "tuple[dict[str, Any], _Work]":
        """One step of the optimizer: every micro-batch forward and backward, then the update."""
        config, processes = self.config, self.processes
        batches = self.steps[step]
        num_problems = sum(map(len, batches))
        num_paired = max(1, sum(self.learned[i].has_pair for batch in batches for i in batch))
        num_taught = max(1, sum(self.learned[i].is_taught for batch in batches for i in batch))
        mine = list(batches[processes.rank :: processes.count])
        if processes.is_sharded:  # all of them gather each layer equally often
            mine += [()] * (-(-len(batches) // processes.count) - len(mine))
        finished: list[tuple[Indices, MicroBatch, Tensor, Tensor]] = []
        with processes.hold_weights(self.model):
            for indices in mine:
                batch = make_micro_batch([self.learned[i] for i in indices or batches[0]], self.device)
                scored = self.model(batch.tree)[:, batch.places]
                scores = scored[-1]
                part, _ = self.pairwise_loss(
                    scores, batch.labels, batch.offsets, batch.margins, config.center_coefficient
                )
                part = part * (sum(self.learned[i].has_pair for i in indices) / num_paired)
                if batch.teacher is not None:
                    teacher = batch.teacher
                    distilled = margin_mse_loss(scores[teacher.places], teacher.scores, teacher.bounds)
                    num_mine = sum(self.learned[i].is_taught for i in indices)
                    part = part + distilled * (config.teacher_weight * num_mine / num_taught)
                if config.exit_weight:
                    early = exit_loss(scored[:-1], scores, batch.bounds, self.model.exit_depths)
                    part = part + early * (config.exit_weight * len(indices) / num_problems)
                (part * processes.loss_scale).backward()
                finished.append((indices, batch, part.detach(), scores.detach()))
        processes.all_reduce_gradients([*self.parameters.values()])
        length = torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.max_grad_norm)
        # Not before: who asks a GPU for a number waits for all that it was given, and gives it nothing meanwhile.
        loss = accuracy = margin = flops = num_tokens = 0.0
        for indices, batch, part, scores in finished:
            loss += part.item()
            if indices:
                for right, gap in _measure_pairs(scores.cpu(), batch):
                    accuracy, margin = accuracy + right / num_paired, margin + gap / num_paired
                num_tokens += batch.tree.batch.num_tokens
                flops += count_step_flops(self.model.config, config.method, batch.tree)
        loss, accuracy, margin, num_tokens, flops = processes.all_reduce_sum(
            [loss, accuracy, margin, num_tokens, flops], self.device
        )
        norm = float(gather_tensor(length))
        if not math.isfinite(loss) or not math.isfinite(norm):
            last = folder.find_last_checkpoint()
            raise TrainingDiverged(
                f"step {step + 1}: the loss is {loss}, the gradient's length {norm}; lower learning_rate "
                f"({config.peak_learning_rate:g}), or look for non-finite weights in {self.base}. "
                f"{f'{last} is intact' if last else 'No checkpoint had been written'}"
            )
        rate = config.compute_learning_rate(step, len(self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        record = {
            "kind": "step",
            "step": step + 1,
            "loss": loss,
            "pair_accuracy": accuracy,
            "margin": margin,
            "learning_rate": rate,
            "gradient_norm": norm,
            "num_problems": num_problems,
        }
        return record, _Work(num_tokens=int(num_tokens), flops=flops)

    @torch.no_grad()
    def _average_weights(self, done: int, num_steps: int) -> None:
        """Adds the weights to their mean over the last steps; after the last one they become it."""
        num_averaged = done - (num_steps - round(self.config.average_last * num_steps))
        if num_averaged < 1:
            return
        for name, parameter in self.parameters.items():
            mean = self.means.setdefault(name, torch.zeros_like(parameter))
            mean.lerp_(parameter, 1.0 / num_averaged)
            if done == num_steps:
                parameter.copy_(mean)

    def _keep_best(self, folder: RunFolder, logger: MetricsLogger | None, counters: dict[str, Any], step: int) -> None:
        """Validates, and writes the model if it is the best so far; without validation problems it is."""
        if self.validated:
            now = validate(self.model, self.validated, self.config)
            self._note(
                folder,
                logger,
                {
                    "kind": "validation",
                    "step": step,
                    "validation_loss": now.loss,
                    "validation_pair_accuracy": now.pair_accuracy,
                    "validation_best_of_n": now.best_of_n,
                },
            )
            best = counters["best"]
            # Among few problems pair accuracies are often equal; the loss tells more.
            is_worse = best is not None and (now.pair_accuracy, -now.loss) <= (best["pair_accuracy"], -best["loss"])
            if self.processes.broadcast(is_worse):
                return
            counters["best"] = dataclasses.asdict(now)
        counters["best_step"] = step
        tensors = self._gather(self.parameters)
        if self.processes.is_first:
            canonical = {name: tensor.contiguous() for name, tensor in self.model.iterate_canonical(tensors)}
            folder.write_model(lambda path: self._write_model(canonical, path))
        self.processes.barrier()

    def _gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors in the first process's CPU memory, one after the other; the other processes get none."""
        wholes = {}
        for name, tensor in tensors.items():
            one = gather_tensor(tensor.detach())
            if self.processes.is_first:
                wholes[name] = one.cpu()
        return wholes

    def _write_model(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        if self.config.method == "lora":
            rank, alpha = self.config.lora_rank, self.config.lora_alpha
            save_adapter(self.checkpoint, tensors, rank, alpha, self.base, self.revision, path)
        else:
            save_trained(self.checkpoint, tensors, path)
        write_text_settings(self.text, path)

    def _save(self, folder: RunFolder, counters: Mapping[str, Any]) -> None:
        states = {name: self.optimizer.state[parameter] for name, parameter in self.parameters.items()}
        tensors: dict[str, Tensor] = {f"parameter.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"{moment}.{name}": state[moment] for name, state in states.items() for moment in _MOMENTS}
        tensors |= {f"mean.{name}": mean for name, mean in self.means.items()}
        gathered = self._gather(tensors)
        if self.processes.is_first:
            folder.write_checkpoint(counters["step"], gathered, counters)
        self.processes.barrier()

    def _restore(self, folder: RunFolder, resume: bool) -> dict[str, Any]:
        """Takes weights, optimizer and counters from the last checkpoint, if there is one to resume from."""
        last = folder.find_last_checkpoint() if resume else None
        if last is None:
            return {"step": 0, "best_step": None, "best": None, "before": None}
        tensors, counters = folder.read_checkpoint(last)
        for name, parameter in self.parameters.items():
            for kind in ("parameter", *_MOMENTS):
                stored = tensors.get(f"{kind}.{name}")
                if stored is None or stored.shape != parameter.shape:  # a smaller one would be repeated in silence
                    seen = "absent" if stored is None else f"of shape {tuple(stored.shape)}"
                    raise ShapeMismatch(
                        f"{last}: {kind}.{name} is {seen}, it must have the shape {tuple(parameter.shape)}; remove "
                        "this checkpoint to start anew"
                    )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(shard_like(tensors[f"parameter.{name}"], parameter))
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(counters["step"]), device=parameter.device),
                    **{m: shard_like(tensors[f"{m}.{name}"], parameter) for m in _MOMENTS},
                }
                if (mean := tensors.get(f"mean.{name}")) is not None:
                    self.means[name] = shard_like(mean, parameter)
        return counters

    def _note(self, folder: RunFolder, logger: MetricsLogger | None, record: dict[str, Any]) -> None:
        if logger is not None:
            folder.append_log(record)
            logger.show(record)


def _read_validation(record: Mapping[str, Any] | None) -> Validation | None:
    try:
        return None if record is None else Validation(**{**record, "interval": tuple(record["interval"])})
    except (TypeError, KeyError) as error:
        raise WeightsError(f"a checkpoint's figures are damaged ({error}); remove it to start anew") from error


def _measure_pairs(scores: Tensor, batch: MicroBatch) -> Iterator[tuple[float, float]]:
    """Yields of each problem with a pair: its pair accuracy, and the mean score of correct programs minus the mean
    score of incorrect programs.
    """
    labels_of_all = batch.labels.cpu()
    for start, end in batch.iterate_bounds():
        values, labels = scores[start:end], labels_of_all[start:end]
        if labels.all() or not labels.any():
            continue
        gaps = values[labels].unsqueeze(1) - values[~labels].unsqueeze(0)
        yield float((gaps > 0).float().mean() + (gaps == 0).float().mean() / 2), float(gaps.mean())
