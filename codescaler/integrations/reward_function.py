"""CodeScaler's reward for trainers: extraction, score and shaping in one callable. Imports no trainer and no torch.

    reward = RewardFunction.open("http://127.0.0.1:8000")  # a server, or a model that is loaded into this process
    GRPOTrainer(model, reward_funcs=reward, ...)

The calls are those of TRL's `GRPOTrainer` and `RLOOTrainer`. The modules beside this one turn what other trainers pass
into prompts and completions.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from codescaler.errors import InvalidInput, WeightsError
from codescaler.integrations.scorers import open_async_scorer, open_scorer
from codescaler.text.extraction import check_extraction, extract_code
from codescaler.text.program import Conversation, make_conversation
from codescaler.text.shaping import shaped_reward

Turn = str | Sequence[Mapping[str, Any]]
LogMetric = Callable[[str, float], None]


class Scorer(Protocol):
    """What `RewardFunction` asks: an `Engine` or a `Client`."""

    def score_stream(self, pairs: Iterable[Conversation], names: Iterable[str] | None = None) -> Iterator[float]:
        """Yields a score for each conversation."""


class AsyncScorer(Protocol):
    """What `AsyncRewardFunction` asks: an `Engine` or an `AsyncClient`."""

    async def score_async(self, pairs: Sequence[Conversation]) -> Sequence[float]:
        """Returns a score for each conversation."""


ScorerT = TypeVar("ScorerT")
RewardT = TypeVar("RewardT", bound="_Reward[Any]")


@dataclass(frozen=True)
class Programs:
    """The programs of some completions, ready to be scored. `indices` are the completions that have one."""

    conversations: list[Conversation]
    indices: list[int]
    num_completions: int

    @property
    def names(self) -> list[str]:
        """What errors call the programs."""
        return [f"completions[{index}]" for index in self.indices]

    def shape(self, scores: Iterable[float], log_metric: LogMetric | None) -> list[float]:
        """Returns a reward for each completion, 0.0 where there is no program."""
        rewards = [0.0] * self.num_completions
        for index, score in zip(self.indices, scores, strict=True):
            if not math.isfinite(score):
                raise WeightsError(
                    f"completions[{index}] scores {score}; look for non-finite weights in the checkpoint"
                )
            rewards[index] = shaped_reward(score, is_valid=True)
        if log_metric is not None and rewards:
            log_metric("codescaler/valid_share", len(self.indices) / len(rewards))
        return rewards


class _Reward(Generic[ScorerT]):
    """What both reward functions are made with, and how they read programs."""

    __name__ = "codescaler_reward"  # TRL logs rewards under it
    _open_scorer: Callable[..., Any]

    def __init__(
        self,
        engine: ScorerT,
        *,
        language: str = "python",
        problem_column: str | None = None,
        system: str | None = None,
        extract: str = "paper",
    ) -> None:
        if isinstance(engine, str):
            raise InvalidInput(
                f"engine is {engine!r:.80}; give an engine or a client, or call {type(self).__name__}.open(...)"
            )
        self.extract = check_extraction(extract, language)  # what is not installed should not wait for the first step
        self.engine = engine
        self.language = language
        self.problem_column = problem_column
        self.system = system

    @classmethod
    def open(
        cls: type[RewardT],
        reward_model: str,
        *,
        language: str = "python",
        problem_column: str | None = None,
        system: str | None = None,
        extract: str = "paper",
        **options: Any,
    ) -> RewardT:
        """Returns the reward of a server, by its URL, or of a model that is loaded, by its folder or hub id.

        `options` are those of the client or of `Engine.from_pretrained`. A client waits ten minutes for its server.

        Raises: InvalidInput, and as these two.
        """
        engine = cls._open_scorer(reward_model, **options)
        return cls(engine, language=language, problem_column=problem_column, system=system, extract=extract)

    def read_programs(
        self, prompts: Sequence[Turn], completions: Sequence[Turn], columns: Mapping[str, Any]
    ) -> Programs:
        """Returns what is scored of completions. `columns` are the other keyword arguments of a call.

        Raises: InvalidInput if prompts and completions do not match, or are neither texts nor messages, or a problem is
            empty.
        """
        if len(prompts) != len(completions):
            raise InvalidInput(f"{len(prompts)} prompts and {len(completions)} completions; give one of each")
        taken = [
            extract_code(_get_text(completion, f"completions[{index}]"), self.extract, self.language)
            for index, completion in enumerate(completions)
        ]
        codes = [code for code, _ in taken]
        problems = self._collect_problems(prompts, columns)
        valid = [index for index, (_, is_valid) in enumerate(taken) if is_valid]
        conversations = [make_conversation(problems[index], codes[index] or "", self.system) for index in valid]
        return Programs(conversations, valid, len(codes))

    def _collect_problems(self, prompts: Sequence[Turn], columns: Mapping[str, Any]) -> list[list[Mapping[str, Any]]]:
        """Returns the messages before the program, for each completion."""
        if self.problem_column is None:
            return [_make_messages(prompt, f"prompts[{index}]") for index, prompt in enumerate(prompts)]
        if self.problem_column not in columns:
            raise InvalidInput(
                f"there is no column {self.problem_column!r}, only {', '.join(sorted(columns)) or 'none'}"
            )
        problems = columns[self.problem_column]
        if not isinstance(problems, Sequence) or len(problems) != len(prompts):
            raise InvalidInput(f"column {self.problem_column!r} holds no text for each of {len(prompts)} prompts")
        return [_make_messages(problem, f"{self.problem_column}[{index}]") for index, problem in enumerate(problems)]


class RewardFunction(_Reward[Scorer]):
    """Rewards completions as the paper does: 0.0 without exactly one fenced block that parses, else softplus(score).

    The problem that the reward model reads is the prompt: a text as it stands; of messages, all but system ones, which
    speak to the policy. If the policy's prompt holds more than the problem, keep the problem in a column of the data
    set and name it by `problem_column`. Control tokens in a program are text, unless the engine was loaded with
    control_tokens="tokens". All completions of a call are scored together, so that those of one prompt share its
    tokens.

    Args:
        engine: a reward model, or the `Client` of a server. A problem and program longer than the model's `max_length`
            end the training run, unless the model was loaded with truncation="left" or "middle".
        language: what the programs are written in, one of `codescaler.text.extract.LANGUAGES`.
        problem_column: name of the keyword argument, a list of texts, that holds the problems; None for the prompts.
        system: the system prompt of the reward model. None is the engine's, and "" none.
        extract: how a program is taken out of a completion, one of `codescaler.text.extraction.EXTRACTORS`.

    Source: CodeScaler, arXiv:2602.17684.
    """

    _open_scorer = staticmethod(open_scorer)

    def __call__(
        self,
        prompts: Sequence[Turn],
        completions: Sequence[Turn],
        *,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float]:
        """Returns one reward for each completion; other keyword arguments than the problem's column are ignored.

        Raises:
            InvalidInput: prompts and completions do not match, are neither texts nor messages, or a problem is empty.
            WeightsError: a score is not finite. Otherwise as `Engine.score`.
        """
        programs = self.read_programs(prompts, completions, columns)
        return programs.shape(self.engine.score_stream(programs.conversations, programs.names), log_metric)


class AsyncRewardFunction(_Reward[AsyncScorer]):
    """`RewardFunction` to be awaited. Calls at the same time share forwards, so one completion a call is no waste.

    Arguments as there. `engine` is a reward model, or the `AsyncClient` of a server.
    """

    _open_scorer = staticmethod(open_async_scorer)

    async def __call__(
        self,
        prompts: Sequence[Turn],
        completions: Sequence[Turn],
        *,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float]:
        """Returns what `RewardFunction` does. Programs are taken out and parsed on a thread.

        Raises: as `RewardFunction`.
        """
        programs = await asyncio.to_thread(self.read_programs, prompts, completions, columns)
        scores = await self.engine.score_async(programs.conversations) if programs.indices else []
        return programs.shape((float(score) for score in scores), log_metric)


def _make_messages(prompt: Turn, name: str) -> list[Mapping[str, Any]]:
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    messages: list[Mapping[str, Any]] = [
        {"role": message["role"], "content": _get_content(message, name)}
        for message in _check_messages(prompt, name)
        if message["role"] != "system"
    ]
    if not "".join(message["content"] for message in messages).strip():
        raise InvalidInput(f"{name} is {prompt!r:.80}; a reward model needs the problem, not only system messages")
    return messages


def _get_text(completion: Turn, name: str) -> str:
    """The text of a completion: as it stands, or that of its only message."""
    if isinstance(completion, str):
        return completion
    messages = _check_messages(completion, name)
    if len(messages) != 1:
        raise InvalidInput(f"{name} has {len(messages)} messages; the reward of one answer is defined, give one")
    return _get_content(messages[0], name)


def _check_messages(messages: object, name: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(messages, Sequence) or not all(isinstance(m, Mapping) and "role" in m for m in messages):
        raise InvalidInput(f"{name} is {messages!r:.80}; give text, or a list of messages with role and content")
    return messages


def _get_content(message: Mapping[str, Any], name: str) -> str:
    """The text of a message, whose content may be text or a list with one part of type text."""
    content = message.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
        content = content[0].get("text")
    if not isinstance(content, str):
        raise InvalidInput(f"{name}: a message's content is {content!r:.80}; give text")
    return content
