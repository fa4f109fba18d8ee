"""CodeScaler's reward for TRL's `GRPOTrainer` and `RLOOTrainer`: extraction, score and shaping in one callable.

    reward = RewardFunction(Engine.from_pretrained("LARK-Lab/CodeScaler-1.7B"))
    GRPOTrainer(model, reward_funcs=reward, ...)

TRL itself is not imported.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from codescaler.engine import Engine
from codescaler.errors import InvalidInput, WeightsError
from codescaler.text.extraction import check_extraction, extract_code
from codescaler.text.program import make_conversation
from codescaler.text.shaping import shaped_reward

Turn = str | Sequence[Mapping[str, Any]]


class RewardFunction:
    """Rewards completions as the paper does: 0.0 without exactly one fenced block that parses, else softplus(score).

    The problem that the reward model reads is the prompt: a text as it stands; of messages, all but system ones, which
    speak to the policy. If the policy's prompt holds more than the problem, keep the problem in a column of the data
    set and name it by `problem_column`. Control tokens in a program are text, unless the engine was loaded with
    control_tokens="tokens". All completions of a call are scored together, so that those of one prompt share its
    tokens.

    Args:
        engine: a reward model. A problem and program longer than its `max_length` end the training run, unless it was
            loaded with truncation="left" or "middle".
        language: what the programs are written in, one of `codescaler.text.extract.LANGUAGES`.
        problem_column: name of the keyword argument, a list of texts, that holds the problems; None for the prompts.
        system: the system prompt of the reward model. None is the engine's, and "" none.
        extract: how a program is taken out of a completion, one of `codescaler.text.extraction.EXTRACTORS`.

    Source: CodeScaler, arXiv:2602.17684.
    """

    __name__ = "codescaler_reward"  # TRL logs rewards under it

    def __init__(
        self,
        engine: Engine,
        *,
        language: str = "python",
        problem_column: str | None = None,
        system: str | None = None,
        extract: str = "paper",
    ) -> None:
        self.extract = check_extraction(extract, language)  # what is not installed should not wait for the first step
        self.engine = engine
        self.language = language
        self.problem_column = problem_column
        self.system = system

    def __call__(
        self,
        prompts: Sequence[Turn],
        completions: Sequence[Turn],
        *,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Returns one reward for each completion; other keyword arguments than the problem's column are ignored.

        Raises:
            InvalidInput: prompts and completions do not match, or are neither texts nor messages.
            WeightsError: a score is not finite. Otherwise as `Engine.score`.
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
        rewards = [0.0] * len(codes)
        names = [f"completions[{index}]" for index in valid]
        for index, score in zip(valid, self.engine.score_stream(conversations, names), strict=True):
            if not math.isfinite(score):
                raise WeightsError(
                    f"completions[{index}] scores {score}; look for non-finite weights in the checkpoint"
                )
            rewards[index] = shaped_reward(score, is_valid=True)
        if log_metric is not None and codes:
            log_metric("codescaler/valid_share", len(valid) / len(codes))
        return rewards

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


def _make_messages(prompt: Turn, name: str) -> list[Mapping[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    messages: list[Mapping[str, Any]] = [
        {"role": message["role"], "content": _get_content(message, name)}
        for message in _check_messages(prompt, name)
        if message["role"] != "system"
    ]
    if not messages:
        raise InvalidInput(f"{name} has no message but system ones; a reward model needs the problem")
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
