"""Preferences by what radon and ruff say of programs that passed. Parses programs, runs none.

No single measure is trusted: lines and tokens fall when a program is golfed, and branches hide in comprehensions and
lambdas. So a pair is kept only where all measures agree, two of them by a clear gap (`RULE`). What is left are mostly
loops and chains of `if` beside the builtin that does the same.
"""

import ast
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version

from codescaler.data.prefer.preference import Preference, make_preference
from codescaler.data.programs import LabelledProblem
from codescaler.errors import InvalidInput
from codescaler.text.edits import is_text
from codescaler.text.extract import parse_syntax_tree

MIN_COMPLEXITY_GAP = 2
MIN_MAINTAINABILITY_GAP = 10.0
MAX_LINE_CHARS = 100
# What a reader trips over and a formatter does not fix: long lines, several statements in one, unused and shadowed
# names, likely bugs, what has a plainer form. No rule on names of functions, which tests dictate, nor on whitespace.
# B905 and E741 are matters of taste: zip without strict, and a variable l.
RUFF_RULES = "A,B,C4,E501,E7,F,PERF,SIM"
RUFF_IGNORED = "B905,E741"
RULE = (
    f"of two programs that passed every test, chosen's cyclomatic complexity is lower by {MIN_COMPLEXITY_GAP} or more, "
    "both with and without what comprehensions add, and no deeper nested; its maintainability index (comments aside) "
    f"is higher by {MIN_MAINTAINABILITY_GAP:.0f} or more; and ruff finds no more in it ({RUFF_RULES} without "
    f"{RUFF_IGNORED})"
)


@dataclass(frozen=True)
class Measures:
    """What is measured of a program.

    Attributes:
        complexity: radon's cyclomatic complexity of the whole.
        plain_complexity: the same without comprehensions, of which each `for` and `if` counts one there, while `filter`
            and a lambda would do the same for nothing.
        nesting: of functions, blocks, comprehensions, lambdas and conditional expressions.
        maintainability: radon's index, 0 to 100, as if there were no comment and no docstring.
        findings: ruff's, by their codes.
    """

    complexity: int
    plain_complexity: int
    nesting: int
    maintainability: float
    findings: tuple[str, ...]


def is_clearly_more_readable(chosen: Measures, rejected: Measures) -> bool:
    """Whether `RULE` holds."""
    return (
        chosen.complexity + MIN_COMPLEXITY_GAP <= rejected.complexity
        and chosen.plain_complexity + MIN_COMPLEXITY_GAP <= rejected.plain_complexity
        and chosen.nesting <= rejected.nesting
        and chosen.maintainability >= rejected.maintainability + MIN_MAINTAINABILITY_GAP
        and len(chosen.findings) <= len(rejected.findings)
    )


class Readability:
    """Measures programs, each once; `num_unmeasured` counts those that radon or ruff cannot read.

    Raises: InvalidInput if radon or ruff is not installed.
    """

    def __init__(self) -> None:
        try:
            import radon  # noqa: F401
            from ruff import find_ruff_bin
        except ImportError as error:
            raise InvalidInput(
                f"readability needs radon and ruff ({error}); run: pip install 'codescaler[data]'"
            ) from error
        self._ruff = find_ruff_bin()
        self._measures: dict[str, Measures | None] = {}
        self.versions = {"radon": version("radon"), "ruff": version("ruff"), "python": sys.version.split()[0]}

    @property
    def num_unmeasured(self) -> int:
        """The number of programs that could not be measured, and are in no preference."""
        return sum(measures is None for measures in self._measures.values())

    def measure(self, code: str) -> Measures | None:
        """What is measured of a program, None where it cannot be."""
        if code not in self._measures:
            self._measures[code] = self._measure_program(code)
        return self._measures[code]

    def list_preferences(self, problem: LabelledProblem) -> Iterator[Preference]:
        """Yields every pair of programs that passed of which one is clearly more readable."""
        measured = [(program, self.measure(program.code)) for program in problem.programs if program.passed]
        for chosen, good in measured:
            for rejected, bad in measured:
                if good and bad and is_clearly_more_readable(good, bad):
                    evidence = {
                        "rule": "all measures agree",
                        "chosen": asdict(good),
                        "rejected": asdict(bad),
                        "versions": self.versions,
                    }
                    yield make_preference(problem, chosen, rejected, "readability", evidence)

    def _measure_program(self, code: str) -> Measures | None:
        from radon.metrics import mi_compute, mi_parameters
        from radon.visitors import ComplexityVisitor

        tree = parse_syntax_tree(code)
        if tree is None:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a literal such as "\d", which radon parses again
                complexity = ComplexityVisitor.from_ast(tree).total_complexity
                volume, branches, lines, _ = mi_parameters(code)
            # radon lifts the index by up to 50 for comments, even when told to leave out those of several lines.
            lines -= sum(map(is_text, ast.walk(tree)))
            maintainability = mi_compute(volume, branches, lines, 0.0)
            hidden = sum(1 + len(node.ifs) for node in ast.walk(tree) if isinstance(node, ast.comprehension))
            findings = self._find_findings(code)
            if findings is None:
                return None
            return Measures(
                complexity, complexity - hidden, _measure_nesting(tree), round(maintainability, 2), findings
            )
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None

    def _find_findings(self, code: str) -> tuple[str, ...] | None:
        command = [
            self._ruff, "check", "-", "--isolated", "--no-cache", "--quiet", "--exit-zero", "--ignore-noqa",
            "--output-format=json", "--stdin-filename=program.py", "--target-version=py310",
            f"--select={RUFF_RULES}", f"--ignore={RUFF_IGNORED}", f"--line-length={MAX_LINE_CHARS}",
        ]  # fmt: skip
        run = subprocess.run(command, input=f"{code}\n".encode(), capture_output=True, check=False)
        if run.returncode:
            raise InvalidInput(f"{self._ruff} failed: {run.stderr.decode(errors='replace')[:300]}; reinstall ruff")
        codes = [finding["code"] for finding in json.loads(run.stdout)]
        return tuple(sorted(codes)) if all(_is_rule(code) for code in codes) else None


def _is_rule(code: str | None) -> bool:
    return code is not None and code != "invalid-syntax"


_NESTING = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.With,
    ast.AsyncWith, ast.Try, ast.Match, ast.comprehension,
)  # fmt: skip


def _measure_nesting(node: ast.AST) -> int:
    """How deep blocks lie in one another; the `if` of an `elif` counts as another level, as it is in the tree."""
    inner = max(map(_measure_nesting, ast.iter_child_nodes(node)), default=0)
    return inner + isinstance(node, _NESTING)
