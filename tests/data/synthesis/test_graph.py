"""The graph against loops over pairs, and walks against the distribution that the formula gives."""

import itertools
import json
import math
import random

import numpy as np
import pytest

from codescaler.data.synthesis.concepts import Seed
from codescaler.data.synthesis.graph import build_graph, make_graph_records, read_graph
from codescaler.data.synthesis.walk import compute_transitions, walk_graph
from codescaler.errors import InvalidInput


def make_seeds(seed, count=40):
    source = random.Random(seed)
    words = [f"c{number}" for number in range(9)]
    seeds = []
    for number in range(count):
        chosen = source.sample(words, source.randint(0, 5))
        split = source.randint(0, len(chosen))
        difficulty = source.choice([None, 1.0, 2.0, 3.5, 5.0])
        seeds.append(Seed(f"s/{number}", "p", tuple(chosen[:split]), tuple(chosen[split:]), difficulty))
    return seeds


@pytest.mark.parametrize("seed, alpha, epsilon", [(0, 0.5, 1e-6), (1, 0.0, 1e-6), (2, 1.0, 0.5), (3, 0.2, 1.0)])
def test_weights_are_those_of_the_formula(seed, alpha, epsilon):
    seeds = make_seeds(seed)
    graph = build_graph(seeds, alpha=alpha, epsilon=epsilon)
    known = [item.difficulty for item in seeds if item.difficulty is not None]
    concepts = sorted({concept for item in seeds for concept in item.concepts})
    assert sorted(graph) == concepts
    num_edges = 0
    for u, v in itertools.combinations(concepts, 2):
        both = [item for item in seeds if u in item.concepts and v in item.concepts]
        assert graph.has_edge(u, v) is bool(both)
        if both:
            num_edges += 1
            of_pair = [item.difficulty for item in both if item.difficulty is not None]
            mean = sum(of_pair) / len(of_pair) if of_pair else sum(known) / len(known)
            weight = math.log(alpha * len(both) + (1 - alpha) * mean + epsilon)
            assert graph[u][v]["weight"] == pytest.approx(weight, rel=1e-14)
    assert graph.number_of_edges() == num_edges > 10
    topics = {topic for item in seeds for topic in item.topics}
    assert {concept for concept in graph if graph.nodes[concept]["kind"] == "topic"} == topics


def test_a_graph_comes_back_from_its_file(tmp_path):
    graph, path = build_graph(make_seeds(4)), tmp_path / "graph.jsonl"
    records = make_graph_records(graph)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert make_graph_records(read_graph(path)) == records
    path.write_text(json.dumps(records[0]))
    with pytest.raises(InvalidInput, match="give the whole file"):
        read_graph(path)
    for change in ({"edges": [["a", 1, 2]]}, {"kind": "word"}, {"concept": None}, {"edges": [["a", 1, 2, "3"]]}):
        path.write_text(json.dumps(records[0] | change))
        with pytest.raises(InvalidInput, match="line 1 is not a line of `codescaler data synth graph`"):
            read_graph(path)


def test_a_step_follows_the_weights():
    graph = build_graph(make_seeds(5))
    for concept in graph:
        masses = {other: math.exp(graph[concept][other]["weight"]) for other in graph.adj[concept]}
        expected = {other: mass / sum(masses.values()) for other, mass in masses.items()}
        assert compute_transitions(graph, concept) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_steps", [1, 3, 6])
def test_walks_follow_the_chain(num_steps):
    """Chi-square of the last concept over 20,000 walks, beside the powers of the matrix of transitions."""
    graph, count = build_graph(make_seeds(6)), 20_000
    concepts = sorted(graph)
    topics = [concept for concept in concepts if graph.nodes[concept]["kind"] == "topic"]
    matrix = np.array([[compute_transitions(graph, u).get(v, 0.0) for v in concepts] for u in concepts])
    start = np.array([concept in topics for concept in concepts]) / len(topics)
    expected = count * start @ np.linalg.matrix_power(matrix, num_steps)
    ends = [walk["path"][-1] for walk in walk_graph(graph, count, seed=1, num_steps=num_steps)]
    seen = np.array([ends.count(concept) for concept in concepts])
    statistic = float(((seen - expected) ** 2 / expected)[expected > 0].sum())
    assert statistic < 26.1  # the quantile of 0.999 with 8 degrees of freedom


def test_a_walk_depends_on_its_number_alone():
    graph = build_graph(make_seeds(7))
    walks = list(walk_graph(graph, 50, seed=2))
    assert walks[:10] == list(walk_graph(graph, 10, seed=2))
    assert walks != list(walk_graph(graph, 50, seed=3))
    assert all(len(walk["path"]) == 7 for walk in walks)
    assert all(sorted(walk["concepts"]) == sorted(set(walk["path"])) for walk in walks)
    assert all(graph.has_edge(u, v) for walk in walks for u, v in itertools.pairwise(walk["path"]))


def test_a_concept_alone_ends_its_walk_and_frequency_decides_by_alpha():
    lonely = build_graph([Seed("a", "p", ("x",), ())])
    assert next(walk_graph(lonely, 1))["path"] == ["x"]
    seeds = [Seed(f"e/{n}", "p", ("x", "often"), (), 1.0) for n in range(9)] + [Seed("h", "p", ("x", "hard"), (), 5.0)]
    chances = [compute_transitions(build_graph(seeds, alpha=alpha), "x")["hard"] for alpha in (0, 0.5, 1)]
    assert chances == pytest.approx([5 / 6, 3 / 8, 1 / 10], abs=1e-5)


@pytest.mark.parametrize("alpha, epsilon", [(-0.1, 1), (1.1, 1), (0.5, 0), (0.5, math.inf), (math.nan, 1)])
def test_settings_that_make_no_weights_are_refused(alpha, epsilon):
    with pytest.raises(InvalidInput, match="give an alpha from 0 to 1, and a positive epsilon"):
        build_graph([], alpha=alpha, epsilon=epsilon)


@pytest.mark.parametrize("count, num_steps", [(0, 6), (1, 0), (1, 7)])
def test_walks_that_cannot_be_are_refused(count, num_steps):
    with pytest.raises(InvalidInput, match="give at least one walk, of 1 to 6 steps"):
        list(walk_graph(build_graph([Seed("a", "p", ("x",), ())]), count, num_steps=num_steps))


def test_a_graph_without_topics_has_no_walk():
    with pytest.raises(InvalidInput, match="no topic to start at"):
        list(walk_graph(build_graph([Seed("a", "p", (), ("x", "y"))]), 1))
