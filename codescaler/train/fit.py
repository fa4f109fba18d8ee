"""`fit`: trains a reward model on groups of right and wrong programs, one prefix tree a forward.

From k candidates of a problem one forward over their tree gives every right/wrong pair, up to k^2 / 4 of them, where a
trainer on padded pairs computes the problem again for each half of each pair. The model code is the engine's.
"""

import dataclasses
import hashlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codescaler import __version__
from codescaler.chat import load_chat
from codescaler.engine import select_device
from codescaler.errors import InvalidInput, TrainingDiverged
from codescaler.metrics import best_of_n, bootstrap_interval, pair_accuracy
from codescaler.ops import select_backend
from codescaler.records import Group, read_groups
from codescaler.save import save_adapter, save_trained
from codescaler.train.batches import Indices, MicroBatch, micro_batch, steps_of_epoch
from codescaler.train.config import TrainConfig
from codescaler.train.journal import CURVES_FILE, Journal, draw_curves
from codescaler.train.model import build_model
from codescaler.train.problems import TokenizedProblem, problems_of, tokenized
from codescaler.train.processes import Processes, join_processes, leave_processes, spread_like, whole
from codescaler.train.run_folder import RunFolder
from codescaler.train.speed import matmul_peak, step_flops
from codescaler.weights import Checkpoint, open_checkpoint, resolve_folder

Groups = str | Path | Iterable[Group | Mapping[str, Any]]


@dataclass(frozen=True)
class Validation:
    """How a model ranks problems that it does not learn from; of each figure the mean over problems.

    Attributes:
        loss: the Bradley-Terry loss.
        pair_accuracy: share of right/wrong pairs ranked right, and its 95% bootstrap `interval` over problems.
        best_of_n: how often the best-scored candidate of a problem is right; `chance` is that of one drawn blindly.
        pair_accuracies, picks: the first and the third of each problem, by task id, to compare models on the same
            problems.
    """

    loss: float
    pair_accuracy: float
    interval: tuple[float, float]
    best_of_n: float
    chance: float
    pair_accuracies: Mapping[str, float]
    picks: Mapping[str, float]


@dataclass(frozen=True)
class TrainReport:
    """What `fit` did.

    Attributes:
        output_dir: the run's folder; its `model` is the reward model, best on validation.
        num_problems, num_pairs, num_tokens: what was learned from, in one pass.
        counts: what was left out, by reason.
        num_steps: steps of the optimizer, `best_step` the one whose model was kept.
        before, best: validation of the model given and of the one kept; None without validation problems.
        seconds, tokens_per_second, share_of_peak: of this call's training steps.
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
    share_of_peak: float
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
    base_model: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    show_progress: bool = False,
) -> TrainReport:
    """Trains a reward model and writes it as a Hugging Face folder, or with LoRA as a PEFT folder.

    On a CPU the same arguments give the same bits, however often the run was interrupted and resumed. Under torchrun
    all processes call this with the same arguments.

    Args:
        model: folder or hub id of a reward model, whose head is where training starts (a head's bias is left out); or
            of a causal LM, whose head starts at 0.
        groups: a file of JSON lines, or records: groups, or pairs (see `codescaler.records`). Where records say their
            split, those of "validation" are validated on, unless `validation` is given.
        output_dir: the run's folder (see `train.run_folder`), new or empty.
        config: settings, by default `TrainConfig()`.
        validation: problems to validate on and to choose the best model by; none: the last model is kept.
        resume: go on from the last checkpoint in `output_dir`, if there is one.
        device: as in `Engine.from_pretrained`, like all that follow.
        num_threads: CPU threads.
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
    target = select_device(device)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    source = resolve_folder(model, revision=revision, local_files_only=local_files_only)
    checkpoint = open_checkpoint(source, head="optional", base_model=base_model, local_files_only=local_files_only)
    if config.method == "lora" and checkpoint.base_folder is not None:
        raise InvalidInput(f"{source} is a LoRA adapter itself; merge it with PEFT to train another one on it")
    learned, validated, counts = _read(checkpoint, groups, validation, config)
    steps = _all_steps(learned, config)
    processes, joined = join_processes(config.parallel, target)
    try:
        run = _Run(checkpoint, str(model), config, learned, validated, steps, target, processes)
        settings = {
            "codescaler": __version__,
            "model": str(model),
            "data": _digest(learned, validated),
            "num_processes": processes.count,
            **dataclasses.asdict(config),
        }
        return run.train(Path(output_dir), settings, counts, resume=resume, show_progress=show_progress)
    finally:
        if joined:
            leave_processes()


class _Run:
    """One run on this process: model, optimizer, and the way through its steps."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        name: str,
        config: TrainConfig,
        learned: Sequence[TokenizedProblem],
        validated: Sequence[TokenizedProblem],
        steps: Sequence[Sequence[Indices]],
        device: torch.device,
        processes: Processes,
    ) -> None:
        self.checkpoint, self.name, self.config = checkpoint, name, config
        self.learned, self.validated, self.steps = learned, validated, steps
        self.device, self.processes = device, processes
        backend = select_backend("auto", device.type)
        dtype = config.dtype if config.dtype != "auto" else "bfloat16" if backend.has_bf16_unit else "float32"
        self.dtype = getattr(torch, dtype)
        self.model = build_model(checkpoint, backend, config, self.dtype, device)
        self.pairwise_loss = self.model.backend.pairwise_loss
        processes.share(self.model, device)
        self.parameters = self.model.learning()
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
        folder = RunFolder(output_dir, settings, resume=resume) if processes.is_first else None
        processes.wait()
        if folder is None:  # the first process has made it, and this one only reads
            folder = RunFolder(output_dir, settings, resume=True)
        counters = self._restore(folder, resume)
        first_step, num_steps = counters["step"], len(self.steps)
        if processes.is_first:
            folder.keep_log_before(first_step)
        journal = None
        if processes.is_first:
            journal = Journal(folder.path, first_step=first_step, num_steps=num_steps, show_progress=show_progress)
        peak = matmul_peak(self.dtype, self.device)
        evaluate_every = config.evaluate_every or max(1, math.ceil(num_steps / max(1, round(config.epochs))))
        save_every = config.save_every or evaluate_every
        seconds = flops = num_tokens = 0.0
        try:
            if first_step == 0 and self.validated:
                counters["before"] = dataclasses.asdict(self.validate())
            for step in range(first_step, num_steps):
                started = time.perf_counter()
                record, step_tokens, step_flops_ = self._step(step, folder)
                elapsed = time.perf_counter() - started
                seconds, flops, num_tokens = seconds + elapsed, flops + step_flops_, num_tokens + step_tokens
                record |= {
                    "seconds": elapsed,
                    "num_tokens": step_tokens,
                    "tokens_per_second": step_tokens / elapsed,
                    "share_of_peak": step_flops_ / elapsed / (peak * processes.count),
                }
                self._note(folder, journal, record)
                done, is_last = step + 1, step + 1 == num_steps
                if done % evaluate_every == 0 or is_last:
                    self._keep_best(folder, journal, counters, done)
                if done % save_every == 0 or is_last:
                    self._save(folder, counters | {"step": done})
        finally:
            if journal is not None:
                journal.close()
        if processes.is_first:
            draw_curves(folder.log(), folder.path / CURVES_FILE)
        processes.wait()
        return TrainReport(
            output_dir=Path(output_dir),
            num_problems=len(self.learned),
            num_pairs=sum(problem.num_pairs for problem in self.learned),
            num_tokens=sum(problem.num_tokens for problem in self.learned),
            counts=counts,
            num_steps=num_steps,
            best_step=counters["best_step"],
            before=_validation(counters["before"]),
            best=_validation(counters["best"]),
            seconds=seconds,
            tokens_per_second=num_tokens / seconds if seconds else 0.0,
            share_of_peak=flops / seconds / (peak * processes.count) if seconds else 0.0,
            rank=processes.rank,
        )

    def _step(self, step: int, folder: RunFolder) -> tuple[dict[str, Any], int, float]:
        """One step of the optimizer: every micro-batch forward and backward, then the update."""
        config, processes = self.config, self.processes
        batches = self.steps[step]
        num_problems = sum(map(len, batches))
        mine = list(batches[processes.rank :: processes.count])
        if processes.count > 1 and processes.parallel == "fsdp":  # all of them gather each layer equally often
            mine += [()] * (-(-len(batches) // processes.count) - len(mine))
        loss = accuracy = margin = flops = num_tokens = 0.0
        for indices in mine:
            batch = micro_batch([self.learned[i] for i in indices or batches[0]], self.device)
            scores = self.model(batch.tree)[batch.places]
            share = len(indices) / num_problems
            part, _ = self.pairwise_loss(scores, batch.labels, batch.offsets, batch.margins, config.center_coefficient)
            (part * (share * processes.loss_scale)).backward()
            loss += part.item() * share
            for right, gap in _pair_figures(scores.detach(), batch) if indices else ():
                accuracy, margin = accuracy + right / num_problems, margin + gap / num_problems
            if indices:
                num_tokens += batch.tree.batch.num_tokens
                flops += step_flops(self.model.config, config.method, batch.tree)
        processes.sum_gradients([*self.parameters.values()])
        loss, accuracy, margin, num_tokens, flops = processes.sum(
            [loss, accuracy, margin, num_tokens, flops], self.device
        )
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.max_grad_norm)))
        if not math.isfinite(loss) or not math.isfinite(norm):
            last = folder.last_checkpoint()
            raise TrainingDiverged(
                f"step {step + 1}: the loss is {loss}, the gradient's length {norm}; lower learning_rate "
                f"({config.peak_learning_rate:g}), or look for non-finite weights in {self.name}. "
                f"{f'{last} is intact' if last else 'No checkpoint had been written'}"
            )
        rate = config.learning_rate_at(step, len(self.steps))
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
        return record, int(num_tokens), flops

    @torch.no_grad()
    def validate(self) -> Validation:
        """Scores every validation problem. With several processes each does all of it."""
        order = sorted(range(len(self.validated)), key=lambda i: self.validated[i].num_tokens)
        losses: dict[int, float] = {}
        figures: dict[int, tuple[float, float, float]] = {}
        for indices in _packed(self.validated, order, self.config.micro_batch_tokens):
            batch = micro_batch([self.validated[i] for i in indices], self.device)
            scores = self.model(batch.tree)[batch.places]
            for index, (start, end) in zip(indices, _bounds(batch), strict=True):
                labels = batch.labels[start:end]
                loss, _ = self.pairwise_loss(
                    scores[start:end].contiguous(),
                    labels.contiguous(),
                    torch.tensor([0, end - start], device=self.device),
                    None,
                    self.config.center_coefficient,
                )
                losses[index] = float(loss)
                values, right = scores[start:end].tolist(), labels.tolist()
                if not all(map(math.isfinite, values)):
                    task = self.validated[index].task_id
                    raise TrainingDiverged(f"{task}: a score is not finite; lower learning_rate")
                accuracy = pair_accuracy(values, right)
                assert accuracy is not None
                figures[index] = accuracy, best_of_n(values, right, len(values)), sum(right) / len(right)
        in_order = [figures[i] for i in range(len(self.validated))]
        accuracies, best, chance = (list(column) for column in zip(*in_order, strict=True))
        names = [f"{problem.task_id}/{index}" for index, problem in enumerate(self.validated)]
        return Validation(
            loss=_mean(losses.values()),
            pair_accuracy=_mean(accuracies),
            interval=bootstrap_interval(accuracies),
            best_of_n=_mean(best),
            chance=_mean(chance),
            pair_accuracies=dict(zip(names, accuracies, strict=True)),
            picks=dict(zip(names, best, strict=True)),
        )

    def _keep_best(self, folder: RunFolder, journal: Journal | None, counters: dict[str, Any], step: int) -> None:
        """Validates, and writes the model if it is the best so far; without validation problems it is."""
        if self.validated:
            now = self.validate()
            self._note(
                folder,
                journal,
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
            if best is not None and (now.pair_accuracy, -now.loss) <= (best["pair_accuracy"], -best["loss"]):
                return
            counters["best"] = dataclasses.asdict(now)
        counters["best_step"] = step
        tensors = dict(self.model.to_canonical({name: whole(p.detach()) for name, p in self.parameters.items()}))
        if self.processes.is_first:
            folder.write_model(lambda path: self._write_model(tensors, path))
        self.processes.wait()

    def _write_model(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        if self.config.method == "lora":
            rank, alpha = self.config.lora_rank, self.config.lora_alpha
            base = str(Path(self.name).resolve()) if Path(self.name).is_dir() else self.name
            save_adapter(self.checkpoint, tensors, rank, alpha, base, path)
        else:
            save_trained(self.checkpoint, tensors, path)

    def _save(self, folder: RunFolder, counters: Mapping[str, Any]) -> None:
        tensors = {}
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            tensors[f"parameter.{name}"] = whole(parameter.detach()).cpu()
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}.{name}"] = whole(state[moment]).cpu()
        if self.processes.is_first:
            folder.write_checkpoint(counters["step"], tensors, counters)
        self.processes.wait()

    def _restore(self, folder: RunFolder, resume: bool) -> dict[str, Any]:
        """Takes weights, optimizer and counters from the last checkpoint, if there is one to resume from."""
        last = folder.last_checkpoint() if resume else None
        if last is None:
            return {"step": 0, "best_step": 0, "best": None, "before": None}
        tensors, counters = folder.read_checkpoint(last)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(spread_like(tensors[f"parameter.{name}"], parameter))
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(counters["step"])),
                    **{m: spread_like(tensors[f"{m}.{name}"], parameter) for m in ("exp_avg", "exp_avg_sq")},
                }
        return counters

    def _note(self, folder: RunFolder, journal: Journal | None, record: dict[str, Any]) -> None:
        if journal is not None:
            folder.append_log(record)
            journal.show(record)


def _read(
    checkpoint: Checkpoint, groups: Groups, validation: Groups | None, config: TrainConfig
) -> tuple[list[TokenizedProblem], list[TokenizedProblem], dict[str, int]]:
    """Reads and tokenises what is learned from and what is validated on."""
    records = read_groups(groups)
    held_out = [] if validation is None else read_groups(validation)
    if validation is None:
        held_out = [group for group in records if group.split == "validation"]
        records = [group for group in records if group.split != "validation"]
    for group in records:
        if group.split not in (None, "train"):
            raise InvalidInput(f"{group.name} is of the split {group.split!r}; train on 'train' only")
    both = {group.task_id for group in records} & {group.task_id for group in held_out}
    if both:
        raise InvalidInput(
            f"{len(both)} tasks are both trained and validated on, such as {min(both)!r:.80}; remove them from one"
        )
    chat = load_chat(checkpoint.folder, checkpoint.base_folder)
    as_tokens = partial(
        tokenized,
        chat=chat,
        pad_token_id=checkpoint.config.pad_token_id,
        max_length=min(config.max_length or checkpoint.config.max_positions, config.micro_batch_tokens),
        max_tokens=config.micro_batch_tokens,
    )
    problems, counts = problems_of(records)
    learned, more = as_tokens(problems)
    if not learned:
        raise InvalidInput(
            f"none of {len(records)} groups has a right and a wrong program that fit micro_batch_tokens="
            f"{config.micro_batch_tokens} and max_length; give more data or larger limits"
        )
    held_problems, _ = problems_of(held_out)
    validated, more_held = as_tokens(held_problems)
    if held_out and not validated:
        raise InvalidInput(f"none of {len(held_out)} validation groups has a right and a wrong program that fit")
    held_counts = {f"validation_{name}": count for name, count in more_held.items()}
    return learned, validated, {**counts, **more, **held_counts}


def _all_steps(problems: Sequence[TokenizedProblem], config: TrainConfig) -> list[list[Indices]]:
    """Every step of the run, in order."""
    steps: list[list[Indices]] = []
    epoch = 0
    while True:
        one = steps_of_epoch(
            problems,
            seed=config.seed,
            epoch=epoch,
            step_tokens=config.step_tokens,
            micro_batch_tokens=config.micro_batch_tokens,
        )
        left = config.max_steps - len(steps) if config.max_steps else math.ceil((config.epochs - epoch) * len(one))
        if left <= len(one):
            return steps + one[: max(left, 0)]
        steps += one
        epoch += 1


def _packed(problems: Sequence[TokenizedProblem], order: Sequence[int], budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    used = 0
    for index in order:
        if batch and used + problems[index].num_tokens > budget:
            yield batch
            batch, used = [], 0
        batch.append(index)
        used += problems[index].num_tokens
    if batch:
        yield batch


def _bounds(batch: MicroBatch) -> Iterator[tuple[int, int]]:
    offsets = batch.offsets.tolist()
    return itertools.pairwise(offsets)


def _pair_figures(scores: Tensor, batch: MicroBatch) -> Iterator[tuple[float, float]]:
    """Yields each problem's pair accuracy, and its right programs' mean score less that of its wrong ones."""
    for start, end in _bounds(batch):
        values, labels = scores[start:end], batch.labels[start:end]
        gaps = values[labels].unsqueeze(1) - values[~labels].unsqueeze(0)
        yield float((gaps > 0).float().mean() + (gaps == 0).float().mean() / 2), float(gaps.mean())


def _digest(*splits: Sequence[TokenizedProblem]) -> str:
    """Names the data, so that a run is resumed on the same."""
    digest = hashlib.sha256()
    for problems in splits:
        for problem in problems:
            digest.update(repr((problem.task_id, list(problem.labels), problem.margin)).encode())
            for sequence in problem.sequences:
                digest.update(sequence.tobytes() + b"|")
        digest.update(b"/")
    return digest.hexdigest()[:16]


def _validation(record: Mapping[str, Any] | None) -> Validation | None:
    return None if record is None else Validation(**{**record, "interval": tuple(record["interval"])})


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
