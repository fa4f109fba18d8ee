"""The requests that clients of other servers send, each turned into a `Job`. Unknown fields and nulls are accepted.

A body is a msgspec struct, and `make_job` reads it. The shapes are those of the projects' own clients and servers:
vLLM (classify, pooling, score, rerank), Cohere and Jina (rerank v1 and v2), TEI (rerank, predict), Infinity (rerank),
OpenAI (embeddings; SGLang's reward models answer there).
"""

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET

from codescaler.serve import answers
from codescaler.serve.job import Job, Outcome, Row
from codescaler.serve.refusal import Refusal
from codescaler.text.program import make_conversation

Input: TypeAlias = str | list[str | int | list[int]]
MakeJob: TypeAlias = Callable[[Any], Job]


class Body(msgspec.Struct, kw_only=True):
    """What every request may name."""

    URL_FIELDS: ClassVar[tuple[str, ...]] = ()  # that the URL may set as well

    model: str | None = None

    def update_from_url(self, values: Mapping[str, str]) -> None:
        """Sets fields by the query of the URL: clients whose bodies are fixed can choose by it.

        Raises:
            Refusal: a name or a value is not known.
        """
        types = {field.name: field.type for field in msgspec.structs.fields(self) if field.name in self.URL_FIELDS}
        for name, value in values.items() if types else ():
            try:
                setattr(self, name, msgspec.convert(value, types[name], strict=False))
            except (KeyError, msgspec.ValidationError) as error:
                raise Refusal(
                    400, "invalid_request", f"?{name:.50}={value:.50}: the URL may set {', '.join(types)}"
                ) from error

    def count_rows(self) -> list[int]:
        """Returns the lengths of the lists whose items become rows."""
        lists = (getattr(self, name) for name in self.__struct_fields__ if name not in ("model", "messages", "labels"))
        return [len(value) for value in lists if isinstance(value, list)]


class ClassifyBody(Body, kw_only=True):
    """vLLM's /classify and /pooling, TEI's embeddings: text, texts, ids, lists of ids, or messages."""

    input: Input | None = None
    messages: list[dict[str, Any]] | None = None
    use_activation: bool | None = None
    encoding_format: str | None = None


class ScoreBody(Body, kw_only=True):
    """vLLM's /score, with each of its names: one text or as many as there are others."""

    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    data_1: str | list[str] | None = None
    data_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    items: str | list[str] | None = None
    use_activation: bool | None = None


class RerankBody(Body, kw_only=True):
    """Cohere's, Jina's, vLLM's and Infinity's `documents`, or TEI's `texts`."""

    query: str
    documents: str | list[str | dict[str, Any]] | None = None
    texts: list[str] | None = None
    top_n: int | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    use_activation: bool | None = None


class PredictBody(Body, kw_only=True):
    """TEI's /predict: a text, a pair, or a list of either."""

    inputs: str | list[str | list[str]]


def list_rows(body: ClassifyBody) -> list[Row]:
    """Returns the rows of `input` or `messages`. A list of whole numbers is one row."""
    if (body.input is None) == (body.messages is None):
        raise Refusal(400, "invalid_request", "give one of input and messages")
    if body.messages is not None:
        return [body.messages]
    if isinstance(body.input, str):
        return [body.input]
    items = body.input or []
    if items and all(isinstance(item, int) for item in items):
        return [items]  # type: ignore[list-item]
    if any(isinstance(item, int) for item in items):
        raise Refusal(400, "invalid_request", "input mixes token ids with texts; give ids, texts, or lists of ids")
    return items  # type: ignore[return-value]


def make_classify_job(body: ClassifyBody) -> Job:
    """VLLM's /classify: one class, whose value is the score. It is raw unless the activation is asked for."""

    def answer(outcome: Outcome) -> answers.ClassifyAnswer:
        data = [
            answers.ClassifyRow(index=index, label=None, probs=[score], num_classes=1)
            for index, score in enumerate(outcome.scores)
        ]
        return answers.ClassifyAnswer(data=data, **_describe("classify", outcome))

    return Job(body.model, list_rows(body), answer, body.use_activation is True)


def make_pooling_job(body: ClassifyBody) -> Job:
    """VLLM's /pooling: a list of one number for each row."""

    def answer(outcome: Outcome) -> answers.PoolingAnswer:
        data = [
            answers.PoolingRow(index=index, object="pooling", data=_encode_vector(score, body.encoding_format))
            for index, score in enumerate(outcome.scores)
        ]
        return answers.PoolingAnswer(data=data, **_describe("pool", outcome))

    return Job(body.model, list_rows(body), answer, body.use_activation is True)


def make_embeddings_job(body: ClassifyBody) -> Job:
    """OpenAI's /v1/embeddings as SGLang answers it for a reward model: an embedding of one number."""

    def answer(outcome: Outcome) -> answers.EmbeddingsAnswer:
        data = [
            answers.EmbeddingRow(index=index, object="embedding", embedding=_encode_vector(score, body.encoding_format))
            for index, score in enumerate(outcome.scores)
        ]
        return answers.EmbeddingsAnswer(data=data, **_describe("embd", outcome))

    return Job(body.model, list_rows(body), answer)


def make_score_job(body: ScoreBody) -> Job:
    """VLLM's /score: problems and programs, one to one or one to many."""
    problems = next((texts for texts in (body.text_1, body.data_1, body.queries) if texts is not None), None)
    others = (body.text_2, body.data_2, body.documents, body.items)
    programs = next((texts for texts in others if texts is not None), None)
    if problems is None or programs is None:
        raise Refusal(400, "invalid_request", "give text_1 and text_2, or queries and documents")
    programs = [programs] if isinstance(programs, str) else programs
    problems = [problems] * len(programs) if isinstance(problems, str) else problems
    problems = problems * len(programs) if len(problems) == 1 else problems
    if len(problems) != len(programs):
        raise Refusal(
            400, "invalid_request", f"{len(problems)} first texts and {len(programs)} second ones; give as many"
        )

    def answer(outcome: Outcome) -> answers.ScoreAnswer:
        data = [
            answers.ScoreRow(index=index, object="score", score=score) for index, score in enumerate(outcome.scores)
        ]
        return answers.ScoreAnswer(data=data, **_describe("score", outcome))

    return Job(body.model, list(zip(problems, programs, strict=True)), answer, body.use_activation is True)


def make_rerank_job(body: RerankBody) -> Job:
    """/rerank in three dialects: TEI's by `texts`, Infinity's by `return_documents`, else vLLM's."""
    if (body.texts is None) == (body.documents is None):
        raise Refusal(400, "invalid_request", "give one of documents and texts")
    if body.texts is not None:
        return _make_tei_rerank_job(body, body.texts)
    # Infinity's client reads a document as a text, and others with this field as an object. All of them do without.
    return _make_documents_job(body, has_documents=body.return_documents is None)


def make_cohere_rerank_job(body: RerankBody) -> Job:
    """/v1/rerank and /v2/rerank: documents best first. A document is left out if return_documents is false."""
    if body.documents is None:
        raise Refusal(400, "invalid_request", "documents is missing")
    return _make_documents_job(body, has_documents=body.return_documents is not False)


def _make_documents_job(body: RerankBody, has_documents: bool) -> Job:
    documents = [body.documents] if isinstance(body.documents, str) else body.documents or []
    texts = [_read_document(document, index) for index, document in enumerate(documents)]

    def answer(outcome: Outcome) -> answers.RerankAnswer:
        return answers.RerankAnswer(
            id=f"rerank-{outcome.request_id}",
            model=outcome.model,
            results=[
                answers.RankedDocument(
                    index=index,
                    relevance_score=outcome.scores[index],
                    document=answers.Document(text=texts[index]) if has_documents else UNSET,
                )
                for index in _rank(outcome.scores, body.top_n)
            ],
            usage=outcome.usage,
            meta={"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
        )

    return _make_ranking_job(body, texts, answer)


def _make_tei_rerank_job(body: RerankBody, texts: Sequence[str]) -> Job:
    def answer(outcome: Outcome) -> list[answers.RankedText]:
        return [
            answers.RankedText(
                index=index, score=outcome.scores[index], text=texts[index] if body.return_text else UNSET
            )
            for index in _rank(outcome.scores, body.top_n)  # TEI has no top_n, but litellm sends it one
        ]

    return _make_ranking_job(body, texts, answer)


def _make_ranking_job(body: RerankBody, texts: Sequence[str], answer: Callable[[Outcome], Any]) -> Job:
    if body.top_n is not None and body.top_n < 0:
        raise Refusal(400, "invalid_request", f"top_n is {body.top_n}; give a whole number, 0 for all")
    return Job(body.model, [make_conversation(body.query, text) for text in texts], answer, body.use_activation is True)


def _read_document(document: str | dict[str, Any], index: int) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise Refusal(400, "invalid_request", f"documents[{index}] has no text; give a string, or an object with text")
    return text


def make_predict_job(body: PredictBody) -> Job:
    """TEI's /predict: a list of labels for each input, or one such list for a single text."""
    inputs = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    rows: list[Row] = []
    for index, item in enumerate(inputs):
        if isinstance(item, list) and len(item) not in (1, 2):
            raise Refusal(400, "invalid_request", f"inputs[{index}] has {len(item)} texts; give one, or a pair")
        rows.append(item if isinstance(item, str) else (item[0], item[1]) if len(item) == 2 else item[0])

    def answer(outcome: Outcome) -> list[answers.Label] | list[list[answers.Label]]:
        labels = [[answers.Label(label="LABEL_0", score=score)] for score in outcome.scores]
        return labels[0] if isinstance(body.inputs, str) else labels

    return Job(body.model, rows, answer)


def _rank(scores: Sequence[float], top_n: int | None) -> list[int]:
    best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return best[: top_n or None]  # vLLM's client says 0 for all


def _encode_vector(score: float, encoding: str | None) -> answers.Vector:
    return base64.b64encode(struct.pack("<f", score)).decode() if encoding == "base64" else [score]


def _describe(kind: str, outcome: Outcome) -> dict[str, Any]:
    """Returns the fields of a list but its rows."""
    return {
        "id": f"{kind}-{outcome.request_id}",
        "object": "list",
        "created": outcome.created,
        "model": outcome.model,
        "usage": outcome.usage,
    }


class Post(NamedTuple):
    """What a route reads, what that becomes, and what it answers."""

    body: type[Body]
    make_job: MakeJob
    answer: Any


# What may be posted where. Paths under /v1 and /v2 are the same handlers as their bare forms, but for /rerank.
POSTS: dict[str, Post] = {
    "/classify": Post(ClassifyBody, make_classify_job, answers.ClassifyAnswer),
    "/pooling": Post(ClassifyBody, make_pooling_job, answers.PoolingAnswer),
    "/score": Post(ScoreBody, make_score_job, answers.ScoreAnswer),
    "/v1/score": Post(ScoreBody, make_score_job, answers.ScoreAnswer),
    "/rerank": Post(RerankBody, make_rerank_job, answers.RerankAnswer | list[answers.RankedText]),
    "/v1/rerank": Post(RerankBody, make_cohere_rerank_job, answers.RerankAnswer),
    "/v2/rerank": Post(RerankBody, make_cohere_rerank_job, answers.RerankAnswer),
    "/v1/embeddings": Post(ClassifyBody, make_embeddings_job, answers.EmbeddingsAnswer),
    "/predict": Post(PredictBody, make_predict_job, list[answers.Label | list[answers.Label]]),
}
