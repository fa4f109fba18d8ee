"""Candidates and their scores to a ranking. Knows no engine: what scores is a function."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from codescaler.engine.options import is_list, require_count
from codescaler.errors import InvalidInput, WeightsError
from codescaler.io.turns import join_contents
from codescaler.text.asked import list_asked_names, list_missing_names
from codescaler.text.extraction import read_programs
from codescaler.text.program import Message, Pair, make_conversation
from codescaler.types import RankedCandidate

ScorePairs = Callable[[Sequence[Pair], Sequence[str]], Iterator[float]]


@dataclass(frozen=True)
class Standing:
    """How a ranked candidate stands beside the others.

    Attributes:
        rank: from 1 on. same_as: the first index with the same program, None if that is its own.
        gap_to_first, gap_to_next: differences of scores. They are between eligible candidates, or between valid ones if
            none is eligible; None for the others, and for what has no next. The next is not known where a candidate
            was dropped: `gap_to_next` is None then.
    """

    rank: int
    same_as: int | None
    gap_to_first: float | None
    gap_to_next: float | None


def rank_candidates(
    score_pairs: ScorePairs,
    problem: str | Sequence[Message],
    candidates: Sequence[str],
    extract: bool | str,
    top_k: int | None,
    language: str,
    names: Sequence[str] | None,
    system: str | None,
    asked_first: bool = False,
) -> list[RankedCandidate]:
    """Returns what `Engine.rerank` does; `score_pairs` takes pairs and their names."""
    unscored = read_candidates(problem, candidates, extract, top_k, language, asked_first)
    named = name_candidates(unscored, names)
    pairs = {each.index: make_conversation(problem, each.code, system) for each in unscored if each.code is not None}
    scores = dict(zip(pairs, compute_finite(score_pairs, [*pairs.values()], [named[i] for i in pairs]), strict=True))
    ranked = [replace(candidate, score=scores.get(candidate.index)) for candidate in unscored]
    return sorted(ranked, key=lambda candidate: candidate.place)[:top_k]


def read_candidates(
    problem: str | Sequence[Message],
    candidates: Sequence[str],
    extract: bool | str,
    top_k: int | None,
    language: str,
    asked_first: bool,
) -> list[RankedCandidate]:
    """Returns the candidates as they are given, without scores. Raises: InvalidInput as `Engine.rerank`."""
    require_problem(problem)
    if not is_list(candidates) or not all(isinstance(text, str) for text in candidates):
        raise InvalidInput("candidates is not a list of strings; give one string for each candidate program")
    require_count("top_k", top_k)
    asked = list_asked_names(_join_problem(problem)) if asked_first and language == "python" else ()
    return [
        RankedCandidate(index, None, is_valid, code, _find_missing(code, is_valid, tuple(asked)))
        for index, (code, is_valid) in enumerate(read_programs(candidates, extract, language))
    ]


def _find_missing(code: str | None, is_valid: bool, asked: tuple[str, ...]) -> tuple[str, ...]:
    if code is None:
        return ()
    return list_missing_names(code, asked) if is_valid else asked  # what does not parse is not parsed again


def name_candidates(candidates: Sequence[RankedCandidate], names: Sequence[str] | None) -> Sequence[str]:
    """Returns what errors call the candidates."""
    return name_each("candidate", len(candidates), names)


def name_each(kind: str, num: int, names: Sequence[str] | None) -> Sequence[str]:
    """Returns the names, by default "kind 0", "kind 1", ...

    Raises: InvalidInput if they are not `num`.
    """
    if names is None:
        return [f"{kind} {index}" for index in range(num)]
    if len(names) != num:
        raise InvalidInput(f"names has {len(names)} names, and there are {num} of {kind}; give one for each")
    return names


def compare_ranked(ranked: Sequence[RankedCandidate]) -> list[Standing]:
    """Returns how each candidate stands. `ranked` are all candidates of a problem, best first."""
    compared = [
        each.score
        for each in ranked
        if each.is_valid and each.is_eligible == ranked[0].is_eligible and each.score is not None
    ]  # they come first
    is_whole = all(each.dropped_at is None for each in ranked)
    steps = [*itertools.pairwise(compared)] if is_whole else []
    first_of: dict[str, int] = {}
    for each in ranked:
        if each.code is not None:
            first_of[each.code] = min(each.index, first_of.get(each.code, each.index))
    standings = []
    for place, each in enumerate(ranked):
        same = None if each.code is None else first_of[each.code]
        standings.append(
            Standing(
                place + 1,
                None if same == each.index else same,
                compared[0] - compared[place] if place < len(compared) else None,
                steps[place][0] - steps[place][1] if place < len(steps) else None,
            )
        )
    return standings


def list_contenders(candidates: Sequence[RankedCandidate]) -> list[RankedCandidate]:
    """Returns those that may be first, whatever their scores: of the others, none comes before any of them."""
    held = [candidate for candidate in candidates if candidate.code is not None]
    first = min((candidate.place[:2] for candidate in held), default=None)
    return [candidate for candidate in held if candidate.place[:2] == first]


def require_problem(problem: str | Sequence[Message]) -> None:
    if not isinstance(problem, str) and not is_list(problem):
        raise InvalidInput(f"problem is a {type(problem).__name__}; give its text, or messages")


def compute_finite(score_pairs: ScorePairs, pairs: Sequence[Pair], names: Sequence[str]) -> list[float]:
    """Returns the score of each pair. Raises: WeightsError if one is not finite: nothing can be compared with it."""
    scores = [*score_pairs(pairs, names)]
    require_finite(scores, names)
    return scores


def require_finite(scores: Sequence[float], names: Sequence[str]) -> None:
    for name, score in zip(names, scores, strict=True):
        if not math.isfinite(score):
            raise WeightsError(f"{name} scores {score}; look for non-finite weights in this checkpoint")


def _join_problem(problem: str | Sequence[Message]) -> str:
    return problem if isinstance(problem, str) else join_contents(tuple(problem))
