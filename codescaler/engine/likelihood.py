"""Language models as rankers: how likely a program is after its problem, and the problem after its program.

No head, no training and no labels: any causal language model ranks with it. A likely program need not be right, and a
model that has seen the problem's published solution remembers it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from codescaler.errors import InvalidInput
from codescaler.text.chat import make_messages
from codescaler.text.encoder import Continuations, Encoder
from codescaler.text.program import Conversation, Message, Pair
from codescaler.types import ScorerName

Float32 = npt.NDArray[np.float32]

REVIEW = "Write the problem that this program solves:\n\n"


@dataclass(frozen=True)
class LikelihoodScorer:
    """Reduces the log-probabilities of the last turn's tokens to a score.

    Attributes:
        directions: "program" asks for the program after its problem, "problem" for the problem after its program. The
            score is the sum over both.
        reduce: takes the log-probabilities of a turn's tokens. Shape: [n].
    """

    directions: tuple[Literal["program", "problem"], ...]
    reduce: Callable[[Float32], np.float32]

    def encode(
        self, encoder: Encoder, pairs: Sequence[Pair], names: Sequence[str], system: str | None
    ) -> Continuations:
        """Returns the sequences of all pairs, one direction after the other. Raises: as `encode_continuations`."""
        asked: list[Pair] = []
        for direction in self.directions:
            asked += pairs if direction == "program" else map(make_review, pairs, names)
        return encoder.encode_continuations(asked, [*names] * len(self.directions), system)

    def combine(self, log_probs: Sequence[Float32]) -> Float32:
        """Returns a score a pair, of the log-probabilities of all sequences that `encode` returned."""
        values = np.array([self.reduce(part) for part in log_probs], dtype=np.float32)
        scores: Float32 = values.reshape(len(self.directions), -1).sum(axis=0)
        return scores


@dataclass(frozen=True)
class TokenScorer(LikelihoodScorer):
    """Leaves the log-probabilities of one direction as they are: an array a pair."""

    def combine(self, log_probs: Sequence[Float32]) -> Any:
        return list(log_probs)


SCORERS: dict[str, LikelihoodScorer] = {
    "likelihood": LikelihoodScorer(("program",), np.sum),
    "likelihood_mean": LikelihoodScorer(("program",), np.mean),
    "likelihood_min": LikelihoodScorer(("program",), np.min),
    "reviewer": LikelihoodScorer(("problem",), np.sum),  # Zhang et al. 2022, arXiv:2211.16490
    "coder_reviewer": LikelihoodScorer(("program", "problem"), np.sum),
}


TOKEN_SCORERS = {"program": TokenScorer(("program",), np.sum), "problem": TokenScorer(("problem",), np.sum)}


def choose_scorer(name: str) -> LikelihoodScorer | None:
    """Returns the scorer of this name, None for the reward head. Raises InvalidInput if there is none."""
    if name not in get_args(ScorerName):
        raise InvalidInput(f"scorer={name!r}; give one of {', '.join(map(repr, get_args(ScorerName)))}")
    return SCORERS.get(name)


def make_review(pair: Pair, name: str = "pair") -> Conversation:
    """Returns the conversation in which the program is given and the problem is the answer.

    Raises: InvalidInput if the last two turns are not a user's and an assistant's.
    """
    given = pair if isinstance(pair, Conversation) else Conversation(pair)
    turns = make_messages(given.turns, name)
    if [turn["role"] for turn in turns[-2:]] != ["user", "assistant"]:
        raise InvalidInput(f"{name} does not end with a problem of the user and a program of the assistant")
    problem, program = (turn["content"] for turn in turns[-2:])
    swapped: list[Message] = [
        *turns[:-2],
        {"role": "user", "content": f"{REVIEW}```\n{program}\n```"},
        {"role": "assistant", "content": problem},
    ]
    return Conversation(swapped, given.system, given.is_program)
