"""Completions of a policy in training, by the sampler of `codescaler data sample`, as TRL's `rollout_func`."""

import copy
import ctypes
import gc
import itertools
from collections.abc import Callable
from typing import Any

import peft

from codescaler.data.sample.local_model import TokenSampler, encode_chat
from codescaler.data.sample.sampling import Sampling, derive_seed


def make_rollouts(options: Any) -> Callable[[list[Any], Any], dict[str, Any]]:
    """Returns a function that draws a completion for each prompt of a step.

    It draws from a copy of the policy whose linear layers are packed for the CPU, in bfloat16 where it is faster.
    So tokens come from weights that are rounded, and the loss takes them as the policy's own. An update of less than a
    500th of a weight is not seen before more of its kind come.
    """
    sampling = Sampling(str(options.policy), options.temperature, 1.0, options.max_tokens, options.seed)

    def roll_out(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        tokenizer = trainer.processing_class
        policy = copy.deepcopy(trainer.accelerator.unwrap_model(trainer.model)).float()
        policy = policy.merge_and_unload() if isinstance(policy, peft.PeftModel) else policy
        vars(policy).pop("forward", None)  # TRL's own, which computes with the policy that is trained
        sampler = TokenSampler(policy, tokenizer, sampling, batch_size=min(128, len(prompts)))
        prompt_ids = [encode_chat(tokenizer, prompt) for prompt in prompts]
        step = f"step {trainer.state.global_step}"
        seeds = (derive_seed(options.seed, step, index) for index in range(len(prompts)))
        # TRL repeats a prompt for each of its completions: it is computed once.
        same = ((ids, [next(seeds) for _ in group]) for ids, group in itertools.groupby(prompt_ids))
        completion_ids = [draw.tokens for draws in sampler.draw(same) for draw in draws]
        del policy, sampler
        release_memory()
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    return roll_out


def release_memory() -> None:
    """Gives back what a step has freed: the copy's modules refer to each other, and glibc keeps what is freed."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
