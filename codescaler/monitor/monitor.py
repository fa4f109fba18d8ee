"""`RewardMonitor`: an alarm while a policy trains on a reward model, without tests. Imports no trainer until asked."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from codescaler.errors import CapacityExceeded, InvalidInput, WeightsError
from codescaler.integrations.reward_function import LogMetric, RewardFunction, Scorer, Turn
from codescaler.integrations.scorers import is_url, open_scorer
from codescaler.io.files import open_output
from codescaler.io.records import read_lines
from codescaler.io.turns import join_contents
from codescaler.metrics import Figures
from codescaler.monitor.alarm import compare_window
from codescaler.monitor.signals import LOGGED, MOVES, SIGNALS, choose_best, measure_group, rewrite_program
from codescaler.text.program import Message, make_conversation

_log = logging.getLogger(__name__)

# 20 honest windows, each with this chance of an alarm, have two alarms or more with a chance of 5%.
LEVEL = 0.018


@dataclass(frozen=True)
class Window:
    """What was seen in one window.

    Attributes:
        window: its number, from 0.
        signals: the mean of each figure of `codescaler.monitor.signals` over the window's prompts; None where unknown.
            Moves are in units of the spread of scores within a prompt at the start.
        start: the same at the start.
        p: the chance that an honest window is as unlike the start; None at the start itself.
        raised: the signals that are higher than at the start, at the level that was asked for.
        groups: the figures of each prompt, for a run that is resumed.
        steps: the trainer's, in which each prompt was seen; None where the trainer says none.
    """

    window: int
    signals: Mapping[str, float | None]
    start: Mapping[str, float | None]
    p: float | None
    raised: Sequence[str]
    groups: Sequence[Sequence[float | None]]
    steps: Sequence[int | None]

    @property
    def is_alarm(self) -> bool:
        return bool(self.raised)


class _Group(NamedTuple):
    """Programs of one problem, which is messages."""

    problem: tuple[Message, ...]
    codes: list[str]

    @property
    def text(self) -> str:
        return join_contents(self.problem)


class RewardMonitor:
    """Gives the rewards of a `RewardFunction`, and warns when what earns them is unlike the start of the run.

        monitor = RewardMonitor(RewardFunction.open("http://127.0.0.1:8000"), log="monitor.jsonl")
        GRPOTrainer(model, reward_funcs=monitor, callbacks=[monitor.make_callback()], ...)

    For another trainer call `observe` with prompts and completions, a step at a time. The first windows are the start:
    the policy has not learned to game the reward yet. `observe_start` takes samples from before the run instead. Each
    window after is compared with the start, by a test whose chance of a false alarm in an honest window is `level`. An
    alarm is logged as a warning.

    Args:
        reward: its reward model scores the samples of a window once more, and their rewrites.
        second: another scorer, a URL, folder or hub id, whose order of programs is compared; None for none. A folder's
            or hub id's reads the end of what is too long for it.
        log: a file of JSON lines, a `Window` each, and last the prompts that wait for one to be complete. A run that is
            resumed goes on there. With TRL, prompts of steps that it repeats are removed.
        level: the chance of a false alarm in a window.
        num_start_windows: how many windows are the start.
        num_groups: prompts a window. Prompts of several calls are gathered, and of a larger call the first count.
        num_samples: completions of a prompt that are looked at, at most.
        num_rewritten: how many of these are rewritten, from the best-scored on.
        stop_after: so many alarms in a row set `should_stop`, which ends a training run of TRL; None for never.
    """

    __name__ = "codescaler_reward"  # as that of `RewardFunction`

    def __init__(
        self,
        reward: RewardFunction,
        *,
        second: Scorer | str | None = "nano",
        log: str | Path | None = None,
        level: float = LEVEL,
        num_start_windows: int = 12,
        num_groups: int = 8,
        num_samples: int = 8,
        num_rewritten: int = 2,
        stop_after: int | None = None,
    ) -> None:
        if not 0.001 <= level < 1:
            raise InvalidInput(f"level is {level}; give the chance of a false alarm in a window, 0.001 to 1")
        if stop_after is not None and stop_after < 1:
            raise InvalidInput(f"stop_after is {stop_after}; give a number of alarms in a row, or None for never")
        if isinstance(reward, str):
            raise InvalidInput(f"reward is {reward!r:.80}; give a RewardFunction, such as RewardFunction.open(MODEL)")
        if min(num_start_windows, num_groups, num_rewritten) < 1 or num_samples < 2:
            raise InvalidInput("a monitor needs a window of the start, a group, a rewritten program and two samples")
        self.reward, self.level, self.stop_after = reward, level, stop_after
        if isinstance(second, str):
            second = open_scorer(second, **({} if is_url(second) else {"truncation": "left"}))
        self._second = second
        self._num_start, self._num_groups = num_start_windows, num_groups
        self._num_samples, self._num_rewritten = num_samples, num_rewritten
        self._path = None if log is None else Path(log)
        self._start: list[Figures] = []
        self._pending: list[tuple[list[float], int | None]] = []
        self._num_bytes = 0  # of the log, in windows
        self.num_windows = self.num_alarms_in_a_row = 0
        self.alarm_step: int | None = None  # the trainer's first, in the window of the first of the alarms in a row
        self._may_repeat = self._path is not None and self._path.exists()
        self._is_start_of_run = False
        if self._path is not None and self._may_repeat:
            self._restore(self._path)

    @property
    def should_stop(self) -> bool:
        """Whether as many windows in a row as `stop_after` raised an alarm, the last ones or earlier."""
        return self.stop_after is not None and self.num_alarms_in_a_row >= self.stop_after

    def __call__(
        self,
        prompts: Sequence[Turn],
        completions: Sequence[Turn],
        *,
        log_metric: LogMetric | None = None,
        **columns: Any,
    ) -> list[float]:
        """Returns the rewards of `reward`, and observes. `log_metric` is told the p-value of a window."""
        rewards = self.reward(prompts, completions, log_metric=log_metric, **columns)
        window = self.observe(prompts, completions, **columns)
        if log_metric is not None and window is not None and window.p is not None:
            log_metric("codescaler/monitor_p", window.p)
        return rewards

    def observe(self, prompts: Sequence[Turn], completions: Sequence[Turn], **columns: Any) -> Window | None:
        """Looks at samples of a step. Returns a window when one is complete, else None.

        Completions without a program, and prompts with fewer than two programs, are left out.

        Raises: as `RewardFunction`.
        """
        step = getattr(columns.get("trainer_state"), "global_step", None)
        if self._path is not None and self._may_repeat and step is not None:
            self._restore(self._path, step)
        self._may_repeat = False
        return self._observe(self._read_groups(prompts, completions, columns), step)

    def observe_start(self, prompts: Sequence[Turn], completions: Sequence[Turn], **columns: Any) -> None:
        """Makes the start of samples that the policy drew before the run, so that the first step may raise an alarm.

        Takes the first `num_start_windows * num_groups` prompts with two programs or more. A start that the log holds,
        or that the run had begun, stays as it is.

        Raises: `InvalidInput` where they are fewer, or after `observe`; and as `RewardFunction`.
        """
        if (self._pending or self.num_windows) and not self._may_repeat:
            raise InvalidInput("samples of a run were observed before its start; call observe_start first")
        if self.num_windows >= self._num_start or self._is_start_of_run:
            return
        groups, needed = self._read_groups(prompts, completions, columns), self._num_start * self._num_groups
        if len(groups) < needed:
            raise InvalidInput(
                f"the start needs {needed} prompts with two programs or more, and the samples have {len(groups)}; "
                "give more samples, or a smaller num_start_windows"
            )
        for first in range(self.num_windows * self._num_groups, needed, self._num_groups):
            self._observe(groups[first : first + self._num_groups], None)

    def make_callback(self) -> Any:
        """Returns a callback of transformers' trainers, which ends the run when `should_stop` is set."""
        from transformers import TrainerCallback

        monitor = self

        class MonitorCallback(TrainerCallback):  # type: ignore[misc]
            """Ends the run."""

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
                control.should_training_stop |= monitor.should_stop
                return control

        return MonitorCallback()

    def _read_groups(
        self, prompts: Sequence[Turn], completions: Sequence[Turn], columns: Mapping[str, Any]
    ) -> list[_Group]:
        """The programs of each prompt that has two or more."""
        groups: dict[str, _Group] = {}
        for conversation in self.reward.read_programs(prompts, completions, columns).conversations:
            messages = cast(Sequence[Message], conversation.turns)
            group = groups.setdefault(json.dumps(messages[:-1]), _Group(tuple(messages[:-1]), []))
            if len(group.codes) < self._num_samples:
                group.codes.append(messages[-1]["content"])
        return [group for group in groups.values() if len(group.codes) > 1]

    def _observe(self, groups: Sequence[_Group], step: int | None) -> Window | None:
        self._pending += [(row, step) for row in self._measure(groups[: self._num_groups - len(self._pending)])]
        window = self._close() if len(self._pending) == self._num_groups else None
        if window or self._pending:
            self._write(window)
        return window

    def _measure(self, groups: Sequence[_Group]) -> list[list[float]]:
        engine, system = self.reward.engine, self.reward.system
        own = _score(engine, groups, system)
        best = [choose_best(scores, self._num_rewritten) for scores in own]
        rewrites = [
            _Group(group.problem, [new for place in places for new in rewrite_program(group.codes[place], group.text)])
            for group, places in zip(groups, best, strict=True)
        ]
        moved = self._score_rewrites(rewrites)
        second = [None] * len(groups) if self._second is None else _score(self._second, groups, None)
        return [
            measure_group(group.codes, scores, new.reshape(len(places), -1), places, other)
            for group, scores, new, places, other in zip(groups, own, moved, best, second, strict=True)
        ]

    def _score_rewrites(self, rewrites: Sequence[_Group]) -> list[Figures]:
        """Scores of each prompt's rewrites. NaN if one of them is longer than the reward model reads."""
        engine, system = self.reward.engine, self.reward.system
        try:
            return _score(engine, rewrites, system)
        except _TOO_LONG as error:
            if len(rewrites) > 1:
                return [scores for group in rewrites for scores in self._score_rewrites([group])]
            _log.warning("a prompt counts without its rewrites, for one is too long: %s", error)
            return [np.full(len(rewrites[0].codes), np.nan)]

    def _close(self) -> Window:
        """Compares a window with the start, or adds it to the start."""
        groups, steps = np.array([row for row, _ in self._pending]), [step for _, step in self._pending]
        self._pending = []
        number, p, raised = self.num_windows, None, []
        if number < self._num_start:
            self._start.append(groups)
        else:
            start = np.concatenate(self._start)[:, : len(SIGNALS)]
            chances = compare_window(start, groups[:, : len(SIGNALS)], seed=number)
            p = float(chances.min())
            raised = [name for name, chance in zip(SIGNALS, chances, strict=True) if chance <= self.level]
        at_start = np.concatenate(self._start)
        spread = float(np.sqrt((at_start[:, -1] ** 2).mean()))
        means = (_average(groups, spread), _average(at_start, spread))
        window = Window(number, *means, p, raised, _list_known(groups), steps)
        self._count(window)
        if window.is_alarm:
            told = ", ".join(f"{name} {window.signals[name]:.3g} (start {window.start[name]:.3g})" for name in raised)
            _log.warning("window %d is unlike the start of the run, p = %.4f: %s", number, p, told)
        return window

    def _count(self, window: Window) -> None:
        self.num_windows += 1
        if self.should_stop:
            return
        self.num_alarms_in_a_row = self.num_alarms_in_a_row + 1 if window.is_alarm else 0
        if self.num_alarms_in_a_row <= 1:
            self.alarm_step = window.steps[0] if window.is_alarm else None

    def _write(self, window: Window | None) -> None:
        """Puts a window behind those of the log, or the prompts that wait for one."""
        if self._path is None:
            return
        record = (
            asdict(window)
            if window
            else {
                "window": self.num_windows,
                "groups": _list_known(np.array([row for row, _ in self._pending])),
                "steps": [step for _, step in self._pending],
            }
        )
        line = json.dumps(record).encode() + b"\n"
        with open_output(self._path, "a") as file:
            file.truncate(self._num_bytes)
            file.write(line)
        self._num_bytes += len(line) if window else 0

    def _restore(self, path: Path, before: int | None = None) -> None:
        """Reads what a run that ended had seen, before a step of the trainer if one is given.

        The rest is cut off, and the line that a killed run was writing.
        """
        self._start, self._pending, self._num_bytes = [], [], 0
        self.num_windows, self.num_alarms_in_a_row, self.alarm_step = 0, 0, None
        lines = path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n") and not _is_begun(lines.pop()):
            raise InvalidInput(f"{path} ends in a line of another program; name another log")
        for line, (name, _, record) in zip(lines, read_lines(path), strict=False):
            self._require_own(name, record, path)
            steps = record["steps"]
            kept = [before is None or step is None or step < before for step in steps]
            if not all(kept):
                _log.warning("%s: removes what it saw from step %d on, which this run repeats", path, before)
            if "p" not in record or not all(kept):
                rows = zip(np.array(record["groups"], dtype=np.float64).tolist(), steps, kept, strict=True)
                self._pending = [(row, step) for row, step, is_kept in rows if is_kept]
                break
            window = Window(**record)
            if window.p is None:
                self._start.append(np.array(window.groups, dtype=np.float64))
            self._count(window)
            self._num_bytes += len(line)
            self._is_start_of_run |= window.p is None and any(step is not None for step in steps)
        self._is_start_of_run |= self.num_windows < self._num_start and any(
            step is not None for _, step in self._pending
        )
        with path.open("rb+") as file:
            file.truncate(self._num_bytes)
        if self._pending:
            self._write(None)

    def _require_own(self, name: str, record: Mapping[str, Any], path: Path) -> None:
        """Refuses a line that this monitor, with these settings, would not have written.

        Raises: InvalidInput.
        """
        names = [*SIGNALS, *LOGGED]
        groups, steps = ([*held] if isinstance(held := record.get(key), list) else [] for key in ("groups", "steps"))
        is_own = len(groups) == len(steps) and all(isinstance(row, list) and len(row) == len(names) for row in groups)
        if "p" in record:
            is_own = is_own and record.keys() == _FIELDS and list(record["signals"]) == names
            is_own = is_own and len(groups) == self._num_groups
            is_own = is_own and (record["p"] is None) == (record["window"] < self._num_start)
        else:
            is_own = is_own and record.keys() == {"window", "groups", "steps"} and 0 < len(groups) < self._num_groups
        if not is_own:
            raise InvalidInput(
                f"{name} is no window of this monitor, with {self._num_start} windows of {self._num_groups} prompts as "
                f"its start; name another log, or remove {path}"
            )


_TOO_LONG = (InvalidInput, CapacityExceeded)  # all that a model can have against a rewrite of what it has scored
_FIELDS = {field.name for field in fields(Window)}
_BEGINNING = b'{"window": '


def _is_begun(line: bytes) -> bool:
    """Whether a line that was cut short may have been a window."""
    return line.startswith(_BEGINNING) or _BEGINNING.startswith(line)


def _score(scorer: Scorer, groups: Sequence[_Group], system: str | None) -> list[Figures]:
    """Scores the programs of all groups together. Equal ones of a group are one for the engine's prefix tree."""
    conversations = [make_conversation(group.problem, code, system) for group in groups for code in group.codes]
    scores = np.array(list(scorer.score_stream(conversations)), dtype=np.float64)
    if not np.isfinite(scores).all():
        raise WeightsError("a score is not finite; look for non-finite weights in the checkpoint")
    return np.split(scores, np.cumsum([len(group.codes) for group in groups])[:-1]) if groups else []


def _average(groups: Figures, spread: float) -> dict[str, float | None]:
    """The mean of each figure, moves in units of the spread."""
    known = ~np.isnan(groups)
    sums, counts = np.where(known, groups, 0.0).sum(axis=0), known.sum(axis=0)
    names = (*SIGNALS, *LOGGED)
    means = {name: float(sums[k] / counts[k]) if counts[k] else None for k, name in enumerate(names)}
    if spread > 0:
        means |= {name: value / spread for name in MOVES if (value := means[name]) is not None}
    return means


def _list_known(groups: Figures) -> list[list[float | None]]:
    return [[None if value != value else value for value in row] for row in groups.tolist()]
