"""TRL's own loader reads the recipe, and finds the reward as `trl grpo` does."""

import importlib
from pathlib import Path

from trl.scripts.grpo import make_parser

from ..trainers import RECIPE

EXAMPLES = Path(__file__).parents[3] / "examples/rl"
NUM_PROCESSES = 8  # as the command in the file says


def test_the_recipe_is_accepted(monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    arguments = ["--config", "trl.yaml", "--bf16", "False"]  # a CPU refuses it
    script, args, model, _ = make_parser().parse_args_and_config(arguments)
    assert model.model_name_or_path
    assert (args.beta, args.loss_type) == (0.0, "dapo")
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * NUM_PROCESSES
    assert {
        "num_prompts": batch // args.num_generations,
        "num_rollouts": args.num_generations,
        "prompt_tokens": args.vllm_max_model_length - args.max_completion_length,
        "response_tokens": args.max_completion_length,
        "temperature": args.temperature,
        "learning_rate": args.learning_rate,
        "clip": (args.epsilon, args.epsilon_high),
        "num_steps": args.max_steps,
    } == RECIPE
    monkeypatch.syspath_prepend(EXAMPLES)
    module, _, name = script.reward_funcs[0].rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))
