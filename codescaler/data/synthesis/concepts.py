"""The concepts of seed problems: topics and knowledge points, from the set's own tags or by a language model."""

import dataclasses
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codescaler.data.prefer.leakage import HeldOut, find_leaks
from codescaler.data.sample.sampling import Completion, Sampler, Sampling
from codescaler.data.synthesis.asking import ask_in_order, make_request, read_answer, read_object
from codescaler.data.synthesis.prompts import write_concepts_prompt
from codescaler.errors import InvalidInput
from codescaler.io.records import read_lines
from codescaler.io.resumable import ResumableFile, compute_digest
from codescaler.types import Task

LEAST, MOST = 1.0, 5.0  # of difficulties
_LEVELS = {
    **{"easy": 1.0, "medium": 2.0, "medium_hard": 3.0, "hard": 4.0, "very_hard": 5.0},  # TACO
    **{letter: min(1.0 + place, 5.0) for place, letter in enumerate("abcdefghijklmnopqrstuv")},  # places in a contest
    **{"harder": 4.0, "hardest": 5.0},  # CodeContests
}
_LEETCODE = {"easy": 1.0, "medium": 3.0, "hard": 5.0}  # which has three levels
_RATINGS = (800, 3500)  # of the easiest and the hardest problems of Codeforces
_MAX_WORDS, _MAX_CHARS = 8, 60  # of a concept: more is a sentence
_SAME = 0.7  # of the runs of three characters: 0.72 for "binary searching", 0.65 for "binary search tree"


@dataclass(frozen=True)
class Seed:
    """A seed problem with its concepts. `difficulty` is from 1 to 5, None where its source does not say."""

    task_id: str
    prompt: str
    topics: tuple[str, ...]
    knowledge_points: tuple[str, ...]
    difficulty: float | None = None
    license: str = "unknown"

    @property
    def concepts(self) -> frozenset[str]:
        """All concepts."""
        return frozenset((*self.topics, *self.knowledge_points))


def grade_difficulty(task: Task) -> float | None:
    """The difficulty of a problem from 1 to 5, on the scale of TACO. Ratings of Codeforces are laid out linearly."""
    if task.rating is not None:
        low, high = _RATINGS
        return min(max(LEAST + (MOST - LEAST) * (task.rating - low) / (high - low), LEAST), MOST)
    levels = _LEETCODE if task.task_id.startswith("leetcode/") else _LEVELS
    return levels.get((task.difficulty or "").casefold())


def normalize_concept(text: str) -> str | None:
    """A concept in one spelling: small letters, words apart by one blank, the last one in the singular.

    None where there is nothing left, or a whole sentence.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"[\w+#']+", plain.replace("_", " "))
    if not words or len(words) > _MAX_WORDS:
        return None
    last = words[-1]
    if len(last) > 4 and last.endswith("ies"):
        words[-1] = last[:-3] + "y"
    elif len(last) > 3 and last.endswith("s") and not last.endswith(("ss", "us", "is")):
        words[-1] = last[:-1]
    concept = " ".join(words)
    return concept if len(concept) <= _MAX_CHARS else None


def merge_concepts(counts: Mapping[str, int]) -> dict[str, str]:
    """The name that stands for each concept: that of the first concept which says nearly the same.

    Concepts come by falling count, then by name. Two say nearly the same if they have the same words, or at least 70%
    of their runs of three characters in common. The order of words does not matter.
    """
    names: dict[str, str] = {}
    by_words: dict[frozenset[str], str] = {}
    by_run: dict[str, list[str]] = defaultdict(list)
    runs: dict[str, set[str]] = {}
    for concept in sorted(counts, key=lambda name: (-counts[name], name)):
        own = _list_runs(concept)
        shared = Counter(other for run in own for other in by_run[run])
        likeness = {other: count / len(own | runs[other]) for other, count in shared.items()}
        nearest = max(likeness, key=lambda other: likeness[other], default=None)  # the earliest of equals
        words = frozenset(concept.split())
        if words in by_words:
            names[concept] = by_words[words]
        elif nearest is not None and likeness[nearest] >= _SAME:
            names[concept] = nearest
        else:
            names[concept] = by_words[words] = concept
            runs[concept] = own
            for run in sorted(own):
                by_run[run].append(concept)
    return names


def _list_runs(concept: str) -> set[str]:
    padded = f"  {' '.join(sorted(concept.split()))} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def write_concepts(
    tasks: Sequence[Task],
    target: Path,
    *,
    sampler: Sampler | None = None,
    sampling: Sampling | None = None,
    held_out: HeldOut | None = None,
    license: str = "unknown",
    advance: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """Writes a line of concepts for each problem, and returns counts.

    Without a sampler concepts are the problem's tags. A problem that is held out, or nearly, is left out. A killed run
    goes on. `license` is that of problems whose source names none.

    Raises: InvalidInput if no problem is left, or as `ResumableFile`.
    """
    leaks = find_leaks(((task.task_id, task.prompt) for task in tasks), held_out or HeldOut())
    seeds = [task for task in tasks if task.task_id not in leaks]
    if not seeds:
        raise InvalidInput(f"all {len(tasks)} seed problems are held out; give others")
    settings = {
        "seeds": compute_digest(part for task in seeds for part in (task.task_id, task.prompt, *task.tags)),
        "license": license,
        "sampling": None if sampling is None else dataclasses.asdict(sampling),
        "answered_by": None if sampler is None else sampler.identity,
    }
    with ResumableFile(target, settings) as output:
        advance(len(output.done))
        left = output.skip_done(seeds, lambda task: task.task_id)
        for task, topics, points in _find_concepts(left, sampler, sampling):
            output.write(_make_record(task, topics, points, "tags" if sampling is None else sampling.model, license))
            advance(1)
    counts = Counter({"held_out": len(leaks)})
    for _, _, record in read_lines(target):
        counts["seeds"] += 1
        counts["without_concepts"] += not record["topics"] and not record["knowledge_points"]
    return counts


def _find_concepts(
    tasks: Iterable[Task], sampler: Sampler | None, sampling: Sampling | None
) -> Iterator[tuple[Task, list[str], list[str]]]:
    if sampler is None or sampling is None:
        for task in tasks:
            yield task, normalize_concepts(task.tags), []
        return
    number, seed = sampling.num_samples, sampling.seed
    asked = ask_in_order(
        tasks, lambda task: [make_request(task.task_id, write_concepts_prompt(task.prompt), number, seed)], sampler
    )
    for task, (completions,) in asked:
        topics, points = next(filter(any, map(parse_concepts, completions)), ([], []))
        yield task, topics, points


def parse_concepts(completion: Completion) -> tuple[list[str], list[str]]:
    """The topics and knowledge points of an answer: of its JSON object. Empty where there is none."""
    answer = read_object(read_answer(completion))
    topics, points = (
        normalize_concepts(part for part in value if isinstance(part, str)) if isinstance(value, list) else []
        for value in (answer.get("topics"), answer.get("knowledge_points"))
    )
    return topics, points


def normalize_concepts(texts: Iterable[str]) -> list[str]:
    """The distinct concepts of some texts, in order."""
    return list(dict.fromkeys(concept for text in texts if (concept := normalize_concept(text)) is not None))


def _make_record(task: Task, topics: list[str], points: list[str], source: str, license: str) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "topics": topics,
        "knowledge_points": [point for point in points if point not in topics],
        "difficulty": grade_difficulty(task),
        "license": task.license or license,
        "concepts_from": source,
        "prompt": task.prompt,
    }


def read_seeds(path: Path) -> list[Seed]:
    """The seeds of a file, with near-duplicates of concepts merged over the whole file.

    Raises: InvalidInput if a line is not of `write_concepts`, or no seed has two concepts.
    """
    seeds = [_parse_seed(record, name) for name, _, record in read_lines(path)]
    counts = Counter(concept for seed in seeds for concept in seed.concepts)
    names = merge_concepts(counts)
    merged = []
    for seed in seeds:
        topics = tuple(dict.fromkeys(names[topic] for topic in seed.topics))
        points = dict.fromkeys(names[point] for point in seed.knowledge_points)
        kept = tuple(point for point in points if point not in topics)
        merged.append(dataclasses.replace(seed, topics=topics, knowledge_points=kept))
    if not any(len(seed.concepts) > 1 for seed in merged):
        raise InvalidInput(f"{path} has no seed with two concepts; give seeds with tags, or ask a model by --model")
    return merged


def _parse_seed(record: Mapping[str, Any], name: str) -> Seed:
    lists = [record.get(key) for key in ("topics", "knowledge_points")]
    texts = [record.get(key) for key in ("task_id", "prompt", "license")]
    difficulty = record.get("difficulty")
    is_sound = (
        all(isinstance(value, list) and all(isinstance(part, str) for part in value) for value in lists)
        and all(isinstance(text, str) for text in texts)
        and (difficulty is None or (type(difficulty) in (int, float) and LEAST <= difficulty <= MOST))
    )
    if not is_sound:
        raise InvalidInput(f"{name} is not a line of `codescaler data synth concepts`; give the file that it wrote")
    task_id, prompt, license = map(str, texts)
    topics, points = (tuple(value or ()) for value in lists)
    return Seed(task_id, prompt, topics, points, None if difficulty is None else float(difficulty), license)
