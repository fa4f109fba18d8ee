"""The sections of docs/benchmarks.md on reading and on language models as rankers."""

import itertools
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

MODELS = {"SmolLM2-135M": "smollm2_135m", "Qwen2.5-Coder-0.5B": "qwen2.5_coder_0.5b"}
POOLS = {
    "": "MBPP validation, programs of Qwen2.5-Coder-0.5B",
    "_foreign": "MBPP validation, programs of other models and prompts",
    "_leetcode": "easy problems of LeetCode, of which nano has seen many, programs of Qwen2.5-Coder-0.5B",
}
LIKELIHOODS = {
    "smollm2": "log-likelihood of SmolLM2-135M",
    "qwen": "log-likelihood of Qwen2.5-Coder-0.5B, which wrote the first pool",
}
SPEEDS = ("likelihood_bon8_0.6b_bfloat16",)


def write_ranking() -> Iterator[str]:
    """Yields the sections in order."""
    yield from _write_reading()
    yield from _write_reading_student()
    yield from _write_likelihoods()
    yield from _write_likelihood_speed()
    yield from _write_best_of_n_latency()
    yield from _write_policies()


def _write_reading() -> Iterator[str]:
    figures = load_result("reading_nano")["figures"]
    nano = figures["scorers"]["nano"]
    yield "## Does nano read the problem\n"
    yield (
        f"`codescaler eval reading` on {figures['num_problems']} problems of MBPP validation, {figures['num_mixed']} "
        f"of them with a correct and an incorrect program.\n\n{nano['verdict'].replace('nano', 'Nano', 1)}\n"
    )
    rows = [
        ["pairs ranked correctly, own text", format_estimate(nano["pair_accuracy_own"])],
        ["pairs ranked correctly, another problem's text", format_estimate(nano["pair_accuracy_swapped"])],
        ["correlation of scores after both texts", format_estimate(nano["correlation"], 1, 3)],
    ]
    rows += [
        [f"a correct program before: {kind}", _format_known(estimate)] for kind, estimate in nano["before"].items()
    ]
    yield format_table(["", "nano"], rows)


def _write_reading_student() -> Iterator[str]:
    figures = load_result("reading_student")["figures"]
    scorers = figures["scorers"]
    columns = {name: scorers[name] for name in ("teacher", "student", "nano")}
    yield "## Reward models that read the problem\n"
    yield (
        "`make -f benches/reading.mk DATA=FOLDER figures`. The teacher is the first 14 layers of Qwen2.5-Coder-0.5B "
        "with LoRA (`benches/small.mk`). The student is a narrower copy of it in 47 MB. Both were trained with "
        "programs that do not answer the problem. Neither is in the package. "
        f"Reading is measured on {figures['num_problems']} problems of MBPP validation, with programs of three "
        "samplings.\n"
    )
    all_three = columns.values()
    rows = [
        ["correlation of scores after both texts", *(format_estimate(one["correlation"], 1, 3) for one in all_three)],
        ["pairs ranked correctly, own text", *(format_estimate(one["pair_accuracy_own"]) for one in all_three)],
        ["the same, another problem's text", *(format_estimate(one["pair_accuracy_swapped"]) for one in all_three)],
        ["the fall", *(format_estimate(one["fall"]) for one in all_three)],
    ]
    rows += [
        [f"a correct program before: {kind}", *(_format_known(one["before"][kind]) for one in all_three)]
        for kind in columns["nano"]["before"]
    ]
    yield format_table(["", *columns], rows)
    for pool, title in (("mbpp", "the sampler whose programs were learned from"), ("foreign", "other samplers")):
        result = load_result(f"student_{pool}")["figures"]
        yield f"Programs of {title}: {result['num_mixed']} problems have a correct and an incorrect program.\n"
        yield format_table(
            ["scorer", "pairs ranked correctly", "of programs that define", "best of N is correct"],
            [
                [
                    LIKELIHOODS.get(name, name),
                    format_estimate(values["pair_accuracy"]),
                    _format_known(values["pair_accuracy_defining"]),
                    format_estimate(values["best_of_n_on_mixed"][-1]),
                ]
                for name, values in result["scorers"].items()
            ],
        )


def _write_likelihoods() -> Iterator[str]:
    yield "## Language models as rankers\n"
    yield (
        "`python benches likelihoods MODEL GROUPS`: scorers that need no head and no training, on problems with a "
        "correct and an incorrect program. `z(a + b)` adds standardised scores. "
        "A language model may have read MBPP, and then its likelihood is a memory.\n"
    )
    for (title, model), (suffix, pool) in itertools.product(MODELS.items(), POOLS.items()):
        result = load_result(f"likelihoods_{model}{suffix}")
        figures = result["figures"]
        counts = f"{figures['num_groups']} problems, {result['num_programs']} programs"
        yield f"{title}, {result['dtypes']['language model']}, on {pool}: {counts}. {_time_programs(result)}\n"
        gains = figures["gains"]
        rows = [
            [
                scorer,
                format_estimate(values["pair_accuracy"]),
                _format_known(values["pair_accuracy_defining"]),
                format_estimate(values["best_of_n_on_mixed"][-1]),
                format_gain(**gains[scorer]["random"]["best_of_n_on_mixed"]) if scorer in gains else "",
                format_gain(**gains[scorer]["nano"]["pair_accuracy"]) if scorer in gains and scorer != "nano" else "",
            ]
            for scorer, values in figures["scorers"].items()
        ]
        head = ["scorer", "pairs ranked correctly", "of programs that define", "best of N", "over a random pick"]
        yield format_table([*head, "pairs, over nano"], rows)


def _time_programs(result: Mapping[str, Any]) -> str:
    told = [f"{name} {1000 * s / result['num_programs']:.0f} ms" for name, s in result["seconds"].items()]
    return f"A program took, on a machine with other work: {', '.join(told)}."


def _write_likelihood_speed() -> Iterator[str]:
    yield "## Speed of log-likelihoods\n"
    yield (
        "`python benches likelihood`: a padded batch of transformers computes logits for the tokens of programs alone. "
        "The reward forward is codescaler's score of the same programs, without an output layer.\n"
    )
    for name in SPEEDS:
        result = load_result(name)
        what = f"{result['workload']}, {result['shape']['num_layers']} layers, {result['dtype']}"
        yield f"{what}. {describe_setting(result)}\n"
        rows = [
            [
                system,
                f"{row['median_s']:.2f}",
                f"{row['ms_a_program']:.0f}",
                f"{row['speedup']:.2f}x",
                format_percent(row["of_peak"]),
            ]
            for system, row in result["systems"].items()
        ]
        yield format_table(["system", "seconds", "ms a program", "speed", "of peak"], rows)


def _format_known(estimate: Mapping[str, Any] | None) -> str:
    return "" if estimate is None else format_estimate(estimate)


def _write_best_of_n_latency() -> Iterator[str]:
    result = load_result("best_of_n_latency_mbpp")
    yield "## Best-of-N: scores beside tests\n"
    yield (
        f"`{result['command']} --split validation`: the same N programs ranked by each way in turn, on "
        f"{result['num_problems']} problems of MBPP validation with a correct and an incorrect program. "
        f"A group has {result['num_own']:.1f} programs of its own on average. Renamed and commented copies fill it to "
        "N, with the verdicts of their programs. All tests made the verdicts, so they are right by definition. "
        f"Each way has {result['num_threads']} thread or process. {describe_setting(result)}\n"
    )
    yield format_table(
        ["N", "way", "the best is correct, %", "seconds a problem", "time of all tests"],
        [
            [
                num,
                name,
                format_estimate(way["accuracy"]),
                "" if way["seconds"] is None else f"{way['seconds']['mean']:.2f}",
                ""
                if way["seconds"] is None
                else f"{way['seconds']['mean'] / ways['all tests']['seconds']['mean']:.1f}x",
            ]
            for num, ways in result["sizes"].items()
            for name, way in ways.items()
        ],
    )
    yield (
        "MBPP has three short asserts a problem. So the time of tests is that of starting a process in the sandbox. "
        "Tests that compute for seconds change this, and so does a GPU for the model.\n"
    )


def _write_policies() -> Iterator[str]:
    result = load_result("policies_qwen2.5_coder_0.5b")
    runs = {run["run"]: run for run in result["runs"]}
    base = runs["base"]
    yield "## A policy after a round of rejection sampling\n"
    yield (
        "`make rl-demo`, then `python benches policies`: Qwen2.5-Coder-0.5B-Instruct, before and after. "
        f"{result['recipe']} Avg@{base['num_samples']} is the share of samples that pass all tests, on "
        f"{base['num_problems']} problems of MBPP validation. Gains are paired by problem. {describe_setting(result)}\n"
    )
    yield format_table(
        ["run", f"Avg@{base['num_samples']}, %", "over the policy before", "over validity", "valid", "characters"],
        [
            [
                f"`{name}`",
                format_estimate(run["avg_at_k"]),
                *(_format_gain_over(run, peer) for peer in ("base", "rejection-validity")),
                format_percent(run["valid_share"]["mean"]),
                f"{run['length_chars']['mean']:.0f}",
            ]
            for name, run in runs.items()
        ],
    )


def _format_gain_over(run: Mapping[str, Any], peer: str) -> str:
    gain = run["gains"].get(peer)
    return "" if gain is None or run["run"] == "base" else format_gain(gain["mean"], gain["interval"])
