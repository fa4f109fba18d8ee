"""Records to what training learns from: problems with correct and incorrect programs, as text and as token lists."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from codescaler.checkpoint.load import Checkpoint
from codescaler.errors import InvalidInput
from codescaler.io.records import Group, read_groups
from codescaler.io.turns import Problem
from codescaler.ops.plan import plan
from codescaler.text.encoder import Encoder, build_encoder
from codescaler.text.program import make_conversation, normalize_program
from codescaler.text.settings import TextSettings
from codescaler.text.token_ids import Int32
from codescaler.train.config import TrainConfig

Groups = str | Path | Iterable[Group | Mapping[str, Any]]


@dataclass(frozen=True)
class TrainingProblem:
    """The distinct programs of one problem, of which some are correct and some are incorrect, or all have a teacher's
    score.

    `scores` are the teacher's, None where training does not ask for them, and for a program that is not to be like
    the teacher's. `problem` and `system` are as in `Group`.
    """

    task_id: str
    problem: Problem
    codes: Sequence[str]
    labels: Sequence[bool]
    names: Sequence[str]  # of the programs, for messages
    margin: float = 0.0
    scores: Sequence[float | None] | None = None
    system: str | None = None


@dataclass(frozen=True)
class TokenizedProblem:
    """The same as token lists; `num_tokens` counts what all of them have in common once."""

    task_id: str
    sequences: Sequence[Int32]
    labels: Sequence[bool]
    margin: float
    num_tokens: int
    scores: Sequence[float | None] | None = None

    @property
    def has_pair(self) -> bool:
        """Whether there is a correct and an incorrect program."""
        return len(set(self.labels)) == 2

    @property
    def is_taught(self) -> bool:
        """Whether a teacher compares two of its programs."""
        return self.scores is not None and sum(score is not None for score in self.scores) >= 2


def count_pairs(labels: Sequence[bool]) -> int:
    """The number of correct/incorrect pairs among programs of one problem."""
    return sum(labels) * (len(labels) - sum(labels))


def count_distinct_tokens(sequences: Sequence[Int32]) -> int:
    """The number of tokens that a forward over one problem computes: what sequences share counts once."""
    (tree,) = plan(sequences, sum(map(len, sequences)))
    return tree.num_tokens


def build_training_problems(
    groups: Iterable[Group], *, with_scores: bool = False
) -> tuple[list[TrainingProblem], dict[str, int]]:
    """Returns the problems that have a correct/incorrect pair, and counts of what was left out, by `HeadReport`'s
    names.

    With scores, every program must have one, and two programs make a problem. If a verdict is missing then, all
    programs of the problem count as incorrect. A negative may be without a score, for verdicts alone to teach.
    """
    problems, num_invalid, num_duplicates, num_contradictory = [], 0, 0, 0
    for group in groups:
        verdicts: dict[str, set[bool]] = {}
        names: dict[str, str] = {}
        scores: dict[str, float | None] = {}
        is_judged = all(candidate.passed is not None for candidate in group.candidates if candidate.code is not None)
        for index, candidate in enumerate(group.candidates):
            name = f"{group.name}: candidates[{index}]"
            if candidate.code is None:
                num_invalid += 1
                continue
            if candidate.passed is None and not with_scores:
                raise InvalidInput(f"{name} has no passed; give true or false")
            code = normalize_program(candidate.code)
            if with_scores:
                is_untaught = candidate.negative is not None and candidate.score is None
                scores[code] = None if is_untaught else _require_teacher_score(candidate.score, name)
            num_duplicates += code in verdicts
            names.setdefault(code, name)
            verdicts.setdefault(code, set()).add(is_judged and bool(candidate.passed))
        labels = {code: seen.pop() for code, seen in verdicts.items() if len(seen) == 1}
        num_contradictory += len(verdicts) - len(labels)
        if len(labels if with_scores else set(labels.values())) >= 2:
            in_order = [names[code] for code in labels]
            targets = [scores[code] for code in labels] if with_scores else None
            outcome = ([*labels], [*labels.values()], in_order, group.margin, targets, group.system)
            problems.append(TrainingProblem(group.task_id, group.problem, *outcome))
    counts = {"num_invalid": num_invalid, "num_duplicates": num_duplicates, "num_contradictory": num_contradictory}
    return problems, counts


def _require_teacher_score(score: float | None, name: str) -> float:
    if score is None or not math.isfinite(score):
        raise InvalidInput(
            f"{name}: score is {score}, and teacher_weight asks for a teacher's; add it by `codescaler score`, "
            "or leave teacher_weight out"
        )
    return score


_REASONS = ("num_duplicates", "num_contradictory", "num_long_programs", "num_long_problems", "num_unpaired_problems")


def tokenize_problems(
    problems: Sequence[TrainingProblem], *, encoder: Encoder, max_length: int, max_tokens: int
) -> tuple[list[TokenizedProblem], Counter[str]]:
    """Renders and tokenises problems, each cut where transformers pools it.

    Programs are told apart by their tokens. One of more than `max_length` tokens is left out, and a problem of more
    than `max_tokens` distinct ones, or which has no pair left; all are counted.
    """
    kept, counts = [], Counter({name: 0 for name in _REASONS})
    for problem in problems:
        conversations = [make_conversation(problem.problem, code, problem.system) for code in problem.codes]
        ids = encoder.encode_pairs(conversations, problem.names).sequences
        # Programs that differ may read the same as tokens: a template may strip what surrounds them.
        verdicts: dict[bytes, set[bool]] = {}
        for sequence, label in zip(ids, problem.labels, strict=True):
            verdicts.setdefault(sequence.tobytes(), set()).add(label)
        distinct = {sequence.tobytes(): index for index, sequence in enumerate(ids)}
        clear = [(distinct[key], seen.pop()) for key, seen in verdicts.items() if len(seen) == 1]
        short = [(index, label) for index, label in clear if len(ids[index]) <= max_length]
        counts["num_duplicates"] += len(ids) - len(distinct)
        counts["num_contradictory"] += len(distinct) - len(clear)
        counts["num_long_programs"] += len(clear) - len(short)
        sequences, labels = [ids[index] for index, _ in short], [label for _, label in short]
        scores = None if problem.scores is None else [problem.scores[index] for index, _ in short]
        if len(set(labels) if scores is None else labels) < 2:
            counts["num_unpaired_problems"] += 1
            continue
        num_tokens = count_distinct_tokens(sequences)
        if num_tokens > max_tokens:
            counts["num_long_problems"] += 1
            continue
        kept.append(TokenizedProblem(problem.task_id, sequences, labels, problem.margin, num_tokens, scores))
    return kept, counts


def prepare_training_data(
    checkpoint: Checkpoint,
    groups: Groups,
    validation: Groups | None,
    config: TrainConfig,
    text: TextSettings | None = None,
) -> tuple[list[TokenizedProblem], list[TokenizedProblem], dict[str, int]]:
    """Reads and tokenises what is learned from and what is validated on; the third result counts what was left out.

    Raises: InvalidInput if a record is malformed or of another split, a task is in both, or nothing is left of either.
    """
    records = read_groups(groups)
    held_out = [] if validation is None else read_groups(validation)
    if validation is None:
        held_out = [group for group in records if group.split == "validation"]
        records = [group for group in records if group.split != "validation"]
    for group in records:
        if group.split not in (None, "train"):
            raise InvalidInput(f"{group.name} is of the split {group.split!r}; train on 'train' only")
    for group in held_out:
        if group.split not in (None, "validation"):
            raise InvalidInput(f"{group.name} is of the split {group.split!r}; validate on 'validation' only")
    for name in ("task_id", "prompt"):
        both = {getattr(group, name) for group in records} & {getattr(group, name) for group in held_out}
        if both:
            raise InvalidInput(
                f"{len(both)} tasks are both trained and validated on, such as the {name} {min(both)!r:.80}; remove "
                "them from one"
            )
    as_tokens = partial(
        tokenize_problems,
        encoder=build_encoder(checkpoint, head="sequence_classification", text=text),  # the head that is written
        max_length=min(config.max_length or checkpoint.config.max_positions, config.micro_batch_tokens),
        max_tokens=config.micro_batch_tokens,
    )
    splits = []
    counts: Counter[str] = Counter()
    for prefix, groups_of_split in (("", records), ("validation_", held_out)):
        problems, no_program = build_training_problems(
            groups_of_split, with_scores=not prefix and config.teacher_weight > 0
        )
        kept, no_place = as_tokens(problems)
        unpaired = {"num_unpaired_problems": len(groups_of_split) - len(problems)}
        for reason in (no_program, no_place, unpaired):
            counts.update({f"{prefix}{name}": count for name, count in reason.items()})
        splits.append(kept)
    learned, validated = splits
    if not learned:
        raise InvalidInput(
            f"none of {len(records)} groups has a correct and an incorrect program that fit micro_batch_tokens="
            f"{config.micro_batch_tokens} and max_length; give more data or larger limits"
        )
    if held_out and not validated:
        raise InvalidInput(f"none of {len(held_out)} validation groups has a correct and an incorrect program that fit")
    return learned, validated, dict(counts)


def compute_data_digest(*splits: Sequence[TokenizedProblem]) -> str:
    """Names the data, so that a run is resumed on the same."""
    digest = hashlib.sha256()
    for problems in splits:
        for problem in problems:
            digest.update(repr((problem.task_id, list(problem.labels), problem.margin, problem.scores)).encode())
            for sequence in problem.sequences:
                digest.update(sequence.tobytes() + b"|")
        digest.update(b"/")
    return digest.hexdigest()[:16]
