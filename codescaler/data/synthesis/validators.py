"""Validators of inputs, and checkers of outputs, which a language model writes. They run in the sandbox.

Of several validators the one is taken that tells probe inputs best: legal ones, and ones that break one condition.
Source of the order validator, generator, checker, and of 10 and 30 probes: AutoCode, arXiv 2510.12803.
"""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codescaler.data.execution.outputs import Capturer, Interface, collect_outputs
from codescaler.data.execution.votes import Vote
from codescaler.data.synthesis.asking import read_object
from codescaler.data.synthesis.inputs import write_arguments

NUM_LEGAL, NUM_ILLEGAL = 10, 30
MIN_ACCURACY = 0.75  # of the best validator or checker, below which none is trusted


@dataclass(frozen=True)
class Probes:
    """Inputs by which validators are compared. Of a call an input is the text of its arguments."""

    legal: tuple[str, ...]
    illegal: tuple[str, ...]


@dataclass(frozen=True)
class Validator:
    """A program that defines `is_valid`, and the mean of its shares of right answers on both kinds of probes."""

    code: str
    accuracy: float


def parse_probes(text: str, *, is_call: bool) -> Probes:
    """The probes of an answer: of its JSON object. What is of another kind is left out."""
    answer = read_object(text)
    legal, illegal = (
        tuple(dict.fromkeys(probe for value in values if (probe := _read_probe(value, is_call))))
        if isinstance(values, list)
        else ()
        for values in (answer.get("legal"), answer.get("illegal"))
    )
    return Probes(legal[:NUM_LEGAL], illegal[:NUM_ILLEGAL])


def _read_probe(value: Any, is_call: bool) -> str | None:
    if is_call:
        return write_arguments(value) if isinstance(value, list) and value else None
    return value if isinstance(value, str) else None


def choose_validator(runner: Capturer, codes: Sequence[str], probes: Probes, *, is_call: bool) -> Validator | None:
    """The validator with the best balanced accuracy on probes, of equals the first.

    None if the best has less than `MIN_ACCURACY`, or one kind of probes is missing: nothing is known then.
    """
    if not codes or not probes.legal or not probes.illegal:
        return None
    asked = [*probes.legal, *probes.illegal]
    scored = []
    for code, answers in zip(codes, ask_validators(runner, codes, asked, is_call=is_call), strict=True):
        legal, illegal = answers[: len(probes.legal)], answers[len(probes.legal) :]
        sensitivity = sum(answer is True for answer in legal) / len(legal)
        specificity = sum(answer is False for answer in illegal) / len(illegal)
        scored.append(Validator(code, (sensitivity + specificity) / 2))
    best = max(scored, key=lambda validator: validator.accuracy)
    return best if best.accuracy >= MIN_ACCURACY else None


def ask_validators(
    runner: Capturer, codes: Sequence[str], inputs: Sequence[str], *, is_call: bool
) -> list[list[bool | None]]:
    """What each validator says of each input; None where it says neither True nor False."""
    arguments = [f"({text},)" if is_call else repr(text) for text in inputs]
    rows = collect_outputs(runner, ((code, Interface("is_valid"), arguments) for code in codes))
    return [[_read_answer(output.text) if output is not None else None for output in row] for row in rows]


def _read_answer(text: str) -> bool | None:
    value = ast.literal_eval(text)
    return value if isinstance(value, bool) else None


def keep_valid(runner: Capturer, validator: Validator, inputs: Sequence[str], *, is_call: bool) -> list[str]:
    """The inputs that a validator takes for legal."""
    (answers,) = ask_validators(runner, [validator.code], inputs, is_call=is_call)
    return [text for text, answer in zip(inputs, answers, strict=True) if answer is True]


def choose_checker(runner: Capturer, codes: Sequence[str], inputs: Sequence[str], votes: Sequence[Vote]) -> str | None:
    """The program that defines `is_correct(arguments, result)` and tells majority outputs best from foreign ones.

    A foreign output is the majority's for another input, with another key. None if the best has a balanced accuracy
    below `MIN_ACCURACY`, or there are no two outputs.
    """
    own = [(text, vote.output) for text, vote in zip(inputs, votes, strict=True) if vote.output is not None]
    foreign = [
        (text, other)
        for (text, output), (_, other) in zip(own, [*own[1:], *own[:1]], strict=True)
        if other.key != output.key
    ]
    if not codes or not foreign:
        return None
    scored = []
    for code in codes:
        answers = ask_checker(runner, code, [(text, output.text) for text, output in (*own, *foreign)])
        accepted, refused = answers[: len(own)], answers[len(own) :]
        sensitivity = sum(answer is True for answer in accepted) / len(own)
        scored.append((sensitivity + sum(answer is False for answer in refused) / len(foreign)) / 2)
    best = max(range(len(codes)), key=lambda place: scored[place])
    return codes[best] if scored[best] >= MIN_ACCURACY else None


def ask_checker(runner: Capturer, code: str, pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
    """What a checker of calls says of each pair of an input and an output; None where it says neither."""
    arguments = [f"({given},), {output}" for given, output in pairs]
    (row,) = collect_outputs(runner, [(code, Interface("is_correct"), arguments)])
    return [_read_answer(output.text) if output is not None else None for output in row]
