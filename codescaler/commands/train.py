"""The commands `fit-head`, `fit-exits`, `train` and `prune`."""

import argparse
import json
from pathlib import Path
from typing import get_args

from codescaler.commands.options import Add, add_engine_options, collect_options
from codescaler.train.config import list_settings
from codescaler.types import Promise

_TEXT_OPTIONS = ("system", "control_tokens", "chat_template", "bos")
_FIT_OPTIONS = (
    *("device", "num_threads", "truncation", "max_length", "base_model", "revision", "local_files_only"),
    *_TEXT_OPTIONS,
)
_EXITS_OPTIONS = (*_FIT_OPTIONS, "dtype", "quantization", "backend", "deterministic")


def add_commands(add: Add) -> None:
    """Adds them to the command line."""
    fit = add("fit-head", _fit_head, "Make a reward model: fit a head on the features of a language model.")
    fit.add_argument("model", help="folder or hub id of a language model")
    fit.add_argument("groups", type=Path, help="JSON lines of problems and candidates with passed; .gz too")
    fit.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    fit.add_argument("--l2", type=float, default=1e-2, help="strength of the ridge (%(default)s)")
    fit.add_argument("--seed", type=int, default=0, help="of the folds of the cross-validation (%(default)s)")
    fit.add_argument("--json", action="store_true", help="print the report as JSON")
    add_engine_options(fit, _FIT_OPTIONS)

    exits = add("fit-exits", _fit_exits, "Let `rerank --adaptive` drop candidates early, by a certificate.")
    exits.add_argument("model", help="folder of a reward model, or nano; the exits are written there")
    exits.add_argument("groups", type=Path, help="JSON lines of problems and candidates, without labels; .gz too")
    exits.add_argument("--cascade", metavar="MODEL", help="a small model that drops first, in place of exits")
    exits.add_argument(
        "--layers", type=int, nargs="+", metavar="N", help="after which layers (1/8, 1/4, 1/2, 2/3 of them)"
    )
    exits.add_argument(
        "--differs",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of problems in which the promise may fail, at most (%(default)s)",
    )
    exits.add_argument("--confidence", type=float, default=0.95, help="that it fails in no more (%(default)s)")
    exits.add_argument("--top-k", type=int, default=1, help="programs that must stay the same (%(default)s)")
    exits.add_argument(
        "--promise",
        choices=get_args(Promise),
        default="first",
        help="first: the first programs are those of a full ranking; order: no dropped program is better than a scored "
        "one (%(default)s)",
    )
    exits.add_argument("--settings", type=int, default=1, metavar="N", help="margins to try; each costs confidence (1)")
    exits.add_argument("--asked-first", action=argparse.BooleanOptionalAction, default=True, help="as in rerank (on)")
    exits.add_argument("--json", action="store_true", help="print the report as JSON")
    add_engine_options(exits, _EXITS_OPTIONS)

    train = add(
        "train", _train, "Train a reward model on correct and incorrect programs; under torchrun on several processes."
    )
    train.add_argument("model", help="folder or hub id of a reward model (such as fit-head writes) or language model")
    train.add_argument("groups", type=Path, help="JSON lines of groups or pairs; .gz too")
    train.add_argument("-o", "--output", type=Path, required=True, help="folder of the run; its model/ is the result")
    train.add_argument(
        "--validation", type=Path, help="groups or pairs to choose the best model by (split: validation)"
    )
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    train.add_argument("--json", action="store_true", help="print the report as JSON")
    _add_train_options(train)
    add_engine_options(train, _TRAIN_OPTIONS)

    small = add(
        "prune", _prune, "Keep a model's first layers, first tokens and best channels, to train a smaller one from."
    )
    small.add_argument("model", help="folder or hub id of a language model or reward model")
    small.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    small.add_argument("--layers", type=int, metavar="N", help="layers to keep (all)")
    small.add_argument("--vocabulary", type=int, metavar="N", help="tokens to keep: those of the first merges (all)")
    small.add_argument("--mlp-width", type=int, metavar="N", help="channels of each MLP to keep (all); needs --groups")
    small.add_argument("--groups", type=Path, help="programs on which channels are chosen, and what is left is trained")
    small.add_argument("--passes", type=int, default=6, metavar="N", help="over these programs (%(default)s)")
    add_engine_options(small, _SOURCE_OPTIONS)


_SOURCE_OPTIONS = ("base_model", "revision", "local_files_only")
_TRAIN_OPTIONS = ("device", "num_threads", *_TEXT_OPTIONS, *_SOURCE_OPTIONS)


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    """An option for each setting of `TrainConfig`, with its meaning, default and range."""
    group = parser.add_argument_group("training")
    for setting in list_settings():
        name, text = f"--{setting.name.replace('_', '-')}", setting.text
        if setting.kind is bool:
            group.add_argument(name, action="store_const", const=True, help=text)
        else:
            group.add_argument(name, type=setting.kind, metavar=setting.kind.__name__, help=text)


def _fit_head(options: argparse.Namespace) -> None:
    from codescaler.commands import reports as report
    from codescaler.train import fit_head

    result = fit_head(
        options.model,
        options.groups,
        options.output,
        l2=options.l2,
        seed=options.seed,
        show_progress=True,
        **collect_options(options, _FIT_OPTIONS),
    )
    print(json.dumps(report.make_record(result)) if options.json else report.format_head_report(result))


def _fit_exits(options: argparse.Namespace) -> None:
    from codescaler.commands import reports as report
    from codescaler.train.exits import fit_exits

    result = fit_exits(
        options.model,
        options.groups,
        cascade=options.cascade,
        layers=options.layers,
        at_most=options.differs,
        confidence=options.confidence,
        top_k=options.top_k,
        promise=options.promise,
        asked_first=options.asked_first,
        num_settings=options.settings,
        show_progress=True,
        **collect_options(options, _EXITS_OPTIONS),
    )
    print(json.dumps(report.make_record(result)) if options.json else report.format_exits_report(result))


def _train(options: argparse.Namespace) -> None:
    from codescaler.commands import reports as report
    from codescaler.train import TrainConfig, fit

    given = {each.name: value for each in list_settings() if (value := getattr(options, each.name)) is not None}
    result = fit(
        options.model,
        options.groups,
        options.output,
        TrainConfig(**given),
        validation=options.validation,
        resume=options.resume,
        show_progress=True,
        **collect_options(options, _TRAIN_OPTIONS),
    )
    if result.rank:  # the first process speaks for all
        return
    print(json.dumps(report.make_record(result)) if options.json else report.format_train_report(result))


def _prune(options: argparse.Namespace) -> None:
    from codescaler.train.pruning import prune

    made = prune(
        options.model,
        options.output,
        num_layers=options.layers,
        vocab_size=options.vocabulary,
        mlp_width=options.mlp_width,
        groups=options.groups,
        num_passes=options.passes,
        show_progress=True,
        **collect_options(options, _SOURCE_OPTIONS),
    )
    print(
        f"{made.output_dir}: {made.num_layers} of {made.num_layers_before} layers, {made.vocab_size} of "
        f"{made.vocab_size_before} tokens, {made.num_parameters / 1e6:.1f} of {made.num_parameters_before / 1e6:.1f} "
        "million parameters"
    )
    if made.lost:
        mean, most = sum(made.lost) / len(made.lost), max(made.lost)
        print(
            f"{made.mlp_width} of {made.mlp_width_before} channels in each MLP; {100 * mean:.1f}% of what it "
            f"has to add is lost, {100 * most:.1f}% in the worst layer"
        )
