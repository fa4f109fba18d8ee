"""What trainers post without any client of ours: OpenRLHF's and slime's bodies, which are fixed.

So a URL may ask for more: `?shape=true` for the reward of the paper, of the program in `language`. The problem is the
prompt, or with `?problem=label` the label.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from codescaler.errors import InvalidInput
from codescaler.serve import answers
from codescaler.serve.dialects import Body, Post
from codescaler.serve.job import Job, Outcome, Query, Row
from codescaler.serve.refusal import Refusal
from codescaler.text.extract import extract_training_code
from codescaler.text.program import Message, make_conversation
from codescaler.text.queries import cut_prompt
from codescaler.text.shaping import shaped_reward


class TrainerBody(Body, kw_only=True):
    """What the URL of a trainer may ask for."""

    URL_FIELDS: ClassVar[tuple[str, ...]] = ("model", "shape", "language", "problem")

    shape: bool = False
    language: str = "python"
    problem: Literal["prompt", "label"] = "prompt"


class GetRewardBody(TrainerBody, kw_only=True):
    """OpenRLHF's remote reward model."""

    query: list[str]
    prompts: list[str] | None = None
    labels: list[Any] | None = None


class RewardBody(TrainerBody, kw_only=True):
    """slime's: one prompt, text or messages, and one response."""

    prompt: str | list[dict[str, Any]]
    response: str
    label: Any = None


def make_get_reward_job(body: GetRewardBody) -> Job:
    """OpenRLHF's: prompts with their completions, in the template of the policy.

    A text in the reward model's own template is scored as it stands. Another is taken apart by its prompt.
    """
    has_label = body.problem == "label"
    if body.prompts is None and not (body.shape or has_label):
        return Job(body.model, list(body.query), lambda outcome: _answer_rewards(outcome.scores))
    prompts, problems = body.prompts or [], (body.labels if has_label else body.prompts) or []
    if not len(prompts) == len(problems) == len(body.query):
        raise Refusal(
            400,
            "invalid_request",
            f"{len(body.query)} queries, {len(prompts)} prompts and {len(problems)} problems; give as many of each",
        )
    if not (body.shape or has_label):
        rows: list[Row] = [Query(text, prompt) for text, prompt in zip(body.query, prompts, strict=True)]
        return Job(body.model, rows, lambda outcome: _answer_rewards(outcome.scores))
    completions = [cut_prompt(text, prompt) for text, prompt in zip(body.query, prompts, strict=True)]
    if body.shape:
        return _make_shaped_job(body, problems, completions, _answer_rewards)
    rows = [_make_messages(problem, text) for problem, text in zip(problems, completions, strict=True)]
    return Job(body.model, rows, lambda outcome: _answer_rewards(outcome.scores))


def make_reward_job(body: RewardBody) -> Job:
    """slime's: a bare number."""
    problem = body.label if body.problem == "label" else body.prompt
    if body.shape:
        return _make_shaped_job(body, [problem], [body.response], lambda rewards: rewards[0])
    return Job(body.model, [_make_messages(problem, body.response)], lambda outcome: outcome.scores[0])


def _make_shaped_job(body: TrainerBody, problems: Sequence[Any], completions: Sequence[str], answer: Any) -> Job:
    """Scores the programs of completions. A completion without one program that parses has the reward 0."""
    codes = [extract_training_code(text, body.language) for text in completions]
    rows: list[Row] = []
    for problem, code in zip(problems, codes, strict=True):
        if code is not None:
            rows.append(make_conversation(_read_problem(problem), code))

    def answer_rewards(outcome: Outcome) -> Any:
        scores = iter(outcome.scores)
        return answer([0.0 if code is None else shaped_reward(next(scores), is_valid=True) for code in codes])

    return Job(body.model, rows, answer_rewards)


def _make_messages(problem: Any, completion: str) -> list[Message]:
    messages = problem if isinstance(problem, list) else [{"role": "user", "content": _read_problem(problem)}]
    return [*messages, {"role": "assistant", "content": completion}]


def _read_problem(problem: Any) -> Any:
    """Returns a text, or messages without system ones: those speak to the policy."""
    if isinstance(problem, list):
        return [message for message in problem if not isinstance(message, dict) or message.get("role") != "system"]
    if not isinstance(problem, str) or not problem.strip():
        raise InvalidInput(
            f"a problem is {problem!r:.80}; give a text, in the field of the data that the trainer reads"
        )
    return problem


def _answer_rewards(values: Sequence[float]) -> answers.GetRewardAnswer:
    return answers.GetRewardAnswer(rewards=list(values), scores=list(values), extra_logs={})


TRAINER_POSTS = {
    "/get_reward": Post(GetRewardBody, make_get_reward_job, answers.GetRewardAnswer),
    "/reward": Post(RewardBody, make_reward_job, float),
}
