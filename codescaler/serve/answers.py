"""What the routes answer, in the shapes of other servers. The description of the API is made from these records.

A field that is UNSET is not in the answer: clients of some servers read a null as a value.
"""

from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

Vector: TypeAlias = list[float] | str  # of one number, or its bytes in base64


class Answer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A record of an answer, with these fields and no others."""


class Usage(Answer):
    """Token counts, as OpenAI names them."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ClassifyRow(Answer):
    """vLLM's: one class, whose value is the score."""

    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class PoolingRow(Answer):
    """vLLM's."""

    index: int
    object: Literal["pooling"]
    data: Vector


class EmbeddingRow(Answer):
    """OpenAI's."""

    index: int
    object: Literal["embedding"]
    embedding: Vector


class ScoreRow(Answer):
    """vLLM's."""

    index: int
    object: Literal["score"]
    score: float


class ListAnswer(Answer):
    """OpenAI's list. Rows come in the order of the request."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    usage: Usage


class ClassifyAnswer(ListAnswer):
    """Of /classify."""

    data: list[ClassifyRow]


class PoolingAnswer(ListAnswer):
    """Of /pooling."""

    data: list[PoolingRow]


class EmbeddingsAnswer(ListAnswer):
    """Of /v1/embeddings."""

    data: list[EmbeddingRow]


class ScoreAnswer(ListAnswer):
    """Of /score."""

    data: list[ScoreRow]


class Document(Answer):
    """Of a ranking."""

    text: str


class RankedDocument(Answer):
    """Cohere's, Jina's and vLLM's."""

    index: int
    relevance_score: float
    document: Document | UnsetType = UNSET


class RerankAnswer(Answer):
    """Documents, best first. `meta` is what Cohere's client reads."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: Usage
    meta: dict[str, dict[str, str | int]]


class RankedText(Answer):
    """TEI's."""

    index: int
    score: float
    text: str | UnsetType = UNSET


class Label(Answer):
    """TEI's."""

    label: str
    score: float


class GetRewardAnswer(Answer):
    """OpenRLHF's. It makes a tensor of each value of `extra_logs`."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class Chance(Answer):
    """How often it was so, with the interval of 95%."""

    mean: float
    interval: list[float]


class Details(Answer):
    """What `codescaler rerank --json` says of a candidate, and where its program does not parse."""

    program: str | None
    rank: int
    same_as: int | None
    gap_to_first: float | None
    gap_to_next: float | None
    first_is_correct: Chance | None
    invalid_because: str | None
    syntax_error: str | None


class Candidate(Answer):
    """Our own. There is no score without a program. `missing` and `details` are there where they were asked for."""

    score: float | None
    is_valid: bool
    reward: float | UnsetType = UNSET
    missing: list[str] | UnsetType = UNSET
    details: Details | UnsetType = UNSET


class CalibratedOn(Answer):
    """What the chances of gaps were measured on. A larger gap than `largest_gap` counts as that."""

    name: str
    num_problems: int
    largest_gap: float


class ProgramsAnswer(Answer):
    """A list of candidates for each item. `asked` has the names that each problem asks for, with the details."""

    id: str
    model: str
    results: list[list[Candidate]]
    usage: Usage
    asked: list[list[str]] | UnsetType = UNSET
    calibrated_on: CalibratedOn | UnsetType | None = UNSET


class TracedLine(Answer):
    """A line, the score of the program that ends with it, and the change from the score before it.

    `shade` is the share of the largest change of all lines, from -4 to 4. `is_common` says that the line stands in both
    of two programs.
    """

    number: int
    text: str
    score: float
    change: float
    shade: int
    is_common: bool


class TracedProgram(Answer):
    """The lines of a program, and the number of the line with the largest drop, common ones left out."""

    score: float
    lines: list[TracedLine]
    largest_drop: int | None


class TraceAnswer(Answer):
    """Programs line by line. `common` pairs the numbers of lines that stand in both of two programs."""

    id: str
    model: str
    programs: list[TracedProgram]
    common: list[list[int]]
    usage: Usage


class Model(Answer):
    """One name of a model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelsAnswer(Answer):
    """OpenAI's list of models."""

    object: Literal["list"]
    data: list[Model]


class StatusAnswer(Answer):
    """What a supervisor asks for."""

    status: Literal["live", "ready"]


class Error(Answer):
    """OpenAI's, whose clients read it inside of `error`."""

    message: str
    type: Literal["server_error", "invalid_request_error"]
    param: None
    code: str


class ErrorAnswer(Answer):
    """Of every request that fails.

    Beside OpenAI's `error` stands what others read: `message` Cohere's clients, `detail` Jina's, and `code` the status.
    """

    error: Error
    object: Literal["error"]
    message: str
    detail: str
    code: int
