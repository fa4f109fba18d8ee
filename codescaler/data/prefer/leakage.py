"""Which problems are, or nearly are, held out for evaluation. Knows ids, prompts and reference programs only.

Two prompts are the same if their words are, whatever their case and punctuation. They are nearly the same if the one
with fewer distinct runs of three words has half of them or more in common with the other. Runs that are in more than 1%
of all prompts (and in more than 4) do not count: they are how a data set speaks ("write a function to"), and would make
unrelated prompts alike. On MBPP this finds 8% of the training problems near its test, which are mostly the same problem
in other words or with one word changed (odd for even); at 0.4 the problems found begin to differ.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codescaler.data.programs import compute_form
from codescaler.errors import InvalidInput
from codescaler.io.records import read_groups, read_lines

THRESHOLD = 0.5
_GRAM_WORDS = 3
_MAX_SHARE, _MIN_BOILERPLATE = 0.01, 4
RULE = (
    f"same task_id; same words; or at least {THRESHOLD:.0%} of the {_GRAM_WORDS}-word runs of the shorter prompt in "
    f"common, runs that are in more than {_MAX_SHARE:.0%} of all prompts left out"
)
_TEXT_ENDS = (".txt", ".csv", ".tsv", ".list", ".ids")
_WORD = re.compile(r"\w+")

Gram = tuple[str, ...]


@dataclass(frozen=True)
class HeldOut:
    """What must not be learned from: task_ids, prompts by what messages call them, and forms of reference programs.

    `forms` are those of `compute_form` without any names, each with the task that it is of.
    """

    task_ids: frozenset[str] = frozenset()
    prompts: Mapping[str, str] | None = None
    forms: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Leak:
    """Why a problem is held out, "task_id", "prompt", "near_prompt" or "program", and the overlap with which other."""

    kind: str
    held_out: str
    overlap: float = 1.0


def read_held_out(sources: Iterable[str]) -> HeldOut:
    """Reads files of tasks, groups or pairs (JSON lines; .gz too), files of one task_id a line, and lists "id,id".

    Raises: InvalidInput as the readers; or if a source has no id and no prompt.
    """
    task_ids: set[str] = set()
    prompts: dict[str, str] = {}
    forms: dict[str, str] = {}
    for source in sources:
        path = Path(source)
        if path.name.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
            for task_id, prompt, reference in _read_problems(path):
                task_ids.add(task_id)
                prompts[task_id] = prompt
                if reference is not None:
                    forms.setdefault(compute_form(reference, keeps_names=False), task_id)
            continue
        if path.name.endswith(_TEXT_ENDS) and not path.is_file():  # a slip, and no id
            raise InvalidInput(f"{path} is not there; give a file, or ids such as mbpp/11")
        try:
            text = path.read_text(encoding="utf-8-sig") if path.is_file() else source.replace(",", "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{path} cannot be read ({error}); give a file of one task_id a line") from error
        ids = {line.strip() for line in text.splitlines() if line.strip()}
        if not ids:
            raise InvalidInput(f"held out is {source!r:.80}, which names no task; give a file, or ids such as mbpp/11")
        task_ids |= ids
    return HeldOut(frozenset(task_ids), prompts, forms)


def _read_problems(path: Path) -> list[tuple[str, str, str | None]]:
    """The task_id and prompt of each problem, and its reference where there is one."""
    first = next((record for _, _, record in read_lines(path)), {}) if ".jsonl" in path.name else {}
    if {"candidates", "chosen", "code_pos"} & first.keys():
        return [(group.task_id, group.prompt, None) for group in read_groups(path)]
    from codescaler.tasks import read_tasks  # which imports a reader for each form

    return [(task.task_id, task.prompt, task.reference) for task in read_tasks(path)]


def find_leaks(problems: Iterable[tuple[str, str]], held_out: HeldOut) -> dict[str, Leak]:
    """Those of the problems, (task_id, prompt), that are held out or nearly are, by task_id."""
    problems = list(problems)
    finder = LeakFinder(held_out, [prompt for _, prompt in problems])
    found = ((task_id, finder.find(task_id, prompt)) for task_id, prompt in problems)
    return {task_id: leak for task_id, leak in found if leak is not None}


class LeakFinder:
    """Compares one problem after the other with what is held out; `others` show how a data set speaks."""

    def __init__(self, held_out: HeldOut, others: Sequence[str]) -> None:
        prompts = dict(held_out.prompts or {})
        self._task_ids = held_out.task_ids
        self._forms = dict(held_out.forms)
        self._names = {_normalize_prompt(prompt): name for name, prompt in prompts.items()}
        self._near = _NearPrompts(others, prompts)

    def find(self, task_id: str, prompt: str) -> Leak | None:
        """Why a problem is held out, None if it is not."""
        if task_id in self._task_ids:
            return Leak("task_id", task_id)
        if (words := _normalize_prompt(prompt)) in self._names:
            return Leak("prompt", self._names[words])
        return self._near.find_nearest(prompt)

    def find_program(self, code: str) -> Leak | None:
        """The held-out problem whose reference is this program under other names, if there is one."""
        name = self._forms.get(compute_form(code, keeps_names=False))
        return None if name is None else Leak("program", name)

    def add(self, name: str, prompt: str, code: str) -> None:
        """Holds one more problem and its solution."""
        self._names.setdefault(_normalize_prompt(prompt), name)
        self._forms.setdefault(compute_form(code, keeps_names=False), name)
        self._near.add(name, prompt)


def _normalize_prompt(prompt: str) -> str:
    return " ".join(_WORD.findall(prompt.lower()))


def _split_into_grams(prompt: str) -> set[Gram]:
    words = _WORD.findall(prompt.lower())
    size = min(_GRAM_WORDS, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if words else set()


class _NearPrompts:
    """Held-out prompts by their runs of words."""

    def __init__(self, others: Sequence[str], prompts: Mapping[str, str]) -> None:
        known = [*prompts.values(), *others]
        frequency = Counter(gram for prompt in known for gram in _split_into_grams(prompt))
        most = max(_MIN_BOILERPLATE, _MAX_SHARE * len(known))
        self._boilerplate = {gram for gram, count in frequency.items() if count > most}
        self._sizes: dict[str, int] = {}
        self._names: dict[Gram, list[str]] = defaultdict(list)
        for name, prompt in prompts.items():
            self.add(name, prompt)

    def add(self, name: str, prompt: str) -> None:
        """Compares what follows with one more prompt."""
        grams = _split_into_grams(prompt) - self._boilerplate
        self._sizes[name] = len(grams)
        for gram in grams:
            self._names[gram].append(name)

    def find_nearest(self, prompt: str) -> Leak | None:
        """The held-out prompt with the largest overlap, if it reaches the threshold."""
        grams = _split_into_grams(prompt) - self._boilerplate
        shared = Counter(name for gram in grams for name in self._names.get(gram, ()))
        overlaps = {name: count / min(len(grams), self._sizes[name]) for name, count in shared.items()}
        best = max(overlaps, key=lambda name: overlaps[name], default=None)
        if best is None or overlaps[best] < THRESHOLD:
            return None
        return Leak("near_prompt", best, round(overlaps[best], 3))
