"""Scores of responses: by baselines that know no model, and by reward models, one loaded after the other."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from tqdm import tqdm

from codescaler.errors import InvalidInput, WeightsError
from codescaler.io.turns import join_contents
from codescaler.metrics import Figures
from codescaler.text.asked import list_asked_names, list_missing_names
from codescaler.text.extract import extract_evaluation_code, is_valid_code
from codescaler.text.program import Conversation

if TYPE_CHECKING:
    from codescaler.engine import Engine


@dataclass(frozen=True)
class Response:
    """One response to score: `pair` is what an engine takes, `text` the response alone, `name` for messages."""

    pair: Conversation
    text: str
    is_correct: bool
    name: str

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """The names that the problem asks for and the response does not define."""
        problem = tuple(
            {"role": "user", "content": turn} if isinstance(turn, str) else turn for turn in self.pair.turns
        )
        block = None if is_valid_code(self.text) else extract_evaluation_code(self.text)  # of a chat's answer
        return list_missing_names(block or self.text, list_asked_names(join_contents(problem[:-1])))


class Unit(Protocol):
    """What is ranked within: a problem, a pair, an item of a benchmark."""

    @property
    def responses(self) -> Sequence[Response]: ...


Scores = Mapping[str, Sequence[Figures]]  # of each scorer, for each unit, of each of its responses

BASELINES: dict[str, Callable[[Response], float]] = {
    "random": lambda response: 0.0,  # all tie, and a tie is drawn from
    "shortest": lambda response: -len(response.text),
    "longest": lambda response: len(response.text),
    "parses": lambda response: float(is_valid_code(response.text)),
    "defines": lambda response: float(not response.missing),
    "oracle": lambda response: float(response.is_correct),
}


def score_with_all(units: Sequence[Unit], models: Mapping[str, Callable[[], "Engine"]]) -> dict[str, list[Figures]]:
    """Returns the scores of each model, which is opened when its turn comes and freed after, and of each baseline.

    Raises: WeightsError if a model's score is NaN; what opening and scoring raise.
    """
    scores = {}
    for label, open_model in models.items():
        engine = open_model()
        scores[label] = score_with_engine(engine, units, label)
        del engine
        gc.collect()
    for label, baseline in BASELINES.items():
        scores[label] = [np.array([baseline(response) for response in unit.responses]) for unit in units]
    return scores


def score_with_engine(engine: "Engine", units: Sequence[Unit], label: str) -> list[Figures]:
    """Returns the scores of every response; equal ones are scored once."""
    distinct = {_make_key(response.pair): response for unit in units for response in unit.responses}
    stream = engine.score_stream(
        (response.pair for response in distinct.values()), (response.name for response in distinct.values())
    )
    score_of = {}
    progress = tqdm(distinct.items(), desc=label, unit=" programs", disable=None)
    for (key, response), score in zip(progress, stream, strict=True):
        if score != score:
            raise WeightsError(f"{label} scores {response.name} nan; look for non-finite weights in this checkpoint")
        score_of[key] = score
    return [np.array([score_of[_make_key(response.pair)] for response in unit.responses]) for unit in units]


def require_numbers(units: Sequence[Unit], scores: Scores) -> None:
    """Refuses a score that is NaN, whoever gave it.

    Raises: InvalidInput that names the scorer and the response.
    """
    for label, of_units in scores.items():
        for unit, values in zip(units, of_units, strict=True):
            if np.isnan(values).any():
                name = unit.responses[int(np.isnan(values).argmax())].name
                raise InvalidInput(f"{label} scores {name} nan; nothing is ranked by that, give numbers")


def _make_key(conversation: Conversation) -> object:
    """What is equal for conversations that are scored the same."""
    turns = [turn if isinstance(turn, str) else (turn["role"], turn["content"]) for turn in conversation.turns]
    return conversation.system, conversation.is_program, tuple(turns)
