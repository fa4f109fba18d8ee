"""Makes an adaptive ranking: exit heads, or a small model before the large one, then margins and their certificate.

Only scores are needed, no labels. A head is fitted by ridge regression to what the model says at its end, less the mean
of the problem: only differences within a problem rank. One part of the problems serves to fit and to choose. The ridge
is the one with the least error on problems that the head has not seen, and margins are chosen on the scores of such
heads. The other part is counted once.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from codescaler.checkpoint.tensor_files import write_tensors
from codescaler.engine import Engine
from codescaler.engine.adaptive import (
    EXITS_FILE,
    HEADS_FILE,
    CascadeScores,
    EarlyScores,
    ExitScores,
    describe_engine,
    name_cascade_file,
    require_same_bits,
)
from codescaler.engine.certificate import Certificate
from codescaler.engine.exits import Exits, choose_layers, require_layers
from codescaler.engine.options import require_choice, require_count
from codescaler.engine.ranking import list_contenders, read_candidates
from codescaler.engine.scheduler import Float32
from codescaler.errors import InvalidInput, WeightsError
from codescaler.io.files import require_writable, write_text_file
from codescaler.io.records import Group, read_groups
from codescaler.metrics import Figures
from codescaler.text.program import Conversation, make_conversation
from codescaler.train.margins import (
    MIN_CHOSEN,
    ScoredProblem,
    Work,
    certify,
    choose_miss_chances,
    choose_num_counted,
    choose_rule,
    share_confidence,
)
from codescaler.types import ModelConfig, Promise

Indices = npt.NDArray[np.integer[Any]]

NUM_FOLDS = 5
# Of the ridge, for features of variance 1. On 175 problems of MBPP with 16 programs, exits of two models explain 64% to
# 84% of the scores' variance within a problem with 0.01, and 67% to 86% with 0.1, which is near the best for both.
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
MOST_EXITS = 8
_AHEAD = 8  # problems in the queue, which share forwards


@dataclass(frozen=True)
class ExitsReport:
    """What was made.

    Attributes:
        file: the certificate. layers: where the exits are. num_chosen: problems that heads and margins come from.
        num_left_out: groups with nothing to choose from, or of a task or problem that another group has.
        work: the mean cost of a ranking as a share of that of all scores, on the problems counted.
    """

    file: Path
    layers: tuple[int, ...]
    num_chosen: int
    num_left_out: int
    work: float
    certificate: Certificate


@dataclass(frozen=True)
class Contest:
    """A problem's distinct programs that may be first."""

    task_id: str
    pairs: tuple[Conversation, ...]


def fit_exits(
    model: str | Path | None,
    groups: str | Path | Sequence[Group | Mapping[str, Any]],
    *,
    cascade: str | Path | None = None,
    layers: Sequence[int] | None = None,
    at_most: float = 0.01,
    confidence: float = 0.95,
    top_k: int = 1,
    promise: Promise = "first",
    asked_first: bool = True,
    num_settings: int = 1,
    show_progress: bool = False,
    **engine_options: Any,
) -> ExitsReport:
    """Writes exits, or a cascade, with its certificate beside a reward model, which is not changed.

    Args:
        model: folder of the reward model; None is nano.
        groups: a file of JSON lines, or records, of problems and candidates. `passed` is not read.
        cascade: a small model that drops candidates first, "nano" or a folder; None makes exits.
        layers: after which layers the exits are; None is an eighth, a quarter, a half and two thirds.
        at_most: in which share of problems the promise may fail.
        confidence: that it fails in no larger share.
        top_k: how many programs must stay the same. Problems with so few, or fewer, are left out.
        promise: "first", that the first `top_k` scores are those of a full ranking, or "order", that no dropped program
            is better than one with a score.
        asked_first: as in `Engine.rerank`, which must then have the same.
        num_settings: rules to try on the counted problems, of which each needs more then.
        show_progress: show a bar on stderr.
        engine_options: as in `Engine.from_pretrained`.

    Raises:
        InvalidInput: an argument has a value that it may not have, there are too few problems for the promise, or the
            count does not keep it; nothing is written.
        WeightsError, UnsupportedModel: the model cannot be used.
        BackendUnavailable: scores have other bits in another batch.
        OutputUnavailable: nothing can be written beside the model.
    """
    for name, share in (("at_most", at_most), ("confidence", confidence)):
        if not 0 < share < 1:
            raise InvalidInput(f"{name}={share!r}; give a share between 0 and 1")
    require_choice("promise", promise, get_args(Promise))
    require_count("top_k", top_k)
    require_count("num_settings", num_settings)
    if layers is not None and len(layers) > MOST_EXITS:
        raise InvalidInput(
            f"layers names {len(layers)} exits; give at most {MOST_EXITS}, since all their sets are tried"
        )
    if promise == "order" and top_k != 1:
        raise InvalidInput(f"top_k={top_k} with the promise of order, which holds for any; leave it out")
    given = read_groups(groups)
    contests = read_contests(given, asked_first, top_k)
    num_counted = choose_num_counted(len(contests), at_most, share_confidence(confidence, num_settings))
    if missing := max(0, num_counted + MIN_CHOSEN - len(contests)):
        raise InvalidInput(
            f"{len(contests)} problems have {top_k + 1} programs or more to choose from, and the promise needs "
            f"{num_counted} to count and {MIN_CHOSEN} to choose margins on: {missing} are missing; add groups, or "
            "promise less"
        )
    chosen, counted = split_contests(contests, num_counted)
    engine = Engine.from_pretrained(model, **engine_options)
    require_same_bits(engine)
    require_writable(engine.folder)
    early: EarlyScores
    with tqdm(total=len(contests), desc="problems", disable=not show_progress) as bar:
        if cascade is None:
            stops = choose_layers(engine.config.num_layers) if layers is None else tuple(layers)
            early, seen = _fit_scores(engine, chosen, require_layers(stops, engine.config.num_layers), bar)
            work, file = Work.of_exits(early.layers, engine.config.num_layers), engine.folder / EXITS_FILE
        else:
            small = Engine.from_pretrained(cascade, **{k: engine_options[k] for k in _SHARED if k in engine_options})
            early = CascadeScores(engine, small)
            seen = _compute_values(early, chosen, bar)
            work = Work.of_cascade(count_multiplications(small.config) / count_multiplications(engine.config))
            file = engine.folder / name_cascade_file(small)
        problems = _join(engine, chosen, seen)
        chances = choose_miss_chances(len(counted), at_most, confidence, num_settings)
        rules = [choose_rule(problems, work, chance, top_k, promise) for chance in chances]
        found = _join(engine, counted, _compute_values(early, counted, bar))
    certificate = certify(
        found, rules, work, at_most=at_most, confidence=confidence, asked_first=asked_first, promise=promise
    )
    _require_kept(certificate)
    if isinstance(early, ExitScores):
        write_tensors(file.with_name(HEADS_FILE), early.tensors)
    record = {"owner": describe_engine(engine), **early.describe(), **certificate.make_record()}
    write_text_file(file, json.dumps(record, indent=1) + "\n")
    cost = float(np.mean([work.measure(problem, certificate.rule) for problem in found]))
    return ExitsReport(file, early.layers, len(chosen), len(given) - len(contests), cost, certificate)


_SHARED = ("device", "num_threads", "backend", "local_files_only", "truncation", "deterministic")


def read_contests(groups: Sequence[Group], asked_first: bool, top_k: int = 1) -> list[Contest]:
    """Returns each problem's first group, reduced to what may be first; without those in which nothing is to be chosen.

    Two groups are of one problem if they have its task or its text: what is counted must be independent.
    """
    contests: list[Contest] = []
    seen: set[object] = set()
    for group in groups:
        codes = [candidate.code for candidate in group.candidates if candidate.code is not None]
        candidates = read_candidates(group.problem, codes, False, None, "python", asked_first)
        programs = dict.fromkeys(candidate.code or "" for candidate in list_contenders(candidates))
        keys = {group.task_id, repr(group.problem)}
        if len(programs) > top_k and not keys & seen:
            seen |= keys
            pairs = tuple(make_conversation(group.problem, program, group.system) for program in programs)
            contests.append(Contest(group.task_id, pairs))
    return contests


def split_contests(contests: Sequence[Contest], num_counted: int) -> tuple[list[Contest], list[Contest]]:
    """Returns the problems to choose on, and those to count.

    They are in the order of a digest of their tasks, so that a second run with the same numbers splits them as before.
    """
    ordered = sorted(contests, key=lambda contest: hashlib.sha256(contest.task_id.encode()).digest())
    num_chosen = len(ordered) - num_counted
    return ordered[:num_chosen], ordered[num_chosen:]


def fit_heads(features: Figures, scores: Figures, problem: Indices) -> tuple[Figures, Figures, Figures]:
    """Returns a linear head and its bias for each exit, and all scores by heads that were fitted to other problems.

    A head's differences within a problem are as near as may be to those of the scores. The ridge of each exit is the
    one of STRENGTHS with the least error by the heads of other problems.

    Shapes: features [B, exits, D], scores [B], the number of each row's problem [B]
        -> [exits, D], [exits], [B, exits].
    """
    fold, wanted = problem % NUM_FOLDS, _remove_means(scores[:, None], problem)
    heads, biases, early = [], [], []
    for x in features.transpose(1, 0, 2):
        tried = np.empty((len(STRENGTHS), len(scores)))
        for number in range(NUM_FOLDS):
            seen = fold != number
            fitted = _fit_ridge(x[seen], scores[seen], problem[seen], STRENGTHS)
            for values, (head, bias) in zip(tried, fitted, strict=True):
                values[~seen] = x[~seen] @ head + bias
        best = int(((_remove_means(tried.T, problem) - wanted) ** 2).sum(axis=0).argmin())
        ((head, bias),) = _fit_ridge(x, scores, problem, STRENGTHS[best : best + 1])
        heads.append(head)
        biases.append(bias)
        early.append(tried[best])
    return np.stack(heads), np.array(biases), np.stack(early, axis=1)


def _fit_ridge(
    features: Figures, scores: Figures, problem: Indices, strengths: Sequence[float]
) -> list[tuple[Figures, float]]:
    """Returns, for each strength, the head whose differences within a problem are nearest to those of scores."""
    x, y = _remove_means(features, problem), _remove_means(scores[:, None], problem)[:, 0]
    std = x.std(axis=0)
    unit = np.where(std > 0, std, 1.0)
    x = x / unit
    gram, wanted, eye = x.T @ x / len(x), x.T @ y / len(x), np.eye(x.shape[1])
    found = [np.linalg.solve(gram + strength * eye, wanted) / unit for strength in strengths]
    return [(head, float(scores.mean() - features.mean(axis=0) @ head)) for head in found]


def _remove_means(rows: Figures, problem: Indices) -> Figures:
    _, place = np.unique(problem, return_inverse=True)
    sums = np.zeros((int(place.max()) + 1, rows.shape[1]))
    np.add.at(sums, place, rows)
    return np.asarray(rows - (sums / np.bincount(place)[:, None])[place])


def _fit_scores(
    engine: Engine, contests: Sequence[Contest], layers: tuple[int, ...], bar: Any
) -> tuple[ExitScores, list[Float32]]:
    """Returns the exits with their heads, and the values of the problems by heads that were fitted on the others."""
    exits = Exits(layers)
    parts = list(_stream(contests, lambda c: engine.submit_stages(c.pairs, exits, _name(c)), bar))
    sizes = [len(part) for part in parts]
    problem = np.repeat(np.arange(len(parts)), sizes)
    rows = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(rows).all():
        raise WeightsError(f"{engine.folder} has scores that are not finite; look for such weights in this checkpoint")
    features, scores = rows[:, :-1].reshape(len(rows), len(layers), -1), rows[:, -1]
    heads, biases, early = fit_heads(features, scores, problem)
    values = np.concatenate([early, scores[:, None]], axis=1, dtype=np.float32)
    fitted = ExitScores(engine, layers, torch.tensor(heads), torch.tensor(biases))
    return fitted, np.split(values, np.cumsum(sizes)[:-1])


def _compute_values(early: EarlyScores, contests: Sequence[Contest], bar: Any) -> list[Float32]:
    values = []
    for contest in contests:
        values.append(early.compute(contest.pairs, _name(contest), None))
        bar.update()
    return values


def _stream(contests: Sequence[Contest], submit: Any, bar: Any) -> Iterator[Float32]:
    """Yields the values of problems, a few of which wait at a time."""
    left = iter(contests)
    while futures := [submit(contest) for contest in islice(left, _AHEAD)]:
        for future in futures:
            yield future.result()
            bar.update()


def _name(contest: Contest) -> list[str]:
    return [f"{contest.task_id}: program {index}" for index in range(len(contest.pairs))]


def _join(engine: Engine, contests: Sequence[Contest], values: Sequence[Float32]) -> list[ScoredProblem]:
    return [
        ScoredProblem.of(part, engine.encoder.encode_pairs(contest.pairs, _name(contest), None).sequences)
        for contest, part in zip(contests, values, strict=True)
    ]


def count_multiplications(config: ModelConfig) -> int:
    """Returns the weights that a token is multiplied by, which is about what it costs. Experts that rest are none."""
    heads = config.num_heads + 2 * config.num_kv_heads
    attention = config.hidden_size * config.head_dim * (heads + config.num_heads)
    total = config.num_layers * (attention + 3 * config.hidden_size * config.intermediate_size)
    if config.experts is not None:
        chosen = config.experts.num_chosen * config.experts.intermediate_size - config.intermediate_size
        total += len(config.experts.layers) * 3 * config.hidden_size * chosen
    return total


def _require_kept(certificate: Certificate) -> None:
    if certificate.bound > certificate.at_most:
        raise InvalidInput(
            f"{certificate.describe_miss()} in {certificate.num_missed} of {certificate.num_counted} problems counted, "
            f"which shows at most {certificate.bound:.2%} at {certificate.confidence:.0%} confidence, and not "
            f"{certificate.at_most:.2%}; nothing was written. Give problems of which none has been counted yet"
        )
