"""New problems from walks over the graph: several statements a walk, unlike known problems with its concepts."""

import ast
import dataclasses
import itertools
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from codescaler.data.prefer.leakage import HeldOut, LeakFinder
from codescaler.data.sample.sampling import Completion, Sampler, Sampling
from codescaler.data.synthesis.asking import ask_in_order, make_request, read_answer, read_object
from codescaler.data.synthesis.concepts import Seed
from codescaler.data.synthesis.prompts import FORMS, write_problem_prompt
from codescaler.errors import InvalidInput
from codescaler.io.records import read_lines
from codescaler.io.resumable import ResumableFile, compute_digest, compute_file_digest

_MIN_CHARS = 120  # of a problem
_MAX_EXAMPLE_CHARS = 6000  # longer seeds are no examples: two would fill the context of a small model
# What reasons of `rejected` are counted as, by how they begin.
REASONS = {
    "it was cut": "cut short",
    "it is no JSON": "in another form",
    "it has less": "too short",
    "it shows no": "without a signature",
    "it shows a solution": "with a solution",
    "it is nearly the seed": "near a seed",
    "it is nearly the held-out": "near a held-out problem",
    "it repeats": "repeated",
}
_SIGNATURE = re.compile(r"^\s*(?:async )?def +[A-Za-z_]\w* *\(", re.MULTILINE)


def choose_examples(concepts: Sequence[str], seeds: Sequence[Seed], count: int) -> list[tuple[Seed, float]]:
    """The seeds whose concepts are most like these, with the Jaccard similarity; of equals the earlier one.

    A seed without a concept in common is none, nor is one of more than 6000 characters.
    """
    wanted = frozenset(concepts)
    likeness = [
        (len(wanted & seed.concepts) / len(wanted | seed.concepts), place)
        for place, seed in enumerate(seeds)
        if wanted & seed.concepts and len(seed.prompt) <= _MAX_EXAMPLE_CHARS
    ]
    best = sorted(likeness, key=lambda item: (-item[0], item[1]))[:count]
    return [(seeds[place], similarity) for similarity, place in best]


def generate_problems(
    walks: Path,
    seeds: Sequence[Seed],
    target: Path,
    sampler: Sampler,
    sampling: Sampling,
    *,
    form: str = "program",
    num_examples: int = 2,
    held_out: HeldOut | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """Writes `sampling.num_samples` candidate statements for each walk of a file, and returns counts.

    A candidate that fails a gate stays, with the reason in `rejected`. A killed run goes on.

    Raises: InvalidInput if the form is not known, a line is no walk, or as `ResumableFile`.
    """
    if form not in FORMS:
        raise InvalidInput(f"form {form!r} is not known; use one of {', '.join(FORMS)}")
    records = [_check_walk(record, name) for name, _, record in read_lines(walks)]
    held_out = held_out or HeldOut()
    settings = {
        "walks": compute_file_digest([walks]),
        "seeds": compute_digest(part for seed in seeds for part in (seed.task_id, seed.prompt, *sorted(seed.concepts))),
        "held_out": compute_digest([*sorted(held_out.task_ids), *sorted((held_out.prompts or {}).values())]),
        "sampling": dataclasses.asdict(sampling),
        "answered_by": sampler.identity,
        "form": form,
        "num_examples": num_examples,
        "prompt": write_problem_prompt(["..."], ["..."], form),
    }
    gate = _Gate(held_out, seeds, form)
    origins: dict[str, list[Seed]] = {}
    for origin in seeds:
        for concept in origin.concepts:
            origins.setdefault(concept, []).append(origin)
    with ResumableFile(target, settings) as output:
        advance(len(output.done))
        left = [
            _Asked(record, choose_examples(record["concepts"], seeds, num_examples), form)
            for record in output.skip_done(records, lambda record: str(record["task_id"]))
        ]
        number, seed = sampling.num_samples, sampling.seed
        for asked, (completions,) in ask_in_order(
            left, lambda asked: [make_request(asked.record["task_id"], asked.prompt, number, seed)], sampler
        ):
            output.write(asked.make_record(gate.judge(completions), origins, sampling))
            advance(1)
    return count_candidates(target, REASONS)


def _check_walk(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    concepts = record.get("concepts")
    if not isinstance(record.get("task_id"), str) or not (
        isinstance(concepts, list) and concepts and all(isinstance(concept, str) for concept in concepts)
    ):
        raise InvalidInput(f"{name} is not a line of `codescaler data synth walk`; give the file that it wrote")
    return record


class _Asked:
    """A walk, its examples, and the prompt that is made of them."""

    def __init__(self, record: Mapping[str, Any], examples: Sequence[tuple[Seed, float]], form: str) -> None:
        self.record, self.examples, self._form = record, examples, form
        self.prompt = write_problem_prompt(record["concepts"], [seed.prompt for seed, _ in examples], form)

    def make_record(
        self, candidates: Sequence[Mapping[str, Any]], origins: Mapping[str, Sequence[Seed]], sampling: Sampling
    ) -> dict[str, Any]:
        concept_seeds = {concept: origins.get(concept, ()) for concept in dict.fromkeys(self.record["concepts"])}
        sources = [seed for seed, _ in self.examples] + [seed for group in concept_seeds.values() for seed in group]
        names = ("model", "temperature", "top_p", "max_tokens", "seed")
        return {
            "task_id": self.record["task_id"],
            "form": self._form,
            "concepts": self.record["concepts"],
            "seeds": [
                {"task_id": seed.task_id, "license": seed.license, "similarity": round(similarity, 4)}
                for seed, similarity in self.examples
            ],
            "concept_seeds": {concept: [seed.task_id for seed in group] for concept, group in concept_seeds.items()},
            "licenses": sorted({seed.license for seed in sources}),
            "prompt": self.prompt,
            "candidates": list(candidates),
            "generator": {name: getattr(sampling, name) for name in names},
        }


class _Gate:
    """What a statement has to be before anything is run for it."""

    def __init__(self, held_out: HeldOut, seeds: Sequence[Seed], form: str) -> None:
        prompts = {seed.task_id: seed.prompt for seed in seeds}
        self._leaks = LeakFinder(held_out, list(prompts.values()))
        self._copies = LeakFinder(HeldOut(prompts=prompts), ())
        self._form = form

    def judge(self, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        seen: set[str] = set()
        judged = []
        for completion in completions:
            answer = read_answer(completion)
            parts = read_object(answer)
            signature = read_signature(str(parts.get("signature"))) if self._form == "call" else None
            statement = write_statement(parts, self._form)
            reason = self._find_fault(completion, statement, signature)
            if reason is None:
                reason = "it repeats another candidate" if statement in seen else None
                seen.add(statement)
            judged.append(
                {
                    "answer": answer,
                    "statement": statement,
                    "entry_point": None if signature is None else signature.name,
                    "finish": completion.finish,
                    "rejected": reason,
                }
            )
        return judged

    def _find_fault(self, completion: Completion, statement: str, signature: ast.FunctionDef | None) -> str | None:
        if completion.finish == "length":
            return "it was cut at --max-tokens"
        if not statement:
            return f"it is no JSON object with {' and '.join(FORMS[self._form])}"
        if len(statement) < _MIN_CHARS:
            return f"it has less than {_MIN_CHARS} characters"
        if self._form == "call":
            if signature is None:
                return "it shows no signature"
            if not all(map(_is_placeholder, signature.body)) or has_solution(statement):
                return "it shows a solution"
        if (leak := self._copies.find("", statement)) is not None:
            return f"it is nearly the seed {leak.held_out}"
        if (leak := self._leaks.find("", statement)) is not None:
            return f"it is nearly the held-out {leak.held_out}"
        return None


def write_statement(fields: Mapping[str, Any], form: str) -> str:
    """The text of a problem whose parts a model gave. Empty if one is missing, or is no plain text."""
    texts = [fields.get(name) for name in FORMS[form]]
    if not all(isinstance(text, str) and text.strip() and _is_plain(text) for text in texts):
        return ""
    first, *others = (str(text).strip() for text in texts)
    if form == "program":
        others = [f"{name.capitalize()}:\n{text}" for name, text in zip(("input", "output"), others, strict=True)]
    elif (signature := read_signature(others[0])) is not None:
        others = [ast.unparse(signature).partition("\n")[0]]
    return "\n\n".join([first, *others])


def _is_plain(text: str) -> bool:
    """Without surrogates and control characters: "times" of LaTeX begins with a tab once JSON is read."""
    return not any(unicodedata.category(char) in ("Cc", "Cs") and char != "\n" for char in text)


def read_signature(text: str) -> ast.FunctionDef | None:
    """The one function of Python that a text declares, with a body or without one. Methods are none."""
    text = text.strip().strip("`").strip()
    for whole in (text, f"{text.rstrip(':')}: ..."):
        with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            match ast.parse(whole).body:
                case [ast.FunctionDef(decorator_list=[], args=arguments) as function]:
                    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
                    return None if names[:1] == ["self"] else function
            return None
    return None


def has_solution(statement: str) -> bool:
    """Whether a function of Python in a statement does something, which tells solutions what to do."""
    for matched in _SIGNATURE.finditer(statement):
        with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            (function,) = ast.parse(_take_indented(statement[matched.start() :].lstrip("\n"))).body
            if not all(map(_is_placeholder, getattr(function, "body", ()))):
                return True
    return False


def _take_indented(text: str) -> str:
    """The first line and the lines that are indented more, all of them moved to the left."""
    first, *rest = text.split("\n")
    inside = first[: len(first) - len(first.lstrip())] + " "
    body = itertools.takewhile(lambda line: not line.strip() or line.startswith(inside), rest)
    return textwrap.dedent("\n".join([first, *body]))


def _is_placeholder(statement: ast.stmt) -> bool:
    is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)  # "..." too
    return is_text or isinstance(statement, ast.Pass | ast.Raise)


def count_candidates(path: Path, reasons: Mapping[str, str]) -> Counter[str]:
    """Walks and candidates of a file, those that no gate has rejected, and the others by gate."""
    counts: Counter[str] = Counter({"walks": 0, "candidates": 0, "left": 0})
    for _, _, record in read_lines(path):
        counts["walks"] += 1
        counts["candidates"] += len(record["candidates"])
        counts.update(_name_gate(candidate["rejected"], reasons) for candidate in record["candidates"])
    return counts


def _name_gate(reason: str | None, reasons: Mapping[str, str]) -> str:
    if reason is None:
        return "left"
    return next((name for start, name in reasons.items() if reason.startswith(start)), "rejected otherwise")
