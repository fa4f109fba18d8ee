"""Our own routes: problems with candidates, or conversations, and programs line by line.

Extraction, shaping, a system prompt and the details of a ranking come on request.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from codescaler.engine.ranking import Standing, compare_ranked, read_candidates
from codescaler.engine.trace import (
    choose_shades,
    count_trace_chars,
    find_common_lines,
    find_largest_drop,
    plan_trace,
    split_lines,
)
from codescaler.serve.answers import (
    CalibratedOn,
    Candidate,
    Chance,
    Details,
    ProgramsAnswer,
    TraceAnswer,
    TracedLine,
    TracedProgram,
)
from codescaler.serve.dialects import Body, Post
from codescaler.serve.job import GapCalibration, Job, Outcome, Row
from codescaler.serve.refusal import Refusal
from codescaler.text.asked import list_asked_names
from codescaler.text.extraction import explain_invalid
from codescaler.text.program import Conversation, make_conversation
from codescaler.text.shaping import shaped_reward
from codescaler.types import RankedCandidate

MAX_TRACE_CHARS = 1 << 23  # of the rows of a trace: a small body has many, and no other limit counts them


class Item(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A problem with candidates, which are compared; or messages, which are scored as given.

    `system` is the system prompt. `is_program` reads messages as a program that is compared.
    """

    problem: str | None = None
    candidates: list[str] | None = None
    messages: list[dict[str, Any]] | None = None
    system: str | None = None
    is_program: bool = False


class ProgramsBody(Body, kw_only=True, forbid_unknown_fields=True):
    """Items, and what becomes of their texts.

    `extract`: candidates are completions, and the program in the one fenced block of each is scored, or the program by
    another way of `codescaler.text.extraction.EXTRACTORS`. A completion without a program is not valid and has no
    score. `shape`: rewards as in the paper, 0 for what is not valid. `asked_first`: `missing` has the names that the
    problem asks for and the program does not define; our client ranks by it. `details`: each candidate has its program,
    its rank, its gaps and why it is invalid.
    """

    items: list[Item]
    extract: bool | str = False
    shape: bool = False
    language: str = "python"
    asked_first: bool = False
    details: bool = False

    def count_rows(self) -> list[int]:
        """Returns the number of items and of all candidates; an item of messages is a row."""
        return [len(self.items), sum(1 if item.candidates is None else len(item.candidates) for item in self.items)]


class TraceBody(Body, kw_only=True, forbid_unknown_fields=True):
    """Programs of one problem. Every line of them is a row."""

    problem: str
    programs: list[str]
    system: str | None = None

    def count_rows(self) -> list[int]:
        """Returns the number of programs, and of all their lines and an empty program."""
        return [len(self.programs), 1 + sum(len(split_lines(text)) for text in self.programs)]


class _Place(msgspec.Struct):
    """Of one candidate: the index of its row, None without a program, what is known without a score, and why."""

    row: int | None
    candidate: RankedCandidate
    invalid_because: str | None = None
    syntax_error: str | None = None


def make_programs_job(body: ProgramsBody) -> Job:
    """Answers a list for each item, with a record for each candidate: score, is_valid, and what is asked for."""
    rows: list[Row] = []
    places: list[list[_Place]] = []
    for index, item in enumerate(body.items):
        if (item.messages is not None) == (item.problem is not None and item.candidates is not None):
            raise Refusal(400, "invalid_request", f"items[{index}]: give problem and candidates, or messages")
        places.append(_read_item(item, body, rows))
    has_names = body.details and body.language == "python"
    asked = [[*list_asked_names(item.problem)] if has_names and item.problem else [] for item in body.items]

    def answer(outcome: Outcome) -> ProgramsAnswer:
        return ProgramsAnswer(
            id=outcome.request_id,
            model=outcome.model,
            results=[_make_candidates(outcome, of_item, body) for of_item in places],
            usage=outcome.usage,
            asked=asked if body.details else UNSET,
            calibrated_on=_describe_calibration(outcome.calibration) if body.details else UNSET,
        )

    return Job(body.model, rows, answer)


def _read_item(item: Item, body: ProgramsBody, rows: list[Row]) -> list[_Place]:
    """Adds an item's rows, and returns the place of each candidate."""
    if item.messages is not None:
        rows.append(Conversation(item.messages, item.system, item.is_program))
        return [_Place(len(rows) - 1, RankedCandidate(0, None, True, None))]
    problem, texts = item.problem or "", item.candidates or []
    places = []
    for one in read_candidates(problem, texts, body.extract, None, body.language, body.asked_first):
        place = _Place(None if one.code is None else len(rows), one)
        if one.code is not None:
            rows.append(make_conversation(problem, one.code, item.system))
        if body.details and not one.is_valid:
            place.invalid_because, place.syntax_error = explain_invalid(texts[one.index], one.code, body.language)
        places.append(place)
    return places


def _make_candidates(outcome: Outcome, places: Sequence[_Place], body: ProgramsBody) -> list[Candidate]:
    """Returns the records of an item's candidates, in the order of the request."""
    scores = [None if place.row is None else outcome.scores[place.row] for place in places]
    records = [
        Candidate(
            score=score,
            is_valid=place.candidate.is_valid,
            reward=shaped_reward(score or 0.0, is_valid=place.candidate.is_valid) if body.shape else UNSET,
            missing=list(place.candidate.missing) if body.asked_first else UNSET,
        )
        for place, score in zip(places, scores, strict=True)
    ]
    if body.details:
        scored = [dataclasses.replace(p.candidate, score=score) for p, score in zip(places, scores, strict=True)]
        ranked = sorted(scored, key=lambda candidate: candidate.place)
        for candidate, standing in zip(ranked, compare_ranked(ranked), strict=True):
            index = candidate.index
            records[index].details = _make_details(places[index], standing, outcome.calibration)
    return records


def _make_details(place: _Place, standing: Standing, calibration: GapCalibration | None) -> Details:
    behind, chance = standing.gap_to_first, None
    if calibration is not None and behind is not None and standing.rank > 1:
        estimate = calibration.estimate_chance(behind)
        chance = Chance(mean=estimate["mean"], interval=[*estimate["interval"]])
    return Details(
        program=place.candidate.code,
        first_is_correct=chance,
        invalid_because=place.invalid_because,
        syntax_error=place.syntax_error,
        **dataclasses.asdict(standing),
    )


def _describe_calibration(curve: GapCalibration | None) -> CalibratedOn | None:
    if curve is None:
        return None
    return CalibratedOn(name=curve.name, num_problems=curve.num_problems, largest_gap=curve.largest_gap)


def make_trace_job(body: TraceBody) -> Job:
    """Answers the lines of each program: what the model thinks of the program that ends there."""
    _check_lines(body)
    plan = plan_trace(body.problem, body.programs, None, body.system)
    rows, plan = plan.pairs, dataclasses.replace(plan, pairs=[], names=[])  # the answer needs no beginnings
    pairs = find_common_lines(plan.programs)
    common = [set(numbers) for numbers in zip(*pairs, strict=True)] or [set[int]() for _ in plan.programs]

    def answer(outcome: Outcome) -> TraceAnswer:
        traces = plan.read_scores(outcome.scores)
        programs = []
        for lines, shades, shared in zip(traces, choose_shades(traces), common, strict=True):
            drop = find_largest_drop(lines, shared)
            made = [
                TracedLine(**dataclasses.asdict(line), shade=shade, is_common=line.number in shared)
                for line, shade in zip(lines, shades, strict=True)
            ]
            number = None if drop is None else drop.number
            programs.append(TracedProgram(score=lines[-1].score, lines=made, largest_drop=number))
        return TraceAnswer(
            id=outcome.request_id,
            model=outcome.model,
            programs=programs,
            common=[[*numbers] for numbers in pairs],
            usage=outcome.usage,
        )

    return Job(body.model, rows, answer)


def _check_lines(body: TraceBody) -> None:
    """Refuses programs whose beginnings are too long together, before they are made: they grow by the square.

    Raises: Refusal, with status 400.
    """
    total = count_trace_chars(map(split_lines, body.programs), len(body.problem) + len(body.system or ""))
    if total > MAX_TRACE_CHARS:
        message = (
            f"the lines have {total} characters, each with the problem and the lines before it; "
            f"a trace may have {MAX_TRACE_CHARS}, so send fewer or shorter programs"
        )
        raise Refusal(400, "too_long", message)


NATIVE_POSTS = {
    "/v1/programs": Post(ProgramsBody, make_programs_job, ProgramsAnswer),
    "/v1/trace": Post(TraceBody, make_trace_job, TraceAnswer),
}
