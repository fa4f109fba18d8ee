"""A Bradley-Terry head on the frozen features of a language model: a reward model in minutes.

Score = head . features, where the features are the final-norm hidden state at the pooled token. The objective is
convex, so the result does not depend on a start or on luck:

    mean over problems of mean over (correct, incorrect) pairs of -logsigmoid(s_i - s_j) + c (s_i + s_j)^2
    + l2 / 2 * D * |head * std of the features|^2, D features

The centring term keeps scores around zero, where softplus shaping works; pairs alone leave their level open.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from codescaler.checkpoint.download import resolve_folder
from codescaler.checkpoint.load import open_checkpoint
from codescaler.checkpoint.save import new_folder, save_body, save_head
from codescaler.engine import Engine
from codescaler.errors import InvalidInput, WeightsError
from codescaler.io.records import Group, read_groups
from codescaler.metrics import bootstrap_interval, pair_accuracy
from codescaler.ops import select_backend
from codescaler.text.control_tokens import ControlTokenMode
from codescaler.text.program import make_conversation
from codescaler.text.settings import write_system_prompt
from codescaler.text.token_ids import Truncation
from codescaler.train.problems import TrainingProblem, build_training_problems, count_pairs

CENTER_COEFFICIENT = 0.01
NUM_FOLDS = 5


@dataclass(frozen=True)
class HeadReport:
    """What `fit_head` read, and how well the head ranks.

    Attributes:
        output_dir: the reward model's folder.
        num_groups, num_groups_used: problems read, and those with a correct and an incorrect program to tell apart.
        num_programs, num_pairs: distinct programs of those problems, and (correct, incorrect) pairs of them.
        num_invalid: candidates without code, left out.
        num_duplicates: candidates equal to another of their problem, counted once.
        num_contradictory: programs that both passed and failed in one problem, left out.
        training_accuracy: share of pairs ranked correctly, the mean over problems, on what was fitted.
        held_out_accuracy: the same on problems that were not fitted: each of 5 folds by a head fitted on the others.
            None below 5 task ids. `held_out_interval` is its 95% bootstrap interval over problems.
    """

    output_dir: Path
    num_groups: int
    num_groups_used: int
    num_programs: int
    num_pairs: int
    num_invalid: int
    num_duplicates: int
    num_contradictory: int
    training_accuracy: float
    held_out_accuracy: float | None
    held_out_interval: tuple[float, float] | None


def fit_head(
    model: str | Path,
    groups: str | Path | Iterable[Group | Mapping[str, Any]],
    output_dir: str | Path,
    *,
    l2: float = 1e-2,
    seed: int = 0,
    device: str = "auto",
    num_threads: int | None = None,
    truncation: Truncation = "error",
    max_length: int | None = None,
    system: str | None = None,
    control_tokens: ControlTokenMode | None = None,
    base_model: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    show_progress: bool = False,
) -> HeadReport:
    """Makes a reward model from a language model: fits a head on its frozen features, and writes both to `output_dir`.

    The same arguments give the same head. The folder is a Hugging Face `*ForSequenceClassification` with tokenizer and
    chat template; it appears whole or not at all.

    Args:
        model: folder or hub id of a causal LM or a reward model (whose own head is left out).
        groups: a file of JSON lines, or records, of problems and candidates with `passed` (`codescaler.io.records`).
        output_dir: a folder that is not there yet, or is empty.
        l2: strength of the ridge; larger means a smaller head.
        seed: which problems share a fold in the cross-validation; the head does not depend on it.
        device: as in `Engine.from_pretrained`, like all that follow.
        num_threads: CPU threads.
        truncation: of what is longer than `max_length`; the reward model must then score with the same.
        max_length: tokens a sequence may have.
        system: the system prompt of groups that have none, which becomes that of the folder written.
        control_tokens: what control tokens in programs are. The reward model must then score with the same.
        base_model: base of a LoRA folder.
        revision: branch, tag or commit on the hub.
        local_files_only: never ask the hub.
        show_progress: show a bar on stderr.

    Raises:
        InvalidInput: a record is malformed, no problem has a correct and an incorrect program, or the folder is not
            empty; as `save.save_body`.
        WeightsError, UnsupportedModel: the model cannot be used; an int8 one is not trained.
    """
    if not isinstance(l2, (int, float)) or isinstance(l2, bool) or not 0 < l2 < float("inf"):
        raise InvalidInput(f"l2={l2!r}; give a number above 0")
    records = read_groups(groups)
    problems, counts = build_training_problems(records)
    if not problems:
        raise InvalidInput(
            f"none of {len(records)} groups has a correct and an incorrect program; add passed: true and false"
        )
    # Features come from the very folder that is written, so that they are pooled where its scores will be.
    with new_folder(Path(output_dir)) as folder:
        source = resolve_folder(model, revision=revision, local_files_only=local_files_only)
        checkpoint = open_checkpoint(source, head="none", base_model=base_model, local_files_only=local_files_only)
        save_body(checkpoint, folder)
        save_head(torch.zeros(checkpoint.config.hidden_size), folder)
        write_system_prompt(system, folder)
        engine = Engine.from_pretrained(
            folder,
            device=device,
            num_threads=num_threads,
            truncation=truncation,
            max_length=max_length,
            system=system,
            control_tokens=control_tokens,
        )
        features = _compute_features(engine, problems, show_progress)
        head = _fit(features, problems, l2)
        held_out = _cross_validate(features, problems, l2, seed)
        save_head(head, folder)
    return HeadReport(
        output_dir=Path(output_dir),
        num_groups=len(records),
        num_groups_used=len(problems),
        num_programs=len(features),
        num_pairs=sum(count_pairs(problem.labels) for problem in problems),
        training_accuracy=_compute_mean(_measure_accuracies(features @ head, problems)),
        held_out_accuracy=_compute_mean(held_out) if held_out else None,
        held_out_interval=bootstrap_interval(held_out, seed=seed) if held_out else None,
        **counts,
    )


def _compute_features(engine: Engine, problems: Sequence[TrainingProblem], show_progress: bool) -> torch.Tensor:
    """Returns the features of every program, problem after problem. Shapes: [B, D], float64."""
    pairs = [make_conversation(problem.problem, code, problem.system) for problem in problems for code in problem.codes]
    names = [name for problem in problems for name in problem.names]
    windows = []
    with tqdm(total=len(pairs), desc="features", unit=" programs", disable=not show_progress) as bar:
        for window in engine.feature_stream(pairs, names):
            windows.append(torch.from_numpy(window).double())
            bar.update(len(window))
    features = torch.cat(windows)
    if not features.isfinite().all():
        row = int((~features.isfinite().all(dim=1)).nonzero()[0])
        raise WeightsError(f"{names[row]} has features that are not finite; look for such weights in this checkpoint")
    return features


def _fit(features: torch.Tensor, problems: Sequence[TrainingProblem], l2: float) -> torch.Tensor:
    """Returns the head. Shapes: features [B, D] -> [D], float64."""
    pairwise_loss = select_backend("auto", "cpu").pairwise_loss
    labels = torch.tensor([label for problem in problems for label in problem.labels])
    offsets = torch.tensor([0, *(len(problem.labels) for problem in problems)]).cumsum(0)
    # One unit for all features, so that the ridge asks the same of each; a feature that never varies keeps its own.
    # The root of their number makes rows of about unit length, and one l2 do for models of any width.
    std = features.std(dim=0)
    std = torch.where(std > 0, std, 1.0) * features.shape[1] ** 0.5
    scaled = features / std
    # The same problem in coordinates in which it is about as steep in every direction: tens of steps, not thousands.
    variances, directions = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    basis = directions * (variances.clamp_min(0.0) + l2).rsqrt()
    projected = scaled @ basis
    point = torch.zeros(basis.shape[1], dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=1000,
        tolerance_grad=1e-9,
        tolerance_change=0.0,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def evaluate_objective() -> float:
        loss, gradient = pairwise_loss(projected @ point, labels, offsets, None, CENTER_COEFFICIENT)
        head = basis @ point
        point.grad = gradient @ projected + l2 * (head @ basis)
        return float(loss + l2 / 2 * head @ head)

    optimizer.step(evaluate_objective)  # at the best point found
    evaluate_objective()
    slope = float(torch.as_tensor(point.grad).abs().max())
    if not slope < 1e-6:
        raise InvalidInput(f"the fit did not converge (its gradient is {slope:.1e}); give a larger l2 than {l2}")
    head: torch.Tensor = (basis @ point) / std
    return head


def _cross_validate(features: torch.Tensor, problems: Sequence[TrainingProblem], l2: float, seed: int) -> list[float]:
    """Returns each problem's pair accuracy by a head that saw nothing of its task; empty below NUM_FOLDS tasks."""
    tasks = sorted({problem.task_id for problem in problems})
    if len(tasks) < NUM_FOLDS:
        return []
    random.Random(seed).shuffle(tasks)
    fold_of = {task: index % NUM_FOLDS for index, task in enumerate(tasks)}
    rows = dict(zip(map(id, problems), features.split([len(problem.codes) for problem in problems]), strict=True))
    accuracies = []
    for fold in range(NUM_FOLDS):
        seen = [problem for problem in problems if fold_of[problem.task_id] != fold]
        unseen = [problem for problem in problems if fold_of[problem.task_id] == fold]
        head = _fit(torch.cat([rows[id(problem)] for problem in seen]), seen, l2)
        accuracies += _measure_accuracies(torch.cat([rows[id(problem)] for problem in unseen]) @ head, unseen)
    return accuracies


def _measure_accuracies(scores: torch.Tensor, problems: Sequence[TrainingProblem]) -> list[float]:
    parts: Iterator[torch.Tensor] = iter(scores.split([len(problem.labels) for problem in problems]))
    accuracies = [pair_accuracy(next(parts).tolist(), problem.labels) for problem in problems]
    return [accuracy for accuracy in accuracies if accuracy is not None]  # every problem has a pair


def _compute_mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
