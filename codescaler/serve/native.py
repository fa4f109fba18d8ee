"""Our own route: problems with candidates or responses, with extraction and shaping on request."""

from typing import Any

import msgspec

from codescaler.errors import InvalidInput
from codescaler.serve.dialects import Body, MakeJob
from codescaler.serve.job import Job, Outcome, Row
from codescaler.serve.refusal import Refusal
from codescaler.text.extract import extract_training_code, is_valid_code
from codescaler.text.shaping import shaped_reward


class Item(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A problem with candidates, or one conversation."""

    problem: str | None = None
    candidates: list[str] | None = None
    messages: list[dict[str, Any]] | None = None


class ProgramsBody(Body, kw_only=True, forbid_unknown_fields=True):
    """Items, and what becomes of their texts.

    `extract`: candidates are completions, and the program in the one fenced block of each is scored; one without a
    program is not valid and has no score. `shape`: rewards as in the paper, 0 for what is not valid.
    """

    items: list[Item]
    extract: bool = False
    shape: bool = False
    language: str = "python"


def make_programs_job(body: ProgramsBody) -> Job:
    """Answers a list for each item, a record for each of its candidates: score, is_valid, and reward if shaped."""
    rows: list[Row] = []
    plans: list[list[tuple[int | None, bool]]] = []  # of each item's candidates: the row, and whether it is valid
    for index, item in enumerate(body.items):
        conversation = item.messages is not None
        if conversation == (item.problem is not None and item.candidates is not None):
            raise Refusal(400, "invalid_request", f"items[{index}]: give problem and candidates, or messages")
        plan: list[tuple[int | None, bool]] = []
        for text in [None] if item.candidates is None else item.candidates:
            row, is_valid = _read_candidate(item, text, body)
            plan.append((None if row is None else len(rows), is_valid))
            rows.extend([] if row is None else [row])
        plans.append(plan)

    def answer(outcome: Outcome) -> Any:
        results = [[_make_record(outcome, row, is_valid, body.shape) for row, is_valid in plan] for plan in plans]
        return {"id": outcome.request_id, "model": outcome.model, "results": results, "usage": outcome.usage}

    return Job(body.model, rows, answer)


def _read_candidate(item: Item, text: str | None, body: ProgramsBody) -> tuple[Row | None, bool]:
    if text is None:
        return item.messages, True
    assert item.problem is not None
    try:
        code = extract_training_code(text, body.language) if body.extract else text
        is_valid = code is not None and (body.extract or is_valid_code(code, body.language))
    except InvalidInput as error:
        raise Refusal(400, "invalid_request", str(error)) from error
    return (None if code is None else (item.problem, code)), is_valid


def _make_record(outcome: Outcome, row: int | None, is_valid: bool, has_reward: bool) -> dict[str, Any]:
    score = None if row is None else outcome.scores[row]
    record: dict[str, Any] = {"score": score, "is_valid": is_valid}
    if has_reward:
        record["reward"] = shaped_reward(0.0 if score is None else score, is_valid=is_valid)
    return record


NATIVE_POSTS: dict[str, tuple[type[Body], MakeJob]] = {"/v1/programs": (ProgramsBody, make_programs_job)}
