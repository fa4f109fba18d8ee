"""Calls are read from tests as people write them."""

import pytest

from codescaler.data.execution.examples import read_examples
from codescaler.data.execution.outputs import Interface
from codescaler.types import CallTests


@pytest.mark.parametrize(
    "statements, calls, names",
    [
        (("assert f(1, [2]) == 3", "assert f(x, 2) == 1", "assert not f(4, [5])"), [(1, [2]), (4, [5])], ()),
        (("c = f\nassert c(1, b=2) == 3", "c = f\nassert c(3, b='x') == 3"), [(1, 2), (3, "x")], ("b",)),
        (("assert f(a=1) == 3", "assert f(b=1) == 3", "assert f(1) == 1"), [(1,)], ("a",)),
        (("assert f(f(1)) == 3", "assert g(1) == 2", "f(**{'a': 1})", "f("), None, None),
    ],
)
def test_calls_of_functions(statements, calls, names):
    examples = read_examples(CallTests(statements, ("f",)), Interface("f"))
    assert (examples and (list(examples.calls), examples.names)) == (calls and (calls, names))


def test_calls_of_methods():
    bound = CallTests(("c = Solution().g\nassert c(nums=[1], k=2) == 3",), ("Solution",), classes=("Solution",))
    examples = read_examples(bound, Interface("Solution().g"))
    assert examples.calls == (([1], 2),) and examples.write(([3], 4)) == "nums=[3], k=4"
    direct = CallTests(("assert Solution().g([1], 2) == 3",), ("Solution",), classes=("Solution",))
    assert read_examples(direct, Interface("Solution().g")).write(([3], 4)) == "[3], 4"
