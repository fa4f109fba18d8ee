"""The graph of concepts that occur in the same seed problem, weighted by frequency and difficulty.

    w(u, v) = log(alpha * frequency(u, v) + (1 - alpha) * difficulty(u, v) + epsilon)

`frequency` is the number of seeds with both concepts, `difficulty` the mean difficulty of these seeds, from 1 to 5.
Seeds of unknown difficulty do not count in the mean. Where all are, the mean of the whole file stands in, and 3 if that
is unknown too. Source: QueST, arXiv 2510.17715. alpha and epsilon are not published. Our alpha of 0.5 lets a pair that
occurs often win over a difficult pair, and still doubles the chance of a rare difficult pair beside a rare easy one.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import networkx

from codescaler.data.synthesis import ALPHA, EPSILON
from codescaler.data.synthesis.concepts import LEAST, MOST, Seed
from codescaler.errors import InvalidInput
from codescaler.io.records import read_lines

Kind = Literal["topic", "knowledge_point"]
Graph = Any  # networkx.Graph, which has no types


def build_graph(seeds: Sequence[Seed], *, alpha: float = ALPHA, epsilon: float = EPSILON) -> Graph:
    """The graph of all concepts of some seeds. A concept that is a topic of one seed is a topic.

    Raises: InvalidInput if alpha is not from 0 to 1, or epsilon is not positive.
    """
    if not 0 <= alpha <= 1 or not 0 < epsilon < math.inf:
        raise InvalidInput(f"alpha {alpha} and epsilon {epsilon}; give an alpha from 0 to 1, and a positive epsilon")
    known = [seed.difficulty for seed in seeds if seed.difficulty is not None]
    typical = sum(known) / len(known) if known else (LEAST + MOST) / 2
    graph = networkx.Graph()
    difficulties: dict[tuple[str, str], list[float]] = {}
    frequencies: Counter[tuple[str, str]] = Counter()
    topics = {topic for seed in seeds for topic in seed.topics}
    for concept, count in sorted(Counter(concept for seed in seeds for concept in seed.concepts).items()):
        graph.add_node(concept, kind="topic" if concept in topics else "knowledge_point", count=count)
    for seed in seeds:
        for pair in combinations(sorted(seed.concepts), 2):
            frequencies[pair] += 1
            difficulties.setdefault(pair, []).extend([] if seed.difficulty is None else [seed.difficulty])
    for pair, frequency in sorted(frequencies.items()):
        values = difficulties[pair]
        difficulty = math.fsum(values) / len(values) if values else typical
        weight = math.log(alpha * frequency + (1 - alpha) * difficulty + epsilon)
        graph.add_edge(*pair, frequency=frequency, difficulty=difficulty, weight=weight)
    return graph


def make_graph_records(graph: Graph) -> list[dict[str, Any]]:
    """A record for each concept, with all of its edges: [other concept, frequency, mean difficulty, weight]."""
    return [
        {
            "concept": concept,
            **graph.nodes[concept],
            "edges": [
                [other, edge["frequency"], edge["difficulty"], edge["weight"]]
                for other, edge in sorted(graph.adj[concept].items())
            ],
        }
        for concept in sorted(graph)
    ]


def read_graph(path: Path) -> Graph:
    """The graph of a file of `make_graph_records`. Raises: InvalidInput if a line is of another kind."""
    graph = networkx.Graph()
    for name, _, record in read_lines(path):
        if not _is_sound(record):
            raise InvalidInput(f"{name} is not a line of `codescaler data synth graph`; give the file that it wrote")
        graph.add_node(record["concept"], kind=record["kind"], count=record["count"])
        for other, frequency, difficulty, weight in record["edges"]:
            graph.add_edge(record["concept"], other, frequency=frequency, difficulty=difficulty, weight=weight)
    if any("kind" not in graph.nodes[concept] for concept in graph):
        raise InvalidInput(f"{path} names concepts in edges that have no line; give the whole file")
    return graph


def _is_sound(record: Mapping[str, Any]) -> bool:
    edges = record.get("edges")
    return (
        isinstance(record.get("concept"), str)
        and record.get("kind") in ("topic", "knowledge_point")
        and isinstance(record.get("count"), int)
        and isinstance(edges, list)
        and all(
            isinstance(edge, list)
            and len(edge) == 4
            and isinstance(edge[0], str)
            and all(type(number) in (int, float) for number in edge[1:])
            for edge in edges
        )
    )
