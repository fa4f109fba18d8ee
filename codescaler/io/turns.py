"""Conversations as people store them: a prompt and its answer, each a text or a list of messages. Knows no model.

All errors are `InvalidInput` and name the record.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from codescaler.errors import InvalidInput

Message = Mapping[str, str]
Problem = str | tuple[Message, ...]  # what stands before an answer

_PROMPT_NAMES = ("prompt", "question_content")
_OTHER_PROMPT_NAMES = ("question", "instruction", "input")  # where neither of the names above is there
_SPOKEN = ("tool_calls", "tool_call_id", "function_call", "name", "reasoning_content", "thinking")


def read_prompt(record: Mapping[str, Any], name: str) -> Any:
    """Returns the prompt of a record under whatever name it has; None if there is none.

    Raises: InvalidInput if two names hold two texts.
    """
    for key in _PROMPT_NAMES:
        if record.get(key) is not None:
            return record[key]
    found = {key: record[key] for key in _OTHER_PROMPT_NAMES if record.get(key)}
    values = list(found.values())
    if any(value != values[0] for value in values):
        raise InvalidInput(f"{name}: the prompt may be {' or '.join(found)}; join them in a field named prompt")
    return next(iter(values), None)


def read_system(record: Mapping[str, Any], name: str) -> str | None:
    """Returns the system prompt of a record, None where it has none."""
    system = record.get("system")
    if system is not None and not isinstance(system, str):
        raise InvalidInput(f"{name}: system is {system!r:.80}; give a string, the reward model's system prompt")
    return system


def parse_messages(value: Any, role: str, name: str) -> list[Message]:
    """Returns messages of role and content alone. A text is one message of `role`.

    Fields that are null are left out, as data sets fill them in. Other fields are left alone, but for those that a
    chat template would put into the text.
    """
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, (list, tuple)) or not value:
        raise InvalidInput(f"{name} is {value!r:.80}; give text, or a list of messages with role and content")
    for message in value:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise InvalidInput(f"{name}: a message is {message!r:.80}; give an object with role and content")
        spoken = next((key for key in _SPOKEN if message.get(key)), None)
        if spoken is not None:
            raise InvalidInput(f"{name}: a message has {spoken}; a message to score has role and content only")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def parse_prompt(prompt: Any, name: str) -> Problem:
    """Returns a prompt after a check. A prompt of one user message is its text."""
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, (list, tuple)) or not prompt:
        raise InvalidInput(f"{name} is {prompt!r:.80}; give a string, or a list of messages")
    return _convert_turns(parse_messages(prompt, "user", name))


def split_answer(prompt: Any, answer: Any, name: str) -> tuple[Problem, str]:
    """Returns what stands before an answer, and the text of the answer.

    Both may be a text or messages. The messages of the answer may hold those of the prompt, with or without a system
    message.

    Raises: InvalidInput if they are neither, do not fit together, or do not end with the assistant's message.
    """
    asked = [] if prompt is None else parse_messages(prompt, "user", f"{name}, prompt")
    answered = parse_messages(answer, "assistant", name)
    turns = _join(asked, answered, name)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise InvalidInput(f"{name} is {answer!r:.80}; give a prompt, and messages that end with the assistant's")
    return _convert_turns(turns[:-1]), turns[-1]["content"]


def _convert_turns(turns: Sequence[Message]) -> Problem:
    is_text = len(turns) == 1 and turns[0]["role"] == "user"
    return turns[0]["content"] if is_text else tuple(turns)


def _join(asked: Sequence[Message], answered: Sequence[Message], name: str) -> list[Message]:
    systems = [turns[0] for turns in (asked, answered) if turns and turns[0]["role"] == "system"]
    if len(systems) == 2 and systems[0] != systems[1]:
        raise InvalidInput(f"{name} and its prompt have two system messages; give one")
    asked, answered = ([*turns[turns[0] in systems :]] if turns else [] for turns in (asked, answered))
    if answered and answered[0]["role"] == "user" and asked and asked[-1]["role"] == "user":
        if answered[: len(asked)] != asked:
            raise InvalidInput(f"{name} begins with {answered[0]['content']!r:.80}, and not with its prompt; give one")
        asked = []
    elif answered[: len(asked)] == asked:
        asked = []
    return [*systems[:1], *asked, *answered]


def join_contents(problem: Problem) -> str:
    """Returns a problem as one text, for what compares problems by their text."""
    if isinstance(problem, str):
        return problem
    return "\n\n".join(message["content"] for message in problem if message["role"] != "system")
