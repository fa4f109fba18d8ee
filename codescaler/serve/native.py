"""Our own route: problems with candidates, or conversations; extraction, shaping and a system prompt on request."""

from typing import Any

import msgspec
from msgspec import UNSET

from codescaler.engine.ranking import read_candidates
from codescaler.serve.answers import Candidate, ProgramsAnswer
from codescaler.serve.dialects import Body, Post
from codescaler.serve.job import Job, Outcome, Row
from codescaler.serve.refusal import Refusal
from codescaler.text.program import Conversation, make_conversation
from codescaler.text.shaping import shaped_reward


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
    problem asks for and the program does not define; our client ranks by it.
    """

    items: list[Item]
    extract: bool | str = False
    shape: bool = False
    language: str = "python"
    asked_first: bool = False

    def count_rows(self) -> list[int]:
        """Returns the number of items and of all candidates; an item of messages is a row."""
        return [len(self.items), sum(1 if item.candidates is None else len(item.candidates) for item in self.items)]


class _Place(msgspec.Struct):
    """Of one candidate: the index of its row, None without a program, and what is known without a score."""

    row: int | None
    is_valid: bool
    missing: tuple[str, ...]


def make_programs_job(body: ProgramsBody) -> Job:
    """Answers a list for each item, with a record for each candidate: score, is_valid, and what is asked for."""
    rows: list[Row] = []
    places: list[list[_Place]] = []
    for index, item in enumerate(body.items):
        if (item.messages is not None) == (item.problem is not None and item.candidates is not None):
            raise Refusal(400, "invalid_request", f"items[{index}]: give problem and candidates, or messages")
        places.append([])
        for row, is_valid, missing in _list_rows(item, body):
            places[-1].append(_Place(None if row is None else len(rows), is_valid, missing))
            rows.extend([] if row is None else [row])

    def answer(outcome: Outcome) -> ProgramsAnswer:
        results = [[_make_candidate(outcome, place, body) for place in of_item] for of_item in places]
        return ProgramsAnswer(id=outcome.request_id, model=outcome.model, results=results, usage=outcome.usage)

    return Job(body.model, rows, answer)


def _list_rows(item: Item, body: ProgramsBody) -> list[tuple[Row | None, bool, tuple[str, ...]]]:
    """Returns each candidate's row, None where nothing can be extracted, whether it is valid, and what it misses."""
    if item.messages is not None:
        return [(Conversation(item.messages, item.system, item.is_program), True, ())]
    problem = item.problem or ""
    read = read_candidates(problem, item.candidates or [], body.extract, None, body.language, body.asked_first)
    return [
        (None if one.code is None else make_conversation(problem, one.code, item.system), one.is_valid, one.missing)
        for one in read
    ]


def _make_candidate(outcome: Outcome, place: _Place, body: ProgramsBody) -> Candidate:
    score = None if place.row is None else outcome.scores[place.row]
    return Candidate(
        score=score,
        is_valid=place.is_valid,
        reward=shaped_reward(0.0 if score is None else score, is_valid=place.is_valid) if body.shape else UNSET,
        missing=list(place.missing) if body.asked_first else UNSET,
    )


NATIVE_POSTS = {"/v1/programs": Post(ProgramsBody, make_programs_job, ProgramsAnswer)}
