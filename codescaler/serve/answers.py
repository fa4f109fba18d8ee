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


class Candidate(Answer):
    """Our own. There is no score without a program. `missing` is there where it was asked for."""

    score: float | None
    is_valid: bool
    reward: float | UnsetType = UNSET
    missing: list[str] | UnsetType = UNSET


class ProgramsAnswer(Answer):
    """A list of candidates for each item."""

    id: str
    model: str
    results: list[list[Candidate]]
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
