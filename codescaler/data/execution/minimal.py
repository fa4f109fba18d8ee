"""The fewest tests that still reject what all tests reject. Knows outcomes only."""

from collections.abc import Collection, Mapping, Sequence


def choose_minimal_tests(kills: Sequence[Collection[int]]) -> list[int]:
    """Places of tests that together reject every program that any test rejects; `kills` has the programs of each test.

    Greedy: the test that rejects the most programs not rejected yet comes next, of equals the first. A test is dropped
    again if the later ones made it needless. Greedy takes at most ln(n) + 1 times as many as the fewest there are, and
    never more than there are different columns.
    """
    left = set().union(*kills)
    chosen: list[int] = []
    while left:
        best = max(range(len(kills)), key=lambda place: len(left.intersection(kills[place])))
        chosen.append(best)
        left.difference_update(kills[best])
    for place in chosen.copy():
        others = set().union(*(kills[other] for other in chosen if other != place))
        if others.issuperset(kills[place]):
            chosen.remove(place)
    return sorted(chosen)


def count_error_patterns(outcomes: Mapping[int, Collection[int]]) -> int:
    """The number of different sets of tests by which programs are rejected, the empty one left out."""
    return len({frozenset(tests) for tests in outcomes.values() if tests})
