"""`Sandbox`: programs and tests to verdicts, several at a time, each in a box."""

import functools
import os
import queue
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, TypeVar

from codescaler.errors import InvalidInput, SandboxUnavailable
from codescaler.sandbox.box import Box
from codescaler.sandbox.costs import Costs, measure_costs
from codescaler.sandbox.isolation import DESCRIPTIONS, ISOLATIONS, Isolation, View, check_isolation, explain_missing
from codescaler.sandbox.languages import COMPILE_LIMITS, Language, Toolchain, find_toolchain
from codescaler.sandbox.limits import Limits
from codescaler.sandbox.outputs import capture_outputs, judge_output
from codescaler.sandbox.verdicts import judge_calls, judge_together
from codescaler.types import CallTests, Capture, Outcome, StdioTests, Tests, Verdict

Result = TypeVar("Result")

FIRST_USER = 1 << 30  # of the numbers of users that no host gives out
_NUM_USERS = 1 << 30

_HARNESS = "the tests run in the program's process; allow_one_process judges it, forgeably"
_TRIAL = "import unicodedata\ndef f(): return True"  # a module in a library of its own


class Sandbox:
    """Boxes in which programs run. A context manager; `close` ends everything that it started.

    Args:
        limits: of each program.
        floor: the weakest isolation to accept, of "bubblewrap", "namespaces" and "limits"; the strongest that is there
            and no weaker is taken. With "limits" a program can read files, use the network and end processes.
        isolation: exactly this one, instead of the strongest.
        num_workers: programs at a time; default, the processors of this process.
        allow_site_packages: let programs import, and read, the packages installed beside this one. Without, they have
            the standard library.
        allow_one_process: what cannot be judged from another process is run in the program's, such as tests that read
            what it wrote, patch its modules, or are a harness. Such a verdict is forgeable, and says so. Without, it is
            unjudged.
        compile_limits: of a compiler, where the program's language has one.

    Attributes:
        isolation: what programs get. num_workers: as above.

    Raises: SandboxUnavailable if the floor cannot be had here, with the reasons and what to do.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        floor: str = "namespaces",
        isolation: str | None = None,
        num_workers: int | None = None,
        allow_site_packages: bool = False,
        allow_one_process: bool = False,
        compile_limits: Limits = COMPILE_LIMITS,
    ) -> None:
        self.limits, self._compile_limits = limits or Limits(), compile_limits
        self.num_workers = num_workers if num_workers is not None else len(os.sched_getaffinity(0))
        if self.num_workers < 1:
            raise InvalidInput(f"num_workers={num_workers}; give at least 1")
        self._allow_site_packages, self._allow_one_process = allow_site_packages, allow_one_process
        self._toolchains: dict[str, Toolchain | None] = {"python": None}
        self._boxes: queue.SimpleQueue[Box | None] = queue.SimpleQueue()
        acceptable = (
            ISOLATIONS[: ISOLATIONS.index(check_isolation(floor)) + 1]
            if isolation is None
            else (check_isolation(isolation),)
        )
        self.isolation, first = self._find_strongest(acceptable)
        self._boxes.put(first)
        for _ in range(self.num_workers - 1):
            self._boxes.put(None)  # made when it is needed

    def _find_strongest(self, acceptable: tuple[Isolation, ...]) -> tuple[Isolation, Box]:
        reasons = []
        for isolation in acceptable:
            reason = explain_missing(isolation)
            if reason is None:
                try:
                    return isolation, self._try_box(isolation)
                except SandboxUnavailable as error:
                    reason = str(error)
            reasons.append(f"{isolation}: {reason}")
        raise SandboxUnavailable(
            f"untrusted programs cannot be isolated here ({'; '.join(reasons)}). Install bubblewrap, or allow user "
            'namespaces (sysctl user.max_user_namespaces); floor="limits" runs them with limits alone, where they can '
            "read your files and use the network"
        )

    def _try_box(self, isolation: Isolation) -> Box:
        """A box in which the interpreter works, as it does not where an unprivileged user cannot read its library."""
        box = self._make_box(isolation, self.limits)
        trial = CallTests(("assert f()",))
        verdict = judge_calls(box, self.limits, _TRIAL, trial)
        if not verdict.passed:
            box.close()
            raise SandboxUnavailable(f"{_TRIAL!r} fails: {verdict.message}")
        return box

    @property
    def description(self) -> str:
        """What the isolation is, in words."""
        return DESCRIPTIONS[self.isolation]

    def require_language(self, name: str) -> Toolchain | None:
        """Returns what judges programs of a language here, None for Python, after a trial.

        Raises: SandboxUnavailable if the language has no verdicts, or a tool for it is missing or does not work.
        """
        if name in self._toolchains:
            return self._toolchains[name]
        toolchain = find_toolchain(name)
        tests = StdioTests((("", "1"),), language=name)
        with closing(self._make_box(self.isolation, self.limits, toolchain)) as box:
            verdict = judge_output(box, self.limits, toolchain.language.trial, tests, toolchain, self._compile_limits)
        if not verdict.passed:
            raise SandboxUnavailable(
                f"programs in {name!r} cannot be judged here: {toolchain.language.trial!r} fails: {verdict.message}. "
                f"Install {toolchain.language.install}, where every user can read it, or raise the limits"
            )
        self._toolchains[name] = toolchain
        return toolchain

    def _make_box(self, isolation: Isolation, limits: Limits, toolchain: Toolchain | None = None) -> Box:
        is_root = os.geteuid() == 0
        language = toolchain.language if toolchain is not None else None
        # As root, every box has two users that nobody else is: the kernel counts processes by user. The number is
        # random, since hosts in other namespaces cannot be asked. In a user namespace the kernel counts by namespace,
        # and what the box itself needs is counted too.
        user = FIRST_USER + secrets.randbelow(_NUM_USERS // 2) * 2 if is_root else None
        of_roles = {"any": _list_limits(limits, language)}
        if language is not None:
            of_roles["compile"] = _list_limits(self._compile_limits, language)
            # It first unpacks what was compiled, and then lowers the limit itself.
            unpacks = replace(limits, output_bytes=max(limits.output_bytes, self._compile_limits.output_bytes))
            of_roles["execute"] = _list_limits(unpacks, language)
        settings: dict[str, Any] = {
            "host": os.getpid(),  # for who looks at the list of processes
            "user": user,
            "limits": of_roles,
        }
        view = View(self._allow_site_packages, toolchain.shown if toolchain is not None else ())
        return Box(isolation, settings, view, _name_kind(limits, toolchain))

    @contextmanager
    def _box(self, limits: Limits, toolchain: Toolchain | None = None) -> Iterator[Box]:
        box = self._boxes.get()
        try:
            if box is not None and box.kind != _name_kind(limits, toolchain):
                box.close()
                box = None
            box = box or self._make_box(self.isolation, limits, toolchain)
            yield box
        except BaseException:
            if box is not None:
                box.close()
            box = None
            raise
        finally:
            self._boxes.put(box)

    def run(self, code: str, tests: Tests) -> Verdict:
        """Runs a program against tests.

        Raises: SandboxUnavailable if the program's language cannot be judged here, or if a box breaks, which is never
            the program's doing alone.
        """
        limits = self.limits.extend(tests.cpu_seconds)
        if isinstance(tests, StdioTests):
            if tests.harness and not self._allow_one_process:
                unjudged: Outcome = "unjudged"
                return Verdict((unjudged,) * len(tests.cases), _HARNESS)
            toolchain = self.require_language(tests.language)
            with self._box(limits, toolchain) as box:
                return judge_output(box, limits, code, tests, toolchain, self._compile_limits)
        with self._box(limits) as box:
            verdict = judge_calls(box, limits, code, tests)
            if self._allow_one_process and verdict.passed is None and tests.statements:
                verdict = judge_together(box, limits, code, tests)
            return verdict

    def run_many(self, jobs: Iterable[tuple[str, Tests]]) -> Iterator[Verdict]:
        """Yields the verdict of each (program, tests), in order, `num_workers` at a time; jobs are taken as needed."""
        return self._run_all(self.run, jobs)

    def capture(self, code: str, tests: StdioTests) -> list[Capture]:
        """Runs a whole program once for the input of each test, and returns what it prints.

        Raises: SandboxUnavailable if the program's language cannot be judged here, or if a box breaks.
        """
        limits, toolchain = self.limits.extend(tests.cpu_seconds), self.require_language(tests.language)
        with self._box(limits, toolchain) as box:
            return capture_outputs(box, limits, code, tests, toolchain, self._compile_limits)

    def capture_many(self, jobs: Iterable[tuple[str, StdioTests]]) -> Iterator[list[Capture]]:
        """Yields `capture` of each (program, tests), in order, `num_workers` at a time; jobs are taken as needed."""
        return self._run_all(self.capture, jobs)

    def measure_costs(self, codes: Sequence[str], tests: Tests, *, num_rounds: int = 5) -> list[Costs | None]:
        """Returns the CPU time, in seconds, of each program for all tests, in each of `num_rounds` rounds.

        None of a program that does not pass all tests each time, or is not in Python. How: see
        `codescaler.sandbox.costs`.

        Raises: SandboxUnavailable if a box breaks.
        """
        if isinstance(tests, StdioTests) and tests.language != "python":
            return [None] * len(codes)  # most of their time is the start of a runtime
        limits = self.limits.extend(tests.cpu_seconds)
        with self._box(limits) as box:
            return measure_costs(box, limits, codes, tests, num_rounds)

    def measure_many(
        self, jobs: Iterable[tuple[Sequence[str], Tests]], *, num_rounds: int = 5
    ) -> Iterator[list[Costs | None]]:
        """Yields `costs` of each (programs, tests), in order, `num_workers` problems at a time."""
        return self._run_all(functools.partial(self.measure_costs, num_rounds=num_rounds), jobs)

    def _run_all(self, call: Callable[..., Result], jobs: Iterable[tuple[Any, Any]]) -> Iterator[Result]:
        pending: deque[Future[Result]] = deque()
        with ThreadPoolExecutor(self.num_workers, "codescaler-sandbox") as pool:
            try:
                for job in jobs:
                    pending.append(pool.submit(call, *job))
                    if len(pending) > 4 * self.num_workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Ends every box. A sandbox that has been closed makes new ones if it is used again."""
        for _ in range(self.num_workers):
            box = self._boxes.get()
            if box is not None:
                box.close()
            self._boxes.put(None)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _name_kind(limits: Limits, toolchain: Toolchain | None) -> tuple[str, int]:
    return ("python" if toolchain is None else toolchain.name, limits.cpu_seconds)


def _list_limits(limits: Limits, language: Language | None) -> dict[str, Any]:
    """Limits as a box knows them. What a language's runtime takes for itself comes on top."""
    resources = {
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_NPROC": limits.num_processes + (0 if os.geteuid() == 0 else 8),
        "RLIMIT_FSIZE": limits.output_bytes,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_STACK": 64 << 20,
        "RLIMIT_CORE": 1,  # not even into a pipe, as with 0
    }
    if language is not None:
        resources["RLIMIT_DATA"] = limits.memory_bytes  # without what is reserved and never written
        resources["RLIMIT_AS"] += language.reserved_bytes
        resources["RLIMIT_NPROC"] += language.num_threads
    return {"wall_seconds": limits.wall_seconds, "scratch_bytes": limits.scratch_bytes, "resources": resources}
