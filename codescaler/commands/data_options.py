"""What the steps of `data` share: options of a language model and of the sandbox, and what is made of them."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codescaler.commands.options import add_extract_option

if TYPE_CHECKING:
    from codescaler.data.sample.sampling import Sampler, Sampling
    from codescaler.sandbox import Sandbox


def add_step(steps: Any, name: str, run: Any, summary: str, output: str) -> argparse.ArgumentParser:
    step: argparse.ArgumentParser = steps.add_parser(name, help=summary, description=summary)
    step.set_defaults(run=run)
    step.add_argument("-o", "--output", type=Path, required=True, help=output)
    return step


def add_sampling_options(
    step: argparse.ArgumentParser, *, num_samples: int, what: str, is_optional: bool = False
) -> None:
    """Adds how a language model is asked. With `is_optional`, a step can do without a model."""
    step.add_argument(
        "--model", required=not is_optional, help="folder of a language model; with --endpoint its name there"
    )
    step.add_argument("--endpoint", help="server that speaks OpenAI's chat form; its key is CODESCALER_API_KEY")
    step.add_argument("--n", type=int, default=num_samples, help=f"{what} (%(default)s)")
    step.add_argument("--temperature", type=float, default=0.8, help="(%(default)s)")
    step.add_argument("--top-p", type=float, default=0.95, help="(%(default)s)")
    step.add_argument("--max-tokens", type=int, default=1024, help="of a completion (%(default)s)")
    step.add_argument("--seed", type=int, default=0, help="that the seed of each completion comes from (%(default)s)")
    add_extract_option(step)
    step.add_argument("--concurrency", type=int, default=8, help="requests at a time, of an endpoint (%(default)s)")
    step.add_argument("--batch-size", type=int, default=32, help="completions at a time, of a folder (%(default)s)")


def make_sampling(options: argparse.Namespace) -> "Sampling":
    from codescaler.data.sample.sampling import Sampling

    name = options.model if options.endpoint else Path(options.model).resolve().name
    return Sampling(
        name,
        options.temperature,
        options.top_p,
        options.max_tokens,
        options.seed,
        num_samples=options.n,
        extract=options.extract,
    )


def make_sampler(options: argparse.Namespace, sampling: "Sampling") -> "Sampler":
    if options.endpoint:
        from codescaler.data.sample.endpoint import Endpoint
        from codescaler.env import read_api_key

        return Endpoint(options.endpoint, sampling, api_key=read_api_key(), concurrency=options.concurrency)
    from codescaler.data.sample.local_model import LocalModel

    return LocalModel(Path(options.model), sampling, batch_size=options.batch_size)


def add_sandbox_options(step: argparse.ArgumentParser, *, has_format: bool = True) -> None:
    """Adds how programs are run; with `has_format`, also the form of a file of problems."""
    if has_format:
        step.add_argument("--format", default="auto", help="form of the file of problems (%(default)s)")
    group = step.add_argument_group("sandbox")
    group.add_argument("--floor", default="namespaces", help="isolation to insist on (%(default)s)")
    group.add_argument("--workers", type=int, help="programs at a time")
    group.add_argument("--allow-site-packages", action="store_true", help="let programs import installed packages")
    group.add_argument(
        "--allow-one-process", action="store_true",
        help="run tests that cannot be judged otherwise in the program's process, where it can forge a verdict",
    )  # fmt: skip
    for name, kind in _LIMITS.items():
        group.add_argument(
            f"--{name.replace('_', '-')}", type=kind, help="of one program (`codescaler.sandbox.Limits`)"
        )


_LIMITS: dict[str, type] = {
    "cpu_seconds": int,
    "wall_seconds": float,
    "memory_bytes": int,
    "num_processes": int,
    "output_bytes": int,
    "scratch_bytes": int,
}


def make_sandbox(options: argparse.Namespace) -> "Sandbox":
    from codescaler.sandbox import Limits, Sandbox

    limits = Limits(**{name: getattr(options, name) for name in _LIMITS if getattr(options, name) is not None})
    return Sandbox(
        limits, floor=options.floor, num_workers=options.workers, allow_site_packages=options.allow_site_packages,
        allow_one_process=options.allow_one_process,
    )  # fmt: skip


def describe_limits(options: argparse.Namespace, sandbox: "Sandbox") -> dict[str, Any]:
    """What programs may do, as far as it may matter for what was seen of them."""
    allowed = {"allow_one_process": True} if options.allow_one_process else {}
    return {**vars(sandbox.limits), "allow_site_packages": options.allow_site_packages, **allowed}


def format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
