"""What real clients sent, as `RECORD=1 make test-clients` wrote it down, and how they try again.

Each recorded request is answered as described, with the scores of the engine. The clients themselves are not installed.
"""

import base64
import json
import struct
from pathlib import Path

import pytest

from .conftest import check_answer, send, serve

RECORDED = {
    f"{file.stem}-{index}{record['path']}": record
    for file in sorted((Path(__file__).parent / "recorded").glob("*.json"))
    for index, record in enumerate(json.loads(file.read_text()))
}


@pytest.fixture(scope="module")
def named(engine):
    with serve((engine, ("tiny", "a-name"))) as running:
        yield running


def score(engine, body):
    """Returns the engine's scores of what a body holds, by index."""
    if "query" in body:
        documents = body.get("texts") or body["documents"]
        texts = [text["text"] if isinstance(text, dict) else text for text in documents]
        return {ranked.index: ranked.score for ranked in engine.rerank(body["query"], texts)}
    items = body["input"]
    if isinstance(items, str) or isinstance(items[0], int):
        items = [items]
    texts = [item for item in items if isinstance(item, str)]
    sequences = engine.encoder.encode_texts(texts, texts).sequences if texts else items
    return dict(enumerate(engine.score_tokens(sequences).tolist()))


def read_scores(answer):
    """Returns what a client reads, by index, in the order of the answer."""
    if isinstance(answer, list):
        return {row["index"]: row["score"] for row in answer}
    if "results" in answer:
        return {row["index"]: row["relevance_score"] for row in answer["results"]}
    return {row["index"]: read_vector(row["embedding"]) for row in answer["data"]}


def read_vector(vector):
    return struct.unpack("<f", base64.b64decode(vector))[0] if isinstance(vector, str) else vector[0]


@pytest.mark.parametrize("record", RECORDED.values(), ids=RECORDED)
def test_a_recorded_request_has_the_scores_of_the_engine(named, engine, record):
    path, body = record["path"], record["body"]
    status, headers, answer = send(named.url + path, body, record["headers"])
    assert status == 200, answer
    check_answer(named, "POST", path, status, headers, answer)
    expected, found = score(engine, body), read_scores(answer)
    best = sorted(expected, key=lambda index: -expected[index])[: body.get("top_n")]
    assert list(found) == (best if "query" in body else list(expected))
    assert found == {index: expected[index] for index in found}


def test_every_client_is_recorded():
    clients = {name.partition("-")[0] for name in RECORDED}
    assert clients >= {"cohere", "langchain", "litellm", "llama_index", "openai"}
    paths = {record["path"] for record in RECORDED.values()}
    assert paths == {"/rerank", "/v1/rerank", "/v2/rerank", "/v1/embeddings"}


@pytest.mark.parametrize("path", ["/v2/rerank", "/v1/embeddings"])
def test_clients_that_try_twice_more_get_their_score(named, monkeypatch, path):
    """Cohere 5 and 7 and openai 3: 503 and 429 are tried twice more, after the whole seconds of a Retry-After."""
    body = next(record["body"] for record in RECORDED.values() if record["path"] == path)
    take = named.service._queue.take
    monkeypatch.setattr(named.service._queue, "take", lambda *_: None)  # the queue is full
    waits, statuses = [], []
    for _ in range(3):
        status, headers, answer = send(named.url + path, body)
        statuses.append(status)
        if status not in (429, 503):
            break
        assert answer["error"]["code"] == "queue_full"
        waits.append(int(headers["Retry-After"]))
        monkeypatch.setattr(named.service._queue, "take", take)  # it empties while the client waits
    assert statuses == [503, 200]
    assert 1 <= waits[0] <= 30
