"""What a language model writes for a suite: validators, programs that make inputs, checkers, attacks on survivors."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codescaler.data.execution.outputs import Capturer, Interface
from codescaler.data.sample.sampling import Sampler, Sampling
from codescaler.data.synthesis import prompts
from codescaler.data.synthesis.asking import make_request, read_answer
from codescaler.data.synthesis.inputs import make_inputs
from codescaler.data.synthesis.validators import (
    NUM_ILLEGAL,
    NUM_LEGAL,
    Validator,
    choose_validator,
    keep_valid,
    parse_probes,
)
from codescaler.text.extraction import extract_code
from codescaler.types import Task

_MAX_SURVIVORS = 3  # that a prompt shows


@dataclass(frozen=True)
class Writer:
    """A language model that writes for suites. `sampling.num_samples` is the number of tries of each kind."""

    sampler: Sampler
    sampling: Sampling

    def describe(self) -> dict[str, Any]:
        """What a run that goes on has to have in common."""
        return {**dataclasses.asdict(self.sampling), "answered_by": self.sampler.identity}

    def ask(self, name: str, prompt: str) -> list[str]:
        """The answers to one prompt."""
        request = make_request(name, prompt, self.sampling.num_samples, self.sampling.seed)
        (completions,) = self.sampler.complete([request])
        return [read_answer(completion) for completion in completions]

    def ask_programs(self, name: str, prompt: str) -> list[str]:
        """The programs in the answers to one prompt."""
        codes = (extract_code(text, self.sampling.extract)[0] for text in self.ask(name, prompt))
        return [code for code in codes if code is not None]

    def make_tools(self, task: Task, interface: Interface, runner: Capturer) -> "Tools":
        """Has the tools of one problem written, in the order validator, generator, checker."""
        call, name = interface.call, task.task_id
        probes = parse_probes(
            next(
                iter(self.ask(f"{name}/probes", prompts.write_probes_prompt(task.prompt, call, NUM_LEGAL, NUM_ILLEGAL)))
            ),
            is_call=call is not None,
        )
        validators = self.ask_programs(f"{name}/validator", prompts.write_validator_prompt(task.prompt, call))
        validator = choose_validator(runner, validators, probes, is_call=call is not None)
        makers = self.ask_programs(f"{name}/inputs", prompts.write_inputs_prompt(task.prompt, call))
        checkers = self.ask_programs(f"{name}/checker", prompts.write_checker_prompt(task.prompt, call))
        has_several = 2 * len(checkers) > self.sampling.num_samples  # most say that several outputs are correct
        return Tools(self, task, call, runner, validator, makers, tuple(checkers) if has_several else ())


@dataclass(frozen=True)
class Tools:
    """What was written for one problem."""

    writer: Writer
    task: Task
    call: str | None
    runner: Capturer
    validator: Validator | None
    makers: Sequence[str]
    checkers: Sequence[str]

    def make_inputs(self, count: int) -> list[str]:
        """Inputs of the programs that make them."""
        seed = self.writer.sampling.seed
        return make_inputs(self.runner, self.makers, count, seed, is_call=self.call is not None)

    def filter_inputs(self, inputs: Sequence[str]) -> list[str]:
        """The inputs that the validator takes for legal; all of them where no validator is trusted."""
        if self.validator is None:
            return list(inputs)
        return keep_valid(self.runner, self.validator, inputs, is_call=self.call is not None)

    def attack(self, survivors: Sequence[str], count: int) -> list[str]:
        """Inputs that are to make incorrect programs fail which pass so far."""
        prompt = prompts.write_survivors_prompt(self.task.prompt, self.call, survivors[:_MAX_SURVIVORS])
        makers = self.writer.ask_programs(f"{self.task.task_id}/survivors/{len(survivors)}", prompt)
        return make_inputs(self.runner, makers, count, self.writer.sampling.seed, is_call=self.call is not None)
