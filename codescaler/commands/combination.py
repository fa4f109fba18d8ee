"""The options --rm and --combine: one model, or several whose scores are standardised within the problem and added."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codescaler.commands.options import add_model_option, open_engine, parse_models
from codescaler.errors import InvalidInput

if TYPE_CHECKING:
    from codescaler.engine import Engine
    from codescaler.evaluate.combination import Combination, CombinedScorer

EQUAL = "z"


def add_combine_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--combine",
        metavar="z|FILE",
        help="combine the models of --rm: standardised scores with equal weights (z), or those of `eval combination`",
    )


def add_scorer_options(parser: argparse.ArgumentParser) -> None:
    """Adds --model, for one model, and --rm and --combine, for several."""
    add_model_option(parser)
    parser.add_argument(
        "--rm",
        action="append",
        default=[],
        metavar="[NAME=]MODEL[:SCORER]",
        help="a model of a combination, instead of --model; repeat",
    )
    add_combine_option(parser)


def open_scorer(options: argparse.Namespace) -> "Engine | CombinedScorer":
    """Loads the model of --model, or all models of --rm.

    Raises: InvalidInput if the options do not fit together; as `Engine.from_pretrained` and `read_combination`.
    """
    if not options.rm and options.combine is None:
        return open_engine(options)
    if len(options.rm) < 2 or options.combine is None or options.model is not None:
        raise InvalidInput("a combination needs --rm twice or more, --combine, and no --model; or give --model alone")
    from codescaler.evaluate.combination import CombinedScorer, Member

    models, fitted = parse_models(options.rm, options.scorer), read_weights(options.combine)
    engines = {name: open_engine(options, model) for name, model in models.items()}
    if fitted is None:
        return CombinedScorer(engines, dict.fromkeys(engines, 1.0))
    return CombinedScorer(engines, fitted.choose_weights({name: Member.of(e) for name, e in engines.items()}))


def read_weights(argument: str | None) -> "Combination | None":
    """Returns the weights in the file of --combine; None for equal weights.

    Raises: as `read_combination`.
    """
    from codescaler.evaluate.combination import read_combination

    return None if argument in (None, EQUAL) else read_combination(Path(argument))


def describe_combination(names: "list[str]", argument: str) -> str:
    """What tables call a combination: "z(a + b)", or "weighted(a + b)"."""
    return f"{EQUAL if argument == EQUAL else 'weighted'}({' + '.join(names)})"
