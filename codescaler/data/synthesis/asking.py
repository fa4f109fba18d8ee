"""Items of a step, and what a language model answers about each. Knows no prompt, and no model."""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from codescaler.data.sample.sampling import Completion, Request, Sampler, derive_seed

Item = TypeVar("Item")

_DECODER = json.JSONDecoder(strict=False)  # reads line breaks in strings
_THINKING = re.compile(r"\A.*?</think>", re.DOTALL)


def make_request(task_id: str, prompt: str, count: int, seed: int) -> Request:
    """A request for `count` answers, each with its own seed."""
    return Request(task_id, prompt, [derive_seed(seed, task_id, index) for index in range(count)])


def ask_in_order(
    items: Iterable[Item], make_requests: Callable[[Item], Sequence[Request]], sampler: Sampler
) -> Iterator[tuple[Item, list[list[Completion]]]]:
    """Yields each item with the completions of each of its requests, in order.

    The sampler takes requests of the following items while one is not done. An item may have no request.
    """
    pending: deque[tuple[Item, int]] = deque()
    answers: list[list[Completion]] = []

    def list_requests() -> Iterator[Request]:
        for item in items:
            requests = make_requests(item)
            pending.append((item, len(requests)))
            yield from requests

    def take_done() -> Iterator[tuple[Item, list[list[Completion]]]]:
        while pending and len(answers) == pending[0][1]:
            yield pending.popleft()[0], answers.copy()
            answers.clear()

    for completions in sampler.complete(list_requests()):
        yield from take_done()  # those that ask nothing
        answers.append(completions)
        yield from take_done()
    yield from take_done()


def read_answer(completion: Completion) -> str:
    """What a completion says, without what a model thought before."""
    return _THINKING.sub("", completion.text).strip()


def read_object(answer: str) -> dict[str, Any]:
    """The JSON object that begins at the first brace of an answer. Empty where none does."""
    with suppress(ValueError, RecursionError):
        read: dict[str, Any]
        read, _ = _DECODER.raw_decode(answer, answer.index("{"))
        return read
    return {}
