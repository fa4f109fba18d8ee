"""Sends what vLLM's own request records are written as, and reads the answers with its response records.

Runs in vLLM's environment. Reads {"url", "name", "problem", "programs", "texts", "ids", "messages"} from stdin, and
writes the scores of each exchange.
"""

import base64
import json
import struct
import sys
import urllib.request

from vllm.entrypoints.pooling.classify.protocol import (
    ClassificationChatRequest,
    ClassificationCompletionRequest,
    ClassificationResponse,
)
from vllm.entrypoints.pooling.embed.protocol import EmbeddingCompletionRequest, EmbeddingResponse
from vllm.entrypoints.pooling.pooling.protocol import PoolingCompletionRequest, PoolingResponse
from vllm.entrypoints.pooling.scoring.protocol import (
    RerankRequest,
    RerankResponse,
    ScoreDataRequest,
    ScoreQueriesDocumentsRequest,
    ScoreQueriesItemsRequest,
    ScoreResponse,
    ScoreTextRequest,
)


def main():
    given = json.load(sys.stdin)
    name, problem, programs, texts = (given[key] for key in ("name", "problem", "programs", "texts"))

    def ask(path, request, response):
        body = request.model_dump_json().encode()  # every field, the defaults too
        sent = urllib.request.Request(given["url"] + path, body, {"content-type": "application/json"})
        with urllib.request.urlopen(sent, timeout=60) as answer:
            return response.model_validate_json(answer.read())

    scores = {}
    for kind, value in (("texts", texts), ("ids", given["ids"])):
        answer = ask("/classify", ClassificationCompletionRequest(model=name, input=value), ClassificationResponse)
        scores[f"classify {kind}"] = [row.probs[0] for row in answer.data]
    chats = [ClassificationChatRequest(model=name, messages=messages) for messages in given["messages"]]
    scores["classify messages"] = [ask("/classify", chat, ClassificationResponse).data[0].probs[0] for chat in chats]
    pooled = ask("/pooling", PoolingCompletionRequest(model=name, input=texts), PoolingResponse)
    scores["pooling"] = [row.data[0] for row in pooled.data]
    for encoding in ("float", "base64"):
        request = EmbeddingCompletionRequest(model=name, input=texts, encoding_format=encoding)
        vectors = [row.embedding for row in ask("/v1/embeddings", request, EmbeddingResponse).data]
        scores[f"embeddings {encoding}"] = [read_vector(vector) for vector in vectors]
    for path in ("/score", "/v1/score"):
        for request in (
            ScoreTextRequest(model=name, text_1=problem, text_2=programs),
            ScoreDataRequest(model=name, data_1=problem, data_2=programs),
            ScoreQueriesDocumentsRequest(model=name, queries=problem, documents=programs),
            ScoreQueriesItemsRequest(model=name, queries=problem, items=programs),
        ):
            answer = ask(path, request, ScoreResponse)
            scores[f"{path} {type(request).__name__}"] = [row.score for row in answer.data]
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        answer = ask(path, RerankRequest(model=name, query=problem, documents=programs), RerankResponse)
        assert [row.document.text for row in answer.results] == [programs[row.index] for row in answer.results]
        found = {row.index: row.relevance_score for row in answer.results}
        scores[path] = [found[index] for index in range(len(programs))]
        cut = ask(path, RerankRequest(model=name, query=problem, documents=programs, top_n=2), RerankResponse)
        assert [row.index for row in cut.results] == [row.index for row in answer.results][:2]
    json.dump(scores, sys.stdout)


def read_vector(vector):
    return struct.unpack("<f", base64.b64decode(vector))[0] if isinstance(vector, str) else vector[0]


if __name__ == "__main__":
    main()
