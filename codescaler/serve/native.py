"""Our own route: problems with candidates, or conversations; extraction, shaping and a system prompt on request."""

from typing import Any

import msgspec
from msgspec import UNSET

from codescaler.serve.answers import Candidate, ProgramsAnswer
from codescaler.serve.dialects import Body, Post
from codescaler.serve.job import Job, Outcome, Row
from codescaler.serve.refusal import Refusal
from codescaler.text.extraction import read_programs
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
    score. `shape`: rewards as in the paper, 0 for what is not valid.
    """

    items: list[Item]
    extract: bool | str = False
    shape: bool = False
    language: str = "python"

    def count_rows(self) -> list[int]:
        """Returns the number of items and of all candidates; an item of messages is a row."""
        return [len(self.items), sum(1 if item.candidates is None else len(item.candidates) for item in self.items)]


class _Place(msgspec.Struct):
    """Of one candidate: its row, None without a program, and whether it is valid."""

    row: int | None
    is_valid: bool


def make_programs_job(body: ProgramsBody) -> Job:
    """Answers a list for each item, with a record for each candidate: score, is_valid, and reward if shaped."""
    rows: list[Row] = []
    places: list[list[_Place]] = []
    for index, item in enumerate(body.items):
        if (item.messages is not None) == (item.problem is not None and item.candidates is not None):
            raise Refusal(400, "invalid_request", f"items[{index}]: give problem and candidates, or messages")
        places.append([])
        for row, is_valid in _list_rows(item, body):
            places[-1].append(_Place(None if row is None else len(rows), is_valid))
            rows.extend([] if row is None else [row])

    def answer(outcome: Outcome) -> ProgramsAnswer:
        results = [[_make_candidate(outcome, place, body.shape) for place in of_item] for of_item in places]
        return ProgramsAnswer(id=outcome.request_id, model=outcome.model, results=results, usage=outcome.usage)

    return Job(body.model, rows, answer)


def _list_rows(item: Item, body: ProgramsBody) -> list[tuple[Row | None, bool]]:
    """Returns each candidate's row, None where nothing can be extracted, and whether it is valid."""
    if item.messages is not None:
        return [(Conversation(item.messages, item.system, item.is_program), True)]
    return [
        (None if code is None else make_conversation(item.problem or "", code, item.system), is_valid)
        for code, is_valid in read_programs(item.candidates or [], body.extract, body.language)
    ]


def _make_candidate(outcome: Outcome, place: _Place, has_reward: bool) -> Candidate:
    score = None if place.row is None else outcome.scores[place.row]
    reward = shaped_reward(0.0 if score is None else score, is_valid=place.is_valid) if has_reward else UNSET
    return Candidate(score=score, is_valid=place.is_valid, reward=reward)


NATIVE_POSTS = {"/v1/programs": Post(ProgramsBody, make_programs_job, ProgramsAnswer)}
