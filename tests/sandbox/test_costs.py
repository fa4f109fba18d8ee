"""What programs cost: the order of things that differ by much, whatever else the machine does."""

from statistics import median

from codescaler.types import CallTests, StdioTests

CALLS = CallTests(("assert f(list(range(400))) == 79800", "assert f([]) == 0"), ("f",))


def test_calls(sandbox):
    codes = [
        "def f(x): return sum(x)",
        "def f(x):\n    total = 0\n    for i in x:\n        for _ in range(20): pass\n        total += i\n"
        "    return total",
        "def f(x): return 1",
        # What it remembers of one repetition does not help in the next.
        "known = {}\ndef f(x):\n    if len(x) not in known:\n        for _ in range(10000): pass\n"
        "        known[len(x)] = sum(x)\n    return known[len(x)]",
        "import itertools\nstate = itertools.count()\ndef f(x):\n    x.reverse()\n    return sum(x)",
    ]
    quick, slow, wrong, remembers, changes = sandbox.measure_costs(codes, CALLS, num_rounds=3)
    assert wrong is None
    assert len(quick) == 3
    assert max(quick) < min(slow) < 0.1
    assert max(quick) < min(remembers)
    assert 0 < median(changes) < 0.01


def test_objects_and_methods(sandbox):
    prelude = "class Node:\n    def __init__(self, x): self.x = x\n"
    tests = CallTests(("assert Solution().f(Node(3), k=2).x == 6",), ("Solution",), prelude, classes=("Solution",))
    (cost,) = sandbox.measure_costs(
        ["class Solution:\n    def f(self, node, k): return Node(node.x * k)"], tests, num_rounds=2
    )
    assert 0 < median(cost) < 0.01


def test_a_program_that_is_correct_once_has_no_cost(sandbox):
    code = "import os\ndef f(x):\n    if os.path.exists('seen'): os._exit(0)\n    open('seen', 'w').close()\n"
    code += "    return sum(x)"
    assert sandbox.measure_costs([code], CALLS) == [None]


def test_output(sandbox):
    tests = StdioTests((("3\n", "6\n"),))
    quick, slow, wrong = sandbox.measure_costs(
        ["print(6)", "for _ in range(3_000_000): pass\nprint(6)", "print(5)"], tests, num_rounds=3
    )
    assert wrong is None
    assert max(quick) < min(slow)


def test_problems_come_in_order(sandbox):
    jobs = [(["def f(x): return sum(x)"] * n, CALLS) for n in (1, 2)]
    assert [len(costs) for costs in sandbox.measure_many(jobs, num_rounds=1)] == [1, 2]
