"""Tasks to groups of completions. Knows what is asked for and what is kept of the answers, not who answers."""

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from codescaler.errors import InvalidInput
from codescaler.io.records import read_lines
from codescaler.io.resumable import ResumableFile, compute_digest
from codescaler.text.extraction import check_extraction, extract_code
from codescaler.types import Task


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn. At temperature 0 the likeliest is taken, so that more than one is refused."""

    model: str
    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 1024
    seed: int = 0
    num_samples: int = 10
    extract: str = "paper"

    def __post_init__(self) -> None:
        check_extraction(self.extract, "python")
        if not 0 <= self.temperature <= 100:
            raise InvalidInput(f"temperature {self.temperature}; give a number of at least 0, such as 0.8")
        if not 0 < self.top_p <= 1:
            raise InvalidInput(f"top_p {self.top_p}; give a number above 0, up to 1 for every token")
        for name in ("max_tokens", "num_samples"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} {getattr(self, name)}; give a whole number of at least 1")
        if self.temperature == 0 and self.num_samples > 1:
            raise InvalidInput(
                f"{self.num_samples} samples at temperature 0 are the same one; ask for 1, or a higher temperature"
            )


@dataclass(frozen=True)
class Completion:
    """What a model answered, and why it ended: "stop" by itself, "length" at `max_tokens`, or in its server's words."""

    text: str
    finish: str


@dataclass(frozen=True)
class Request:
    """One task's prompt, and a seed for each completion of it."""

    task_id: str
    prompt: str
    seeds: Sequence[int]


class Sampler(Protocol):
    """A language model: a local folder or an endpoint.

    `identity` names what answers, as far as it can be known: a run goes on with the same only.
    """

    identity: str

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        """Yields the completions of one request after the other, in order; requests are taken as they are needed."""
        ...


def derive_seed(seed: int, task_id: str, index: int) -> int:
    """A sample's own seed, 31 bits: a resumed run, and one over other tasks, asks the same for the same sample."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{index}|{task_id}".encode()).digest()[:4], "big") >> 1


def choose_tasks(
    tasks: Sequence[Task], split: str | None, limit: int | None, difficulty: str | None = None
) -> list[Task]:
    """The first `limit` tasks of a split and of a difficulty, in the words of their source; "easy" is "Easy" too.

    Raises: InvalidInput if none is left, or two have one task_id.
    """
    repeated = [task_id for task_id, count in Counter(task.task_id for task in tasks).items() if count > 1]
    if repeated:
        raise InvalidInput(f"{len(repeated)} task_ids are there twice, such as {repeated[0]!r:.80}; keep one of each")
    if limit is not None and limit < 1:
        raise InvalidInput(f"limit {limit}; give a whole number of at least 1")
    of_split = [task for task in tasks if split in (None, task.split)]
    if not of_split:
        raise InvalidInput(
            f"no task of {len(tasks)} has the split {split!r}; there are {_list_kinds(t.split for t in tasks)}"
        )
    if difficulty is None:
        return of_split[:limit]
    kept = [task for task in of_split if (task.difficulty or "").casefold() == difficulty.casefold()]
    if not kept:
        seen = _list_kinds(task.difficulty for task in of_split)
        raise InvalidInput(f"no task of {len(of_split)} has the difficulty {difficulty!r}; there are {seen}")
    return kept[:limit]


def _list_kinds(values: Iterable[str | None]) -> str:
    return ", ".join(sorted(set(map(str, values)))) or "none"


def sample_tasks(
    tasks: Sequence[Task], sampler: Sampler, sampling: Sampling, target: Path, advance: Callable[[int], None]
) -> Counter[str]:
    """Writes a group for each task to `target`, and returns counts of all that is in it.

    A killed run goes on from the last whole group. `advance` is told of groups done.

    Raises: InvalidInput as `ResumableFile`, whose settings are the sampling, the sampler and the tasks.
    """
    for language in {task.language for task in tasks}:
        check_extraction(sampling.extract, language)
    settings = dataclasses.asdict(sampling) | {
        "answered_by": sampler.identity,
        "tasks": compute_digest(part for task in tasks for part in (task.task_id, task.prompt)),
    }
    with ResumableFile(target, settings) as output:
        advance(len(output.done))
        for_sampler, for_output = itertools.tee(output.skip_done(tasks, lambda task: task.task_id))
        answers = sampler.complete(_request(task, sampling) for task in for_sampler)
        for task, completions in zip(for_output, answers, strict=True):
            output.write(make_group_record(task, completions, sampling, sampler.identity))
            advance(1)
    return _read_counts(target)


def _request(task: Task, sampling: Sampling) -> Request:
    seeds = [derive_seed(sampling.seed, task.task_id, index) for index in range(sampling.num_samples)]
    return Request(task.task_id, task.prompt, seeds)


def make_group_record(
    task: Task, completions: Sequence[Completion], sampling: Sampling, identity: str
) -> dict[str, Any]:
    """A group as it is written. `identity` is the sampler's.

    A completion that came before, or whose program did, stays and says so in `duplicate_of`, the index of the first:
    what counts samples, as pass@k does, needs them all, while labelling and training take each program once.
    """
    candidates: list[dict[str, Any]] = []
    first: dict[tuple[bool, str], int] = {}
    for index, completion in enumerate(completions):
        code, _ = extract_code(completion.text, sampling.extract, task.language)
        candidate = {"completion": completion.text, "code": code, "finish": completion.finish}
        same = first.setdefault((code is None, completion.text if code is None else code), index)
        candidates.append(candidate if same == index else candidate | {"duplicate_of": same})
    known = {"split": task.split, "difficulty": task.difficulty, "license": task.license}
    if task.language != "python":
        known["language"] = task.language
    names = ("model", "temperature", "top_p", "max_tokens", "seed")
    return {
        "task_id": task.task_id,
        **{name: value for name, value in known.items() if value is not None},
        "prompt": task.prompt,
        "candidates": candidates,
        "generator": {name: getattr(sampling, name) for name in names} | {"answered_by": identity},
    }


def _read_counts(path: Path) -> Counter[str]:
    counts = Counter({name: 0 for name in ("groups", "completions", "invalid", "duplicates", "cut_short", "empty")})
    for _, _, record in read_lines(path):
        counts["groups"] += 1
        for candidate in record["candidates"]:
            counts["completions"] += 1
            counts["invalid"] += candidate["code"] is None
            counts["duplicates"] += "duplicate_of" in candidate
            counts["cut_short"] += candidate["finish"] == "length"
            counts["empty"] += not candidate["completion"]
    return counts
