"""Which problems are, or nearly are, held out for evaluation. Knows ids and prompts only.

Two prompts are the same if their words are, whatever their case and punctuation. They are nearly the same if the one
with fewer distinct runs of three words has half of them or more in common with the other. Runs that are in more than 1%
of all prompts (and in more than 4) do not count: they are how a data set speaks ("write a function to"), and would make
unrelated prompts alike. On MBPP this finds 8% of the training problems near its test, which are mostly the same problem
in other words or with one word changed (odd for even); at 0.4 the problems found begin to differ.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """What must not be learned from: task_ids, and prompts by what messages call them."""

    task_ids: frozenset[str] = frozenset()
    prompts: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Leak:
    """Why a problem is held out: "task_id", "prompt" or "near_prompt", and the overlap with which held-out problem."""

    kind: str
    held_out: str
    overlap: float = 1.0


def read_held_out(sources: Iterable[str]) -> HeldOut:
    """Reads files of tasks, groups or pairs (JSON lines; .gz too), files of one task_id a line, and lists "id,id".

    Raises: InvalidInput as the readers; or if a source has no id and no prompt.
    """
    task_ids: set[str] = set()
    prompts: dict[str, str] = {}
    for source in sources:
        path = Path(source)
        if path.name.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
            for task_id, prompt in _read_prompts(path):
                task_ids.add(task_id)
                prompts[task_id] = prompt
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
    return HeldOut(frozenset(task_ids), prompts)


def _read_prompts(path: Path) -> list[tuple[str, str]]:
    first = next((record for _, _, record in read_lines(path)), {}) if ".jsonl" in path.name else {}
    if {"candidates", "chosen", "code_pos"} & first.keys():
        return [(group.task_id, group.prompt) for group in read_groups(path)]
    from codescaler.tasks import read_tasks  # which imports a reader for each form

    return [(task.task_id, task.prompt) for task in read_tasks(path)]


def find_leaks(problems: Iterable[tuple[str, str]], held_out: HeldOut) -> dict[str, Leak]:
    """Those of the problems, (task_id, prompt), that are held out or nearly are, by task_id."""
    problems = list(problems)
    prompts = dict(held_out.prompts or {})
    names = {_normalize_prompt(prompt): name for name, prompt in prompts.items()}
    near = _NearPrompts([prompt for _, prompt in problems], prompts)
    leaks = {}
    for task_id, prompt in problems:
        if task_id in held_out.task_ids:
            leaks[task_id] = Leak("task_id", task_id)
        elif _normalize_prompt(prompt) in names:
            leaks[task_id] = Leak("prompt", names[_normalize_prompt(prompt)])
        elif leak := near.find_nearest(prompt):
            leaks[task_id] = leak
    return leaks


def _normalize_prompt(prompt: str) -> str:
    return " ".join(_WORD.findall(prompt.lower()))


def _split_into_grams(prompt: str) -> set[Gram]:
    words = _WORD.findall(prompt.lower())
    size = min(_GRAM_WORDS, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if words else set()


class _NearPrompts:
    """Held-out prompts by their runs of words."""

    def __init__(self, others: Sequence[str], prompts: Mapping[str, str]) -> None:
        held_out = {name: _split_into_grams(prompt) for name, prompt in prompts.items()}
        frequency = Counter(gram for grams in held_out.values() for gram in grams)
        frequency.update(gram for prompt in others for gram in _split_into_grams(prompt))
        most = max(_MIN_BOILERPLATE, _MAX_SHARE * (len(others) + len(prompts)))
        self._boilerplate = {gram for gram, count in frequency.items() if count > most}
        self._sizes: dict[str, int] = {}
        self._names: dict[Gram, list[str]] = defaultdict(list)
        for name, grams in held_out.items():
            self._sizes[name] = len(grams - self._boilerplate)
            for gram in grams - self._boilerplate:
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
