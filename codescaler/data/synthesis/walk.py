"""Random walks over the graph of concepts: which concepts a new problem is to combine.

A walk starts at a topic, each with the same chance. A step goes from u to v with p(v | u) = exp(w(u, v)) / sum of
exp(w(u, x)) over all neighbours x. Source: QueST, arXiv 2510.17715.
"""

import math
import random
from collections.abc import Iterator
from typing import Any

from codescaler.data.synthesis import MAX_STEPS
from codescaler.data.synthesis.graph import Graph
from codescaler.errors import InvalidInput


def compute_transitions(graph: Graph, concept: str) -> dict[str, float]:
    """The chance of each neighbour to be the next. Empty for a concept without neighbours."""
    weights = {other: edge["weight"] for other, edge in sorted(graph.adj[concept].items())}
    if not weights:
        return {}
    largest = max(weights.values())
    masses = {other: math.exp(weight - largest) for other, weight in weights.items()}
    total = math.fsum(masses.values())
    return {other: mass / total for other, mass in masses.items()}


def walk_graph(graph: Graph, count: int, *, seed: int = 0, num_steps: int = MAX_STEPS) -> Iterator[dict[str, Any]]:
    """Yields `count` walks of `num_steps` steps, fewer where a concept has no neighbour.

    A walk's own generator depends on `seed` and its number. So the first walks of a longer run are those of a short
    one. `concepts` are the distinct ones of the `path`, in order.

    Raises: InvalidInput if the graph has no topic, or a number is too small or too large.
    """
    if count < 1 or not 1 <= num_steps <= MAX_STEPS:
        raise InvalidInput(f"{count} walks of {num_steps} steps; give at least one walk, of 1 to {MAX_STEPS} steps")
    topics = sorted(concept for concept in graph if graph.nodes[concept]["kind"] == "topic")
    if not topics:
        raise InvalidInput("the graph has no topic to start at; give seeds with topics or tags")
    chances = {concept: compute_transitions(graph, concept) for concept in graph}
    for number in range(count):
        source = random.Random(f"{seed}|{number}")
        path = [source.choice(topics)]
        while len(path) <= num_steps and (next_chances := chances[path[-1]]):
            path += source.choices(list(next_chances), list(next_chances.values()))
        yield {"task_id": f"walk/{seed}/{number:06}", "concepts": list(dict.fromkeys(path)), "path": path}
