"""Options that every measurement of a whole model has, and what a person sees while it runs."""

import argparse
import sys
import time
from dataclasses import replace

from codescaler.testing import QWEN3_0_6B, QWEN3_1_7B, QWEN3_30B_A3B, ModelShape, choose_fastest_dtype

NARROW = ModelShape(512, 1536, num_layers=8, num_heads=8, num_kv_heads=4, head_dim=64, vocab_size=8192)
SHAPES = {"30m": NARROW, "0.6b": QWEN3_0_6B, "1.7b": QWEN3_1_7B, "30b-a3b": QWEN3_30B_A3B}


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Returns a parser of the options that every measurement of a whole model has."""
    parser = argparse.ArgumentParser(
        prog=f"python benches {name}", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="0.6b", help="Qwen3 sizes of the model")
    parser.add_argument("--layers", type=parse_count, help="layers of the model; None means all of the shape's")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default=choose_fastest_dtype(), help="of every system"
    )
    parser.add_argument("--threads", type=parse_count, default=2, help="CPU threads of every system")
    parser.add_argument("--rounds", type=parse_count, default=3, help="timed rounds after the warm-up")
    parser.add_argument("--save", action="store_true", help="write the figures to benches/results/")
    return parser


def choose_shape(arguments: argparse.Namespace) -> ModelShape:
    """Returns the sizes that the options ask for."""
    shape = SHAPES[arguments.shape]
    return replace(shape, num_layers=arguments.layers or shape.num_layers)


def parse_count(text: str) -> int:
    """Reads a command line's number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def report_progress(text: str) -> None:
    """Tells whoever waits, on standard error."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
