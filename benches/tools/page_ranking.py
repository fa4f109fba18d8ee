"""The sections of docs/benchmarks.md on reading and on language models as rankers."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from benches.quality.praising import HEADER, list_cells
from benches.tools.page_tables import (
    describe_setting,
    format_estimate,
    format_gain,
    format_known,
    format_percent,
    format_table,
    load_result,
)

MODELS = {"SmolLM2-135M": "smollm2_135m", "Qwen2.5-Coder-0.5B": "qwen2.5_coder_0.5b"}
POOLS = {
    "": "MBPP validation, programs of Qwen2.5-Coder-0.5B",
    "_foreign": "MBPP validation, programs of other models and prompts",
    "_leetcode": "easy problems of LeetCode, programs of Qwen2.5-Coder-0.5B",
}
SPEEDS = ("likelihood_bon8_0.6b_bfloat16",)


def write_ranking() -> Iterator[str]:
    """Yields the sections in order."""
    yield from _write_reading()
    yield from _write_likelihoods()
    yield from _write_likelihood_speed()
    yield from _write_best_of_n_latency()
    yield from _write_policies("policies_qwen2.5_coder_0.5b", "A policy after a round of rejection sampling")
    yield from _write_fitness_cards()
    yield from _write_fitness_order()
    yield from _write_policies("policies_combined_qwen2.5_coder_0.5b", "A policy after rewards with a likelihood")
    yield from _write_policies("policies_grpo_qwen2.5_coder_0.5b", "A policy after GRPO")
    yield from _write_policies("policies_grpo_copies_qwen2.5_coder_0.5b", "A policy after GRPO at a smaller rate")
    yield from _write_fitness()
    yield from _write_praising()


def _write_reading() -> Iterator[str]:
    figures = load_result("reading_nano")["figures"]
    scorers = {name: figures["scorers"][name] for name in ("nano", "teacher")}
    yield "## Does nano read the problem\n"
    yield (
        f"`codescaler eval reading` on {figures['num_problems']} problems of MBPP validation, with programs of three "
        "samplings. The teacher of nano is the model of `benches/small.mk`.\n\n"
        f"{scorers['nano']['verdict'].replace('nano', 'Nano', 1)}\n"
    )
    measured = (
        ("correlation of scores after both texts", "correlation", 1, 3),
        ("pairs ranked correctly, own text", "pair_accuracy_own", 100, 1),
        ("the same, another problem's text", "pair_accuracy_swapped", 100, 1),
        ("the fall", "fall", 100, 1),
    )
    rows = [
        [label, *(format_estimate(one[key], scale, digits) for one in scorers.values())]
        for label, key, scale, digits in measured
    ]
    rows += [
        [f"a correct program before: {kind}", *(format_known(one["before"][kind]) for one in scorers.values())]
        for kind in scorers["nano"]["before"]
    ]
    yield format_table(["", *scorers], rows)


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
        gains, names, seconds = figures["gains"], list(figures["scorers"]), dict(result["seconds"])
        if suffix == "_leetcode":  # which nano has learned from
            names = [name for name in names if "nano" not in name]
            del seconds["reward"]
        times = _time_programs(seconds, result["num_programs"])
        yield f"{title}, {result['dtypes']['language model']}, on {pool}: {counts}. {times}\n"
        rows = []
        for scorer in names:
            values, gain = figures["scorers"][scorer], gains.get(scorer)
            row = [
                scorer,
                format_estimate(values["pair_accuracy"]),
                format_known(values["pair_accuracy_defining"]),
                format_estimate(values["best_of_n_on_mixed"][-1]),
                "" if gain is None else format_gain(**gain["random"]["best_of_n_on_mixed"]),
            ]
            if "nano" in names:
                row.append("" if gain is None or scorer == "nano" else format_gain(**gain["nano"]["pair_accuracy"]))
            rows.append(row)
        head = ["scorer", "pairs ranked correctly", "of programs that define", "best of N", "over a random pick"]
        yield format_table([*head, "pairs, over nano"] if "nano" in names else head, rows)


def _time_programs(seconds: Mapping[str, float], num_programs: int) -> str:
    told = [f"{name} {1000 * total / num_programs:.0f} ms" for name, total in seconds.items()]
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


def _write_policies(name: str, title: str) -> Iterator[str]:
    result = load_result(name)
    runs = {run["run"]: run for run in result["runs"]}
    first = next(iter(runs.values()))
    yield f"## {title}\n"
    yield (
        "`make rl-demo`, then `python benches policies`: Qwen2.5-Coder-0.5B-Instruct, before and after. "
        f"{result['recipe']} Avg@k is the share of k samples that pass all tests, on "
        f"{first['num_problems']} problems of MBPP validation. Gains are paired by problem. "
        f"{describe_setting(result)}\n"
    )
    yield format_table(
        ["run", "k", "Avg@k, %", "over the policy before", "over validity", "valid", "characters"],
        [
            [
                f"`{name}`",
                run["num_samples"],
                format_estimate(run["avg_at_k"]),
                *(_format_gain_over(run, peer) for peer in ("base", "rejection-validity")),
                format_percent(run["valid_share"]["mean"]),
                f"{run['length_chars']['mean']:.0f}",
            ]
            for name, run in runs.items()
        ],
    )


def _write_fitness() -> Iterator[str]:
    results = {name: load_result(f"fitness_grpo_{name}")["figures"] for name in ("before", "after")}
    yield (
        "`codescaler eval fitness` on the samples that were evaluated, before these steps (`rejection-validity`) and "
        "after them (`model`). The reward model is `copies`. What pays is in units of the spread of scores within a "
        "problem.\n"
    )
    yield format_table(
        ["reward model", "samples", "correct pairs, %", "best of 16 over a random pick", "correct pays", "praise pays"],
        [
            [
                f"`{model}`",
                f"{name}, {figures['num_mixed']} problems with both",
                format_estimate(figures["scorers"][model]["pair_accuracy"]),
                format_gain(**figures["scorers"][model]["gain"]),
                format_estimate(figures["scorers"][model]["correct"], 1, 2),
                format_estimate(figures["scorers"][model]["moves"]["praised"], 1, 2),
            ]
            for model in ("copies", "nano")
            for name, figures in results.items()
        ],
    )


def _write_fitness_cards() -> Iterator[str]:
    figures = load_result("fitness_cards_qwen2.5_coder_0.5b")["figures"]
    combined = [load_result(f"fitness_cards_{name}_sum_qwen2.5_coder_0.5b")["figures"] for name in ("small", "nano")]
    yield "## Fitness cards of good and of bad reward models\n"
    yield (
        "`codescaler eval fitness` on 10 samples of Qwen2.5-Coder-0.5B-Instruct for each of "
        f"{figures['num_groups']} problems of MBPP validation. {figures['num_mixed']} have a correct and an incorrect "
        "one. `small` is the model of benches/small.mk. `likelihood` is the mean log-likelihood of this language "
        "model, and `sum` the sum. `z(a + b)` adds the standardised scores of two. The others "
        "but nano are heads of `fit-head` on its first 14 layers. `head` has learned verdicts of other problems, and "
        "`inverted` their opposite. `long` and `short` have learned lengths. The gain is of the best-scored sample "
        "over any program. What pays is in units of the spread of scores within a problem.\n"
    )
    scorers = {name: card for cards in (*combined, figures) for name, card in cards["scorers"].items()}
    models = {name: card for name, card in scorers.items() if "verdict" in card}
    yield format_table(
        ["reward model", "correct pairs, %", "gain over validity", "correct pays", "praise pays", "verdict"],
        [
            [
                f"`{name}`",
                format_estimate(card["pair_accuracy"]),
                format_gain(**card["gain_over_validity"]),
                format_estimate(card["correct"], 1, 2),
                format_estimate(card["moves"]["praised"], 1, 2),
                card["verdict"]["word"],
            ]
            for name, card in sorted(models.items(), key=lambda item: -item[1]["gain_over_validity"]["mean"])
        ],
    )


def _write_fitness_order() -> Iterator[str]:
    result = load_result("fitness_order_qwen2.5_coder_0.5b")
    yield "## Fitness cards and what reward models taught\n"
    yield (
        "`codescaler eval fitness` on samples of Qwen2.5-Coder-0.5B-Instruct, then `make rl-demo RUN=rejection` with "
        f"each reward model, then `python benches fitness_order`. {result['recipe']} Gains are over "
        f"`rejection-validity`, whose Avg@8 is {100 * result['validity_avg_at_k']:.1f}, paired by "
        f"{result['num_problems']} problems of MBPP validation. The card is of {result['num_groups_of_card']} "
        f"problems, of which {result['num_mixed_of_card']} have a correct and an incorrect sample. "
        f"{describe_setting(result)}\n"
    )
    yield format_table(
        ["reward model", "the card: gain over validity", "verdict", "kept that is correct, %", "Avg@8, %", "gain"],
        [
            [
                f"`{model['model']}`",
                format_gain(**model["card"]["gain_over_validity"]),
                model["card"]["verdict"]["word"],
                f"{100 * model['kept_correct']:.1f}",
                f"{100 * model['avg_at_k']:.1f}",
                format_gain(**model["gain"]),
            ]
            for model in result["models"]
        ],
    )
    yield (
        f"Rank correlation of the two gains: {format_estimate(result['spearman'], 1, 2)}. Its interval draws held-out "
        "problems, and takes cards and policies as they are: each model taught one policy, from one seed. Of all "
        f"orders of the models, {100 * result['p']:.0f}% agree as well or better.\n"
    )


def _write_praising() -> Iterator[str]:
    result = load_result("praising_smollm2_135m")
    yield "## A policy that learns to praise\n"
    yield (
        "`python benches praising`: SmolLM2-135M-Instruct learns by `make rl-demo` from a reward model that pays for "
        f"praise and for nothing else. {result['recipe']} Praise is in words of a program, as `RewardMonitor` counts "
        f"them, of a step's samples. Before, {100 * result['before']:.1f}% of the samples on {result['num_problems']} "
        f"problems of MBPP validation pass their tests. {describe_setting(result)}\n"
    )
    yield format_table(HEADER, [list_cells(run) for run in result["runs"]])
    yield "![Praise and the alarm's p-value by step](../benches/results/praising_smollm2_135m.png)\n"


def _format_gain_over(run: Mapping[str, Any], peer: str) -> str:
    gain = run["gains"].get(peer)
    return "" if gain is None or run["run"] == "base" else format_gain(**gain)
