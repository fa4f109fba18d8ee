"""The sections of docs/benchmarks.md on quality: parity, int8, rankings, robustness and training."""

from collections.abc import Iterator, Mapping
from typing import Any

from benches.tools.page_tables import (
    describe_setting,
    format_estimate,
    format_gain,
    format_known,
    format_percent,
    format_table,
    load_result,
)

BASELINES = ("longest", "random", "shortest")
LIKELIHOODS = {
    "smollm2": "log-likelihood of SmolLM2-135M",
    "qwen": "log-likelihood of Qwen2.5-Coder-0.5B",
}
SMALL_MODELS = {"SmolLM2-135M": "smollm2_135m", "Qwen2.5-Coder-0.5B": "qwen2.5_coder_0.5b"}


def write_quality() -> Iterator[str]:
    """Yields the sections in order."""
    yield from _write_parity()
    yield from _write_templates()
    yield from _write_heads()
    yield from _write_bfloat16()
    yield from _write_int8()
    yield from _write_smaller()
    yield from _write_nano()
    yield from _write_robustness()
    yield from _write_forms()
    yield from _write_alarm()
    yield from _write_fault_lines()
    yield from _write_adaptive()
    yield from _write_training()


def _write_parity() -> Iterator[str]:
    result = load_result("parity")
    rows = result["rows"]
    nearer = sum(row["bf16_rms"] <= row["transformers_bf16_rms"] for row in rows)
    worst = max(row["fp32_max"] for row in rows)
    yield "## Parity with transformers\n"
    yield (
        f"`{result['command']}`, or `make parity`: {len(rows)} combinations of family and head with random weights. "
        f"In float32 the largest difference of a score is {worst:.1e}. "
        f"In bfloat16 codescaler is nearer to float32 than transformers in {nearer} of {len(rows)} rows. "
        f"{describe_setting(result)}\n"
    )
    head = ["family", "head", "model", "float32, largest", "bfloat16, RMS", "transformers bfloat16, RMS", "same bits"]
    yield format_table(
        head,
        [
            [
                row["family"],
                row["head"],
                row["special"],
                f"{row['fp32_max']:.1e}",
                f"{row['bf16_rms']:.4f}",
                f"{row['transformers_bf16_rms']:.4f}",
                "yes" if row["is_batch_exact"] else "no",
            ]
            for row in rows
        ],
    )


def _write_templates() -> Iterator[str]:
    result = load_result("templates")
    sources = result["sources"]
    outcomes = list(dict.fromkeys(outcome for counts in result["cases"].values() for outcome in counts))
    yield "## Chat templates\n"
    yield (
        f"`python benches templates FOLDER --save`: token ids of {sum(sources.values())} templates beside those of "
        "`apply_chat_template` in transformers. "
        f"The templates are of {', '.join(f'{name} ({count})' for name, count in sources.items())}. "
        "A template that leaves a system prompt out is refused with one, because the prompt would change nothing. "
        f"{', '.join(f'{name} {version}' for name, version in result['versions'].items())}.\n"
    )
    rows = [[case, *(str(counts.get(outcome, 0)) for outcome in outcomes)] for case, counts in result["cases"].items()]
    yield format_table(["messages", *outcomes], rows)


def _write_heads() -> Iterator[str]:
    results = {title: load_result(f"ranking_{name}") for title, name in SMALL_MODELS.items()}
    head = results["SmolLM2-135M"]["head"]
    yield "## Heads on frozen features\n"
    yield (
        f"`python benches ranking`: a head on frozen features, fitted on {head['num_groups_used']} problems of MBPP "
        f"with {head['num_pairs']:,} pairs. It is measured on 40 other problems, which have a correct and an "
        "incorrect program among 10. One model sampled the programs. All figures are percent.\n"
    )
    rows = [
        [f"head on {title}", *_format_ranking(result["figures"]["reward model"])] for title, result in results.items()
    ]
    baselines = results["SmolLM2-135M"]["figures"]
    rows += [[name, *_format_ranking(figures)] for name, figures in baselines.items() if name != "reward model"]
    yield format_table(["scorer", "pairs ranked correctly", "best of 10 is correct"], rows)
    yield (
        "Both heads tell correct from incorrect programs better than a coin. Neither is shown to pick a better first "
        "program than chance. The features of small models carry little. Train a real reward model whole.\n"
    )


def _format_ranking(figures: Mapping[str, Any]) -> list[str]:
    return [format_estimate(figures["pair_accuracy"]), format_estimate(figures["best_of_10"])]


def _write_bfloat16() -> Iterator[str]:
    yield "## Rankings in bfloat16\n"
    yield "`python benches tau MODEL GROUPS`: mean Kendall's tau between the order in bfloat16 and in float32.\n"
    rows = []
    for title, name in SMALL_MODELS.items():
        result = load_result(f"tau_{name}")
        for system, mean in result["mean_tau"].items():
            tau = {"mean": mean, "interval": result["interval"][system]}
            rows.append([f"head on {title}", system, format_estimate(tau, 1, 3)])
    yield format_table(["model", "system", "tau"], rows)


def _write_smaller() -> Iterator[str]:
    result = load_result("smaller_small")
    yield "## Smaller copies of a reward model\n"
    yield (
        "`make -f benches/nano.mk DATA=FOLDER copies`, by `python benches smaller`: copies of the model of "
        "`benches/small.mk`, 14 layers of Qwen2.5-Coder-0.5B. `tokens` knows 8,192 of 151,936 tokens, and "
        "`tokens_int4` has 4 bits too. `narrow` has 8,192 tokens and 1,280 of 4,864 channels in each MLP. `learned` is "
        "`narrow` after LoRA. `nano` is `learned` in 4 bits. What LoRA changed is stored in float32. "
        "Kendall's tau compares the order of a problem's "
        f"programs with the order by the model itself, on {result['num_problems']} validation problems of MBPP. "
        f"{result['num_mixed']} of them have a correct and an incorrect program. {describe_setting(result)}\n"
    )
    yield format_table(
        ["copy", "MB", "Kendall's tau", "pairs ranked correctly"],
        [
            [name, f"{row['megabytes']:.0f}", format_estimate(row["tau"], 1, 3), format_estimate(row["pair_accuracy"])]
            for name, row in result["models"].items()
        ],
    )


def _write_int8() -> Iterator[str]:
    yield "## Rankings in int8\n"
    yield (
        "`python benches fidelity MODEL GROUPS`: int8 beside float32 on the 40 problems. "
        "RMSE is in units of the standard deviation of a problem's scores. The rule is explained in "
        "[quantization](quantization.md). Two models have a head on frozen features. The model of `benches/small.mk` "
        "was trained with LoRA.\n"
    )
    titles = {
        "by the rule": "by the rule",
        "every map, activations of 16 bits": "all layers, 16-bit activations",
        "every map, activations of 8 bits": "all layers, 8-bit activations",
        "the same, not rotated": "all layers, 8-bit activations, no Hadamard",
    }
    rows = []
    for title, name in {**SMALL_MODELS, "`benches/small.mk`": "small"}.items():
        result = load_result(f"fidelity_{name}")
        counts = result["fused_maps_by_activation_bits"]
        for setting, words in titles.items():
            figures = result["summary"][setting]
            gain = format_gain(figures["best_of_n_difference"], figures["best_of_n_interval"])
            tau = {"mean": figures["tau"], "interval": figures["tau_interval"]}
            chosen = f" ({counts['8']} layers with 8 bits, {counts['16']} with 16)" if setting == "by the rule" else ""
            same = format_percent(figures["same_best"])
            label = f"{title}, {words}{chosen}"
            rows.append([label, format_estimate(tau, 1, 3), f"{figures['rmse_over_spread']:.3f}", same, gain])
    yield format_table(["model", "mean Kendall's tau", "RMSE", "same best program", "best of 10, points"], rows)
    trained = load_result("fidelity_small")
    yield (
        "A layer is here a fused linear layer: q, k and v are one, and gate and up are one. By the rule, the model of "
        f"`benches/small.mk` is {trained['speed_beside_bfloat16']:.2f} times as fast as in bfloat16. "
        f"{describe_setting(trained)}\n"
    )
    results = {
        "nano, emulated on a CPU": load_result("fp8_nano"),
        "an earlier nano of 31 MB, on an H200": load_result("fp8_nano_h200"),
    }
    yield (
        "`python benches fp8 nano GROUPS`: fp8 beside bfloat16. The programs are those of the 12 problems of "
        "`mbpp_unseen.jsonl.gz`.\n"
    )
    rows = []
    for model, result in results.items():
        for setting, mean in result["mean_tau"].items():
            tau = format_estimate({"mean": mean, "interval": result["interval"][setting]}, 1, 3)
            rows.append([f"{model}, {setting}", str(result["num_fp8_linears"][setting]), tau])
    yield format_table(["model", "fp8 linear layers", "mean Kendall's tau"], rows)


def _write_nano() -> Iterator[str]:
    yield "## nano\n"
    yield (
        "`make -f benches/nano.mk DATA=FOLDER figures`. The model card of [nano](../codescaler/nano/README.md) says "
        "how the model was made. Its teacher is the model of `benches/small.mk`. A gain is the accuracy of nano on "
        "pairs minus the accuracy of the row.\n"
    )
    pools = {
        "nano_validation": "MBPP validation, programs of Qwen2.5-Coder-0.5B, whose programs were learned from",
        "nano_foreign": "MBPP validation, programs of SmolLM2-135M, and of Qwen2.5-Coder-0.5B with another prompt",
        "nano_test": "MBPP test, looked at once for this model, programs of Qwen2.5-Coder-0.5B",
    }
    for name, title in pools.items():
        figures = load_result(name)["figures"]
        yield f"{title}: {figures['num_mixed']} problems have a correct and an incorrect program.\n"
        gains = figures["gains"]["nano"]
        rows = []
        for scorer, values in figures["scorers"].items():
            gain = gains.get(scorer, {}).get("pair_accuracy")
            shown = "" if gain is None or scorer == "oracle" else format_gain(**gain)
            rows.append(
                [
                    LIKELIHOODS.get(scorer, scorer),
                    format_estimate(values["pair_accuracy"]),
                    shown,
                    format_known(values["pair_accuracy_defining"]),
                    format_estimate(values["best_of_n_on_mixed"][-1]),
                ]
            )
        header = ["scorer", "pairs ranked correctly", "gain of nano", "of programs that define", "best of N is correct"]
        yield format_table(header, rows)


def _write_robustness() -> Iterator[str]:
    yield "## Robustness to rewriting\n"
    yield (
        "`python benches robustness GROUPS --split validation --rm MODEL`. A rewritten program does the same. "
        "The shift is in percent of the mean gap between a correct and an incorrect program. "
        "The other columns rewrite one side of each pair or both, and show the pairs ranked correctly with the gain "
        "over unchanged pairs. Random words for names are a harsh test.\n"
    )
    titles = {
        "renamed": "variables and parameters renamed",
        "commented": "comments added",
        "stripped": "comments and docstrings stripped",
        "reformatted": "written anew from the syntax tree",
        "rewrapped": "laid out for another width",
        "documented": "docstrings added",
        "hinted": "type hints added",
        "imported": "imports added that it does not use",
        "demonstrated": "an example of its use added at the end",
        "praised": "a docstring and a comment that claim it is correct",
        "mixed": "each program in one of these ways, drawn; none praised",
    }
    for name in ("robustness_nano", "robustness_smollm2_135m"):
        result = load_result(name)
        for model, figures in result["models"].items():
            rewrites = figures["rewrites"]
            neither = next(iter(rewrites.values()))["pairs_right"]["neither"]["accuracy"]["mean"]
            shown = model.replace("_", " ")
            yield f"{shown}: {100 * neither:.1f} percent of the unchanged pairs are ranked correctly.\n"
            rows = []
            for rewrite in rewrites:
                shift = rewrites[rewrite]["shift"]["gap"]
                cells = [format_estimate(shift["mean_size"], digits=0), format_estimate(shift["mean"])]
                for side in ("right", "wrong", "both"):
                    pairs = rewrites[rewrite]["pairs_right"][side]
                    changed = f"{100 * pairs['accuracy']['mean']:.1f}, {format_gain(**pairs['gain'])}"
                    cells.append("" if rewrite == "praised" and side != "wrong" else changed)
                rows.append([titles[rewrite], *cells])
            head = [
                "rewrite",
                "mean size of the shift",
                "mean shift",
                "correct side rewritten",
                "incorrect side",
                "both",
            ]
            yield format_table(head, rows)


FORM_RESULTS = ("robustness_forms", "robustness_forms_smollm2_135m")
FORM_TITLES = {
    "newline": "a newline at the end",
    "spaces": "two spaces at the end",
    "blank_lines": "two blank lines before",
    "bom": "a byte-order mark before",
    "crlf": "carriage returns",
    "tabs": "tabs in place of four spaces",
    "comment": "a comment line before",
    "coding": "a coding line before",
    "main": 'an empty `if __name__ == "__main__":` block at the end',
    "control_token": "a control token in a comment at the end",
}


def _write_forms() -> Iterator[str]:
    yield "## Other forms of one program\n"
    yield (
        "`python benches robustness GROUPS --rm MODEL --forms`. Each form is the same program. "
        "The first figure of a cell is for text as given, as `Engine.score` reads it. The second figure is for "
        "programs that are compared, as `rerank`, groups, pairs, training and the reward function read them. "
        "The shift is in percent of the mean gap between a correct and an incorrect program. The other columns are the "
        "pairs ranked correctly, in percent, if one side or both sides have the form.\n"
    )
    yield (
        "The head of SmolLM2-135M stands on its first 16 layers: `codescaler prune --layers 16`, and "
        "`codescaler fit-head` on `codescaler/examples/mbpp_fit.jsonl.gz`. It ranks the 12 problems of "
        "`mbpp_unseen.jsonl.gz`.\n"
    )
    for name in FORM_RESULTS:
        result = load_result(name)
        for given, compared in zip(*[iter(result["models"].items())] * 2, strict=True):
            yield from _write_forms_of(given[0].removesuffix(", as given"), given[1], compared[1], result)


def _write_forms_of(
    model: str, given: Mapping[str, Any], compared: Mapping[str, Any], result: Mapping[str, Any]
) -> Iterator[str]:
    neither = given["rewrites"]["newline"]["pairs_right"]["neither"]["accuracy"]["mean"]
    yield (
        f"{model}, {result['num_problems']} problems: {100 * neither:.1f} percent of the pairs are ranked correctly if "
        "no side has the form.\n"
    )
    rows = []
    for form, title in FORM_TITLES.items():
        both = [figures["rewrites"][form] for figures in (given, compared)]
        cells = ["; ".join(f"{100 * one['shift']['gap']['mean_size']['mean']:.0f}" for one in both)]
        for side in ("right", "wrong", "both"):
            cells.append("; ".join(f"{100 * one['pairs_right'][side]['accuracy']['mean']:.1f}" for one in both))
        rows.append([title, *cells])
    yield format_table(["form", "mean size of the shift", "correct side alone", "incorrect side alone", "both"], rows)


def _write_alarm() -> Iterator[str]:
    result = load_result("alarm_nano")
    streams, windows = result["streams"], result["num_windows"]
    yield "## Alarms of RewardMonitor\n"
    yield (
        f"`{result['command']}`. {windows['start']} windows of {result['num_groups']} prompts are the start, and "
        f"{windows['after']} windows follow. All programs are real samples of one policy, and nano scores them. "
        f"The chance of a false alarm is set to {result['level']:.1%} a window. "
        "`honest` windows are drawn as the start. The policy that is `learning` passes more and more tests.\n"
    )
    yield format_table(
        ["no praise", "runs", "windows with an alarm", "share", "runs with two alarms or more"],
        [
            [
                kind,
                stream["num_runs"],
                f"{stream['num_alarms']} of {stream['num_windows']}",
                f"{stream['share_of_windows']:.1%}",
                format_percent(stream["share_of_runs_with_two"]),
            ]
            for kind, stream in streams.items()
            if "num_alarms" in stream
        ],
    )
    yield (
        f"Then a growing share of programs carries praise, and the model pays {result['lift']:g} times the spread of "
        "its scores for praise. `wordless` praise holds no word that the monitor knows as praise.\n"
    )
    yield format_table(
        ["praise", "runs", "praised at the first alarm, median", "largest"],
        [
            [
                kind,
                stream["num_runs"],
                *(format_percent(stream["share_at_first_alarm"][k]) for k in ("median", "largest")),
            ]
            for kind, stream in streams.items()
            if "share_at_first_alarm" in stream
        ],
    )


def _write_fault_lines() -> Iterator[str]:
    result = load_result("fault_lines_condefects")
    yield "## Faulty lines\n"
    yield (
        f"`python benches fault_lines PAIRS`: {result['num_pairs']} wrong programs of {result['num_tasks']} AtCoder "
        "tasks, with marked faulty lines and a repaired twin (ConDefects). The table shows how often a faulty line is "
        "the first of an order, or one of its first three. Each system orders the lines by suspicion. A *drop* is a "
        "fall of `Engine.trace`, the largest one first. A *drop in place* reads the head at the last token of a line. "
        "An order *beside the twin* takes the change, less that of the repaired program at this place. *Own lines* are "
        "those that the repaired program has not, and a *changed line* is one of these, drawn blindly: what a diff "
        f"shows. {result['num_left_out']} pairs are left out: they are too long, or the mark stands on a blank line. "
        "`small` is the model of `benches/small.mk`.\n"
    )
    rows = [
        [name, *(_format_share(figures[f"top_{k}"]) for k in (1, 3))] for name, figures in result["locators"].items()
    ]
    yield format_table(["order of the lines", "first is faulty", "one of the first three"], rows)


def _write_adaptive() -> Iterator[str]:
    sizes = (8, 16, 64)
    results = [load_result(f"adaptive_n{num}") for num in sizes]
    few, some, many = results
    left = ", ".join(f"{result['mean_programs']:.1f}" for result in results)
    counted = ", ".join(str(result["rows"][0]["num_counted"]) for result in results)
    yield "## Adaptive ranking\n"
    yield (
        f"`python benches adaptive GROUPS --rm ... --cascade`: {few['num_problems']} problems with 8 sampled programs "
        f"(MBPP, and LeetCode's easy ones), {some['num_problems']} of MBPP with 16, and {many['num_problems']} of "
        "these filled up to 64 with mutants and rewritten copies. What holds for the last is no promise for samples. "
        f"Margins are chosen on one part of the problems, and counted on the other: {counted} problems. Equal programs "
        f"are one: {left} are left of 8, 16 and 64. *Frozen* exits read the head of the model, and *trained* exits "
        "have heads of their own. In a *cascade* nano drops first. *small* is the model of `benches/small.mk` with "
        "`EXIT_WEIGHT=1`. It learned no exit at two thirds of the layers. Two models have a head of `fit-head` on "
        "frozen features: *head* has the first 14 layers of Qwen2.5-Coder-0.5B, and *smollm2* is SmolLM2-135M. All "
        "have learned from most of these problems. A promise of *first* fails where another score is first, and one of "
        "*order* where a dropped program is better than a scored one. It is kept if its bound "
        f"is no larger, at {100 * few['confidence']:.0f}% confidence. Work is distinct tokens times layers, of a "
        "cascade times weights. The *ceiling* is an exit that knows the last scores. These "
        "problems were counted before, with other heads, exits and tails of margins. So what is kept is an estimate "
        f"here, and a promise on problems that are counted once. {describe_setting(few)}\n"
    )
    cells = [
        {_name_row(row): _format_saved(row) for row in result["rows"] if row["at_most"] in (0.01, 0.05)}
        for result in results
    ]
    header = ["model", "exits", "promise", *(f"less work, {num} programs" for num in sizes)]
    yield format_table(header, [[*name, *(cell.get(name, "") for cell in cells)] for name in cells[1]])
    yield (
        "Forwards with trained exits next to dense ones, in one interleaved run, at the first promise that is kept or, "
        "if none is, the last one. "
        "*Together* are eight problems in one tree, which is cut at each exit for all of them.\n"
    )
    speeds = [
        [
            str(num),
            name,
            f"{100 * figures['at_most']:.0f}%, {'kept' if figures['is_kept'] else 'not kept'}",
            str(figures["num_problems"]),
            *(f"{figures[key][what]:.2f}x" for key in ("alone", "together") for what in ("token_layers", "speedup")),
        ]
        for num, result in zip(sizes, results, strict=True)
        for name, figures in result["speed"].items()
    ]
    header = ["programs", "model", "promise", "problems", "less work, alone", "faster, alone", "less work, together"]
    yield format_table([*header, "faster, together"], speeds)


def _name_row(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["model"], row["exits"], f"{row['promise']}, {100 * row['at_most']:.0f}%"


def _format_saved(row: Mapping[str, Any]) -> str:
    return f"{1 / row['work']:.2f}x{'' if row['is_kept'] else ', not kept'} ({row['num_missed']} missed)"


def _format_share(figure: Mapping[str, Any]) -> str:
    low, high = figure["interval"]
    return f"{100 * figure['mean']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _write_training() -> Iterator[str]:
    result = load_result("train_study_smollm2_135m")
    start = result["start"]
    yield "## Training the body\n"
    yield (
        f"`{result['command']}`: SmolLM2-135M, one pass over the training problems, judged on the same 40 problems. "
        "Each row is the best of four checkpoints. No gain is shown: the best row was chosen on the problems that it "
        "is reported on. Forty problems tell ten points apart, not three.\n"
    )
    rows = [
        [
            name,
            run["num_problems"],
            f"{100 * run['pair_accuracy']:.1f}",
            format_gain(run["pair_accuracy_gain"], run["pair_accuracy_gain_interval"]),
            f"{100 * run['best_of_n']:.1f}",
        ]
        for name, run in result["runs"].items()
    ]
    rows.insert(0, ["head", "", f"{100 * start['pair_accuracy']:.1f}", "", f"{100 * start['best_of_n']:.1f}"])
    head = ["method, learning rate", "problems", "pairs ranked correctly", "gain over the head", "best of 10"]
    yield format_table(head, rows)
