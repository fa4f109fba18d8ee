"""Two ways to train a policy on a reward, on TRL's trainers: GRPO by the paper's recipe, and rejection sampling."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import peft
import torch
import transformers
import trl
from commands import run_command
from rewards import Reward, make_observer, read_samples, watch_reward
from rollouts import make_rollouts

from codescaler.io.records import read_objects
from codescaler.ops import select_backend
from codescaler.types import Task

NUM_STEPS = 60  # of GRPO
STOPPED_FILE = "stopped.json"  # of a run that the alarm ended: its first alarm's step, and that of the policy


def train_grpo(options: Any, tasks: Mapping[str, Task], rewards: Sequence[Reward], folder: Path) -> None:
    """Trains with GRPO, from the last checkpoint in `folder` on, and writes the curves and `folder/policy`.

    Clip range, loss and the lack of a KL penalty are those of CodeScaler (arXiv:2602.17684). A group whose rewards are
    equal has advantages of 0, and moves nothing. Where the alarm ends the run, the policy is that of the last
    checkpoint before the first alarm, and without one the policy before the run.
    """
    monitor = watch_reward(rewards[0], tasks, options, folder / "monitor.jsonl")
    if monitor is not None:
        is_reward = monitor.reward is rewards[0]
        rewards = [monitor, *rewards[1:]] if is_reward else [*rewards, make_observer(monitor)]
    num_steps = options.steps or NUM_STEPS
    config = trl.GRPOConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=num_steps,
        num_generations=options.samples,
        per_device_train_batch_size=options.samples,
        gradient_accumulation_steps=options.prompts,
        max_completion_length=options.max_tokens,
        temperature=options.temperature,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        epsilon=0.2,
        epsilon_high=0.28,
        beta=0.0,
        loss_type="dapo",
        gradient_checkpointing=torch.cuda.is_available(),
        shuffle_dataset=False,  # see `order_prompts`
        logging_steps=1,
        save_steps=options.save_steps,
        save_total_limit=None if monitor is not None and options.stop_after else 2,  # an alarm goes back to any
        report_to=[],
        seed=options.seed,
        bf16=is_bf16_fast(),
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = (trl.GRPOTrainer if torch.cuda.is_available() else CpuGRPOTrainer)(
        model=load_policy(options),
        reward_funcs=list(rewards),
        args=config,
        train_dataset=datasets.Dataset.from_list(order_prompts(tasks, num_steps * options.prompts, options.seed)),
        processing_class=transformers.AutoTokenizer.from_pretrained(options.policy),
        callbacks=[] if monitor is None else [monitor.make_callback()],
        peft_config=make_lora(options.lora),
        rollout_func=None if torch.cuda.is_available() else make_rollouts(options),
    )
    trainer.train(resume_from_checkpoint=find_checkpoint(folder))
    history = [record for record in trainer.state.log_history if "reward" in record]
    (folder / "training.jsonl").write_text("".join(json.dumps(record) + "\n" for record in history))
    draw_curves(history, folder / "training.png")
    stopped = monitor is not None and monitor.should_stop
    model = go_back(trainer, options, folder, monitor.alarm_step or 0) if stopped else trainer.model
    write_policy(model, trainer.processing_class, folder / "policy")


def go_back(trainer: Any, options: Any, folder: Path, alarm_step: int) -> Any:
    """Returns the model of the last checkpoint whose policy drew no sample of an alarm, or that before the run."""
    checkpoint = find_checkpoint(folder, before=alarm_step)
    print(f"the alarm rose at step {alarm_step}; the policy is that of {checkpoint or options.policy}")
    step = 0 if checkpoint is None else _read_step(Path(checkpoint, "trainer_state.json"))
    (folder / STOPPED_FILE).write_text(json.dumps({"alarm_step": alarm_step, "policy_step": step}) + "\n")
    if checkpoint is None:
        return load_policy(options)
    trainer._load_from_checkpoint(checkpoint)
    return trainer.model


def order_prompts(tasks: Mapping[str, Task], count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of all steps in order, the prompts shuffled anew for each pass over them.

    TRL's own order begins anew in a process that goes on after the first pass.
    """
    rows = [{"prompt": [{"role": "user", "content": t.prompt}], "task_id": t.task_id} for t in tasks.values()]
    source = random.Random(seed)
    passes = (row for _ in itertools.count() for row in source.sample(rows, len(rows)))
    return list(itertools.islice(passes, count))


class CpuGRPOTrainer(trl.GRPOTrainer):
    """Leaves out padding and the prompt's vocabulary, which TRL 1.16 computes to spare a GPU, and masks afterwards.

    The loss is the same but for rounding, for models whose positions are relative.
    """

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `GRPOTrainer`."""
        with mock.patch("trl.trainer.utils._use_triton", return_value=True):
            return super().train(*args, **kwargs)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **options: Any
    ) -> tuple[Any, Any, Any]:
        used = attention_mask.any(0).nonzero()
        begin, end = int(used.min()), int(used.max()) + 1
        num_unused = input_ids.shape[1] - end
        trimmed = (input_ids[:, begin:end], attention_mask[:, begin:end], logits_to_keep - num_unused)
        *values, aux_loss = super()._get_per_token_logps_and_entropies(model, *trimmed, **options)
        logps, entropies = (x if x is None else torch.nn.functional.pad(x, (0, num_unused)) for x in values)
        return logps, entropies, aux_loss


def train_rejection(options: Any, tasks: Mapping[str, Task], rewards: Sequence[Reward], folder: Path) -> None:
    """One round of rejection sampling: samples, keeps the best-rewarded of each prompt, and fine-tunes on these.

    A prompt whose samples all have reward 0 is left out. Of equal samples one is kept.
    """
    file = folder / "kept.jsonl"
    if not file.exists():
        kept = list(_keep_best(options.samples_file or _draw_samples(options, folder), tasks, rewards, options.keep))
        if not kept:
            raise SystemExit(
                "every sample has reward 0, as one without a program has; "
                "sample more, or from a policy that answers with one code block"
            )
        partial = folder / "kept.partial"
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(file)
    else:
        print(f"goes on with {file}, which is there; remove it to choose again")
    kept = [row for _, row in read_objects(file)]
    size = min(options.prompts, len(kept))
    trainer = trl.SFTTrainer(
        model=load_policy(options),
        args=trl.SFTConfig(
            output_dir=str(folder / "checkpoints"),
            max_steps=options.steps or math.ceil(len(kept) / size),
            per_device_train_batch_size=size,
            learning_rate=options.learning_rate,
            completion_only_loss=True,
            max_length=None,
            gradient_checkpointing=torch.cuda.is_available(),
            save_steps=options.save_steps,
            save_total_limit=1,
            logging_steps=1,
            report_to=[],
            seed=options.seed,
            bf16=is_bf16_fast(),
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=datasets.Dataset.from_list(kept),
        processing_class=transformers.AutoTokenizer.from_pretrained(options.policy),
        peft_config=make_lora(options.lora),
    )
    trainer.train(resume_from_checkpoint=find_checkpoint(folder))
    write_policy(trainer.model, trainer.processing_class, folder / "policy")


def _keep_best(
    sampled: Path, tasks: Mapping[str, Task], rewards: Sequence[Reward], num: int
) -> Iterator[dict[str, Any]]:
    groups = read_samples(sampled, tasks)
    if missing := len(tasks.keys() - {group["task_id"] for group in groups}):
        print(f"{sampled} has no samples of {missing} of {len(tasks)} prompts")
    for group in groups:
        completions = [candidate["completion"] for candidate in group["candidates"]]
        names = [group["task_id"]] * len(completions)
        columns = (reward([group["prompt"]] * len(completions), completions, task_id=names) for reward in rewards)
        # One that could not be judged is not kept.
        totals = [0.0 if None in values else sum(values) for values in zip(*columns, strict=True)]
        for place in choose_kept(completions, totals, num):
            answer = [{"role": "assistant", "content": completions[place]}]
            yield {"prompt": [{"role": "user", "content": group["prompt"]}], "completion": answer}


def choose_kept(completions: Sequence[str], totals: Sequence[float], num: int) -> list[int]:
    """The places of up to `num` different completions with the highest rewards above 0; of equal rewards the first."""
    order = sorted(range(len(totals)), key=lambda place: -totals[place])
    first = {completions[place]: place for place in reversed(order)}
    return [place for place in order if totals[place] > 0 and first[completions[place]] == place][:num]


def _draw_samples(options: Any, folder: Path) -> Path:
    sampled = folder / "sampled.jsonl"
    drawing = ("--temperature", options.temperature, "--max-tokens", options.max_tokens, "--seed", options.seed)
    number = ("--n", options.samples)
    if not sampled.exists():
        words = (folder / "train.jsonl", "-o", sampled, "--model", options.policy, *number, *drawing)
        run_command("data", "sample", *words)
    return sampled


def is_bf16_fast() -> bool:
    return torch.cuda.is_available() or select_backend("auto", "cpu").is_bf16_fast


def load_policy(options: Any) -> Any:
    """Weights that learn are float32; those under adapters do not, and are bfloat16 where it is fast."""
    dtype = torch.bfloat16 if options.lora and is_bf16_fast() else torch.float32
    return transformers.AutoModelForCausalLM.from_pretrained(options.policy, dtype=dtype, attn_implementation="sdpa")


def make_lora(rank: int) -> peft.LoraConfig | None:
    """LoRA on all linear layers; None for rank 0, which trains all weights."""
    return peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear") if rank else None


def find_checkpoint(folder: Path, before: float = math.inf) -> str | None:
    """The last whole checkpoint of a run, of a step before one; what is written last is its state."""
    states = (folder / "checkpoints").glob("checkpoint-*/trainer_state.json")
    earlier = [state for state in states if _read_step(state) < before]
    return str(max(earlier, key=_read_step).parent) if earlier else None


def _read_step(state: Path) -> int:
    return int(state.parent.name.rpartition("-")[2])


def write_policy(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a folder that any tool loads, and which is there when it is whole.

    Adapters are merged, in float32, for what they add is small.
    """
    model = model.float()
    model = model.merge_and_unload() if isinstance(model, peft.PeftModel) else model
    partial = folder.with_name(f"{folder.name}.partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


def draw_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    names = ("reward", "passed_share", "codescaler/monitor_p", "completions/mean_length", "entropy", "reward_std")
    figure = Figure(figsize=(12, 6), layout="constrained")
    for axes, name in zip(figure.subplots(2, 3).flat, names, strict=True):
        points = [(record["step"], record[name]) for record in history if record.get(name) is not None]
        axes.plot([step for step, _ in points], [value for _, value in points], marker=".")
        axes.set(title=name, xlabel="step", xlim=(0, len(history) + 1))
    figure.savefig(path, dpi=110)
