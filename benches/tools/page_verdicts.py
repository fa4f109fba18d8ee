"""The sections of docs/benchmarks.md on verdicts: labels, plain Python beside them, votes, delta."""

from collections.abc import Iterator, Mapping
from typing import Any

from benches.tools.page_tables import (
    describe_setting,
    format_estimate,
    format_gain,
    format_percent,
    format_table,
    load_result,
)

SUITES = {"MBPP": "suites_mbpp", "LeetCode, easy": "suites_leetcode"}


def write_verdicts() -> Iterator[str]:
    """Yields the sections in order."""
    yield from _write_labels()
    yield from _write_judging()
    yield from _write_suites()
    yield from _write_voted_labels()
    yield from _write_delta()


def _write_labels() -> Iterator[str]:
    result, read = load_result("labels_mbpp"), load_result("labels_mbpp_read")
    labels, tests, throughput = result["labels"], result["tests"], result["throughput"]
    first, three = tests["pass the first test"], tests["pass all three, on problems with generated tests"]
    made, costs = tests["generated"], result["efficiency"]
    yield "## Labels of the sandbox\n"
    yield (
        f"`python benches labels MBPP GROUPS`: {labels['num_programs']:,} distinct programs for MBPP with labels of "
        "another harness, in which `heapq` could not be imported. All disagreements "
        "are in [labels_mbpp.txt](../benches/results/labels_mbpp.txt).\n"
    )
    heapq, differ = labels["differ_and_use_heapq"], labels["differ"]
    refused = made["refused_by_the_reference"] / (made["refused_by_the_reference"] + made["num_tests"])
    kinds = [(kind, value) for kind, value in read.items() if isinstance(value, dict)]
    rows: list[list[object]] = [
        ["verdict of the sandbox is the label", f"{100 * labels['agreement']:.1f}%"],
        ["other verdicts; of them pass here and use `heapq`", f"{differ}; {heapq}"],
        ["programs with a passing label that use `heapq`", labels["label_passed_and_use_heapq"]],
        [
            "pass the first of three tests, and fail another",
            f"{first['fail another of the three']} of {first['num_programs']:,}",
        ],
        [
            "generated tests; problems; refused by the reference",
            f"{made['num_tests']:,}; {made['num_problems']}; {format_percent(refused)}",
        ],
        ["pass all three tests, and fail a generated test", f"{three['fail']} of {three['num_programs']:,}"],
        [
            "problems with such a program",
            f"{three['problems_with_one_that_fails']} of {three['num_problems']}",
        ],
        *([f"a person read them: {kind}", _format_read(value)] for kind, value in kinds),
        [
            "passing programs of problems with challenge tests",
            tests["pass all three, on problems with challenge tests"]["num_programs"],
        ],
        ["preferences by cost, in two runs", " and ".join(str(number) for number in costs["preferences"])],
        [
            "their programs have the same order in the other run",
            f"{100 * costs['share_in_the_same_order_in_the_other_run']:.1f}%",
        ],
        [
            "preferences of both runs; opposite ones",
            f"{costs['preferences_of_both']}; {costs['preferences_of_one_that_the_other_turns']}",
        ],
        [
            f"programs per second, {throughput['num_programs']:,} programs, {throughput['num_workers']} workers, "
            "beside another job",
            f"{throughput['programs_per_second']:.0f}",
        ],
        [
            "processes and files left behind",
            len(throughput["processes_left"]) + len(throughput["files_left"]),
        ],
    ]
    yield format_table(["what", "measured"], rows)


def _format_read(kind: Mapping[str, Any]) -> str:
    return f"{len(kind['problems'])} problems, {kind['num_programs']} programs"


def _write_judging() -> Iterator[str]:
    figures = load_result("judging_published")["figures"]
    yield "## Verdicts beside plain Python\n"
    yield (
        "`python benches judging FOLDER`, on published sets. Of references, those count that plain Python passes. Of "
        "mutants, those count that plain Python fails. Of some sets, a part was measured.\n"
    )
    names = ("plain passes", "passed", "failed", "unjudged", "plain fails", "caught")
    rows = [[name.rpartition("/")[2], *(figure[key] for key in names)] for name, figure in figures.items()]
    header = ["set", "plain Python passes", "pass here", "fail here", "unjudged", "plain Python fails", "wrong here"]
    yield format_table(header, rows)


def _write_suites() -> Iterator[str]:
    yield "## Suites by vote\n"
    yield (
        "`python benches suites TASKS GROUPS`: suites that are made without references. Samples of Qwen2.5-Coder-0.5B "
        "vote. At least 30% of the samples of each problem pass. The suites judge programs with known labels: samples "
        "that did not vote, the references, and mutants. *As written* is what `codescaler data synth suites` gives. "
        "The other rows are of all tests that the votes give. *TPR* is the share of correct programs that pass, and "
        "*TNR* that of incorrect programs that fail. A *minimal* suite rejects the same programs.\n"
    )
    for title, name in SUITES.items():
        yield from _write_suites_of(title, load_result(name))


def _write_suites_of(title: str, result: Mapping[str, Any]) -> Iterator[str]:
    titles = {
        "written": "as written, the fewest tests and at least five, of 7 voters",
        "by_agreement": "least agreement on a problem, of 7 voters",
        "by_share": "least share of the majority, of 7 voters",
        "by_voters": "voters, at the default least share",
        "by_accuracy": "samples that pass, of 7 voters",
    }
    yield f"{title}, {result['problems']} problems:\n"
    header = ["problems", "without a suite", "TPR", "TNR", "tests of a suite", "of a minimal suite"]
    names = ("problems", "without_suite", "TPR", "TNR", "tests_of_a_suite", "minimal_tests_of_a_suite")
    for key, label in titles.items():
        rows = [
            [value, *(_format_rate(rates[name]) for name in names)]
            for value, rates in result[key].items()
            if rates["problems"]
        ]
        yield format_table([label, *header], rows)


def _write_voted_labels() -> Iterator[str]:
    result = load_result("voted_labels_mbpp")
    labels = result["labels"]
    wrong = labels["correct_voted_incorrect"] + labels["incorrect_voted_correct"]
    yield "## A reward model from votes beside one from tests\n"
    yield (
        "`python benches voted_labels BASE GROUPS VOTED POOL`: a head on frozen features of the first 14 layers of "
        "Qwen2.5-Coder-0.5B is fitted to labels of real tests, and to those of suites by vote. Both have the same "
        f"{labels['programs']:,} programs of {labels['problems']} problems. "
        f"{format_percent(wrong / labels['programs'])} of the labels differ: "
        f"{labels['correct_voted_incorrect']} correct programs are voted incorrect, and "
        f"{labels['incorrect_voted_correct']} incorrect ones correct. A pool has problems that neither head saw. "
        f"{describe_setting(result)}\n"
    )
    yield format_table(
        ["pool", "problems", "real tests: correct pairs, %", "votes", "votes over real tests"],
        [
            [
                name,
                pool["num_problems"],
                *(format_estimate(pool[key]) for key in ("real", "voted")),
                format_gain(**pool["voted_over_real"]),
            ]
            for name, pool in result["pools"].items()
        ],
    )


def _write_delta() -> Iterator[str]:
    result = load_result("delta_leetcode")
    spearman = {name: format_estimate(estimate, 1, 2) for name, estimate in result["spearman"].items()}
    yield "## Difficulty without tests\n"
    yield (
        f"`python benches delta TASKS GROUPS`: {result['problems']} problems of LeetCode, 8 samples of "
        "Qwen2.5-Coder-0.5B each. *Delta* is 1 minus the mean share of the majority output, and needs no test. "
        f"Spearman's correlation with the published level is {spearman['delta, level']} for delta, and "
        f"{spearman['fails, level']} for the share of samples that fail the tests. Of the two it is "
        f"{spearman['delta, fails']}.\n"
    )
    rows = [
        [level, of["problems"], format_estimate(of["delta"]), format_estimate(of["fails"])]
        for level, of in result["levels"].items()
    ]
    yield format_table(["level", "problems", "delta, %", "samples that fail, %"], rows)


def _format_rate(value: float | int | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}"
