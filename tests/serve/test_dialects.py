"""What clients of other servers send and read, each answer's scores equal to the engine's to the bit."""

import base64
import struct

import jsonschema
import numpy as np
import pytest

from .conftest import check_answer, send

PROBLEM = "Write a function to add two numbers."
PROGRAMS = ["def add(a, b):\n    return a - b", "def add(a, b):\n    return a + b", "def add(a, b:"]
MESSAGES = [{"role": "user", "content": PROBLEM}, {"role": "assistant", "content": PROGRAMS[0]}]


@pytest.fixture(scope="module")
def scores(engine):
    return engine.score([(PROBLEM, program) for program in PROGRAMS]).tolist()


@pytest.fixture(scope="module")
def texts(engine):
    """The pairs as a template leaves them."""
    return [
        engine.encoder.chat.render([MESSAGES[0], {"role": "assistant", "content": program}]) for program in PROGRAMS
    ]


def post(server, path, body):
    status, headers, answer = send(server.url + path, body)
    assert status == 200, answer
    assert len(headers["x-request-id"]) == 32
    check_answer(server, "POST", path, status, headers, answer)
    return answer


def sort(scores):
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def test_classify_takes_text_texts_ids_and_messages(server, scores, texts, engine):
    answer = post(server, "/classify", {"model": "tiny", "input": texts[0], "use_activation": False})
    assert answer["data"][-1]["probs"][-1] == scores[0]  # what verl reads
    assert (answer["object"], answer["data"][0]["num_classes"]) == ("list", 1)
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 10
    ids = [tokens.tolist() for tokens in engine.encoder.encode_texts(texts, texts).sequences]
    for value, expected in ((texts, scores), (ids, scores), (ids[1], scores[1:2])):
        answer = post(server, "/classify", {"input": value, "priority": None})
        assert [row["probs"][0] for row in answer["data"]] == expected
    assert post(server, "/classify", {"messages": MESSAGES})["data"][0]["probs"] == scores[:1]
    activated = post(server, "/classify", {"input": texts, "use_activation": True})["data"]
    np.testing.assert_allclose([row["probs"][0] for row in activated], 1 / (1 + np.exp(-np.array(scores))), rtol=1e-6)


def test_pooling_and_embeddings_are_vectors_of_one_number(server, scores, texts):
    assert post(server, "/pooling", {"input": texts})["data"][1] == {
        "index": 1,
        "object": "pooling",
        "data": scores[1:2],
    }
    answer = post(server, "/v1/embeddings", {"model": "other-name", "input": texts})
    assert answer["data"][-1]["embedding"][-1] == scores[-1]  # what verl reads of SGLang
    coded = post(server, "/v1/embeddings", {"input": texts, "encoding_format": "base64"})["data"]
    assert [struct.unpack("<f", base64.b64decode(row["embedding"]))[0] for row in coded] == scores


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_score_pairs_one_with_many_and_one_with_one(server, scores, path):
    for first, second in ((PROBLEM, PROGRAMS), ([PROBLEM], PROGRAMS), ([PROBLEM] * 3, PROGRAMS)):
        answer = post(server, path, {"model": "tiny", "text_1": first, "text_2": second})
        assert [row["score"] for row in answer["data"]] == scores
    for first, second in (("queries", "documents"), ("queries", "items"), ("data_1", "data_2")):
        assert post(server, path, {first: PROBLEM, second: PROGRAMS[1]})["data"][0]["score"] == scores[1]
    assert send(server.url + path, {"text_1": [PROBLEM] * 2, "text_2": PROGRAMS})[0] == 400


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_puts_the_best_first(server, scores, path):
    best = sort(scores)
    body = {"model": "tiny", "query": PROBLEM, "documents": PROGRAMS, "max_tokens_per_doc": None}
    for top_n, expected in ((2, best[:2]), (0, best), (None, best), (9, best)):
        results = post(server, path, body | {"top_n": top_n})["results"]
        assert [(row["index"], row["relevance_score"]) for row in results] == [(i, scores[i]) for i in expected]
        assert [row["document"]["text"] for row in results] == [PROGRAMS[i] for i in expected]
    objects = [{"text": text} for text in PROGRAMS]
    asked = post(server, path, body | {"return_documents": True, "documents": objects})["results"]
    # Infinity's client wants a string there and the others an object: on the path that they share it is left out.
    assert asked[0].get("document") == (None if path == "/rerank" else {"text": PROGRAMS[best[0]]})
    unasked = post(server, path, body | {"return_documents": False})["results"]
    assert not any("document" in row for row in unasked)
    single = post(server, path, body | {"documents": PROGRAMS[1]})["results"]
    assert [row["relevance_score"] for row in single] == scores[1:2]


def test_rerank_by_texts_is_a_bare_list(server, scores):
    answer = post(server, "/rerank", {"query": PROBLEM, "texts": PROGRAMS, "truncate": None, "return_text": True})
    best = sort(scores)
    assert answer == [{"index": i, "score": scores[i], "text": PROGRAMS[i]} for i in best]
    cut = post(server, "/rerank", {"query": PROBLEM, "texts": PROGRAMS, "top_n": 2})  # litellm's
    assert cut == [{"index": i, "score": scores[i]} for i in best[:2]]


def test_predict_nests_as_its_input_does(server, scores, texts):
    assert post(server, "/predict", {"inputs": texts[0]}) == [{"label": "LABEL_0", "score": scores[0]}]
    pairs = [[PROBLEM, program] for program in PROGRAMS]
    assert [labels[0]["score"] for labels in post(server, "/predict", {"inputs": pairs})] == scores
    assert send(server.url + "/predict", {"inputs": [["a", "b", "c"]]})[0] == 400


def test_get_reward_and_reward(server, scores, texts):
    answer = post(server, "/get_reward", {"query": texts, "prompts": [PROBLEM] * 3, "labels": [None, "", 1]})
    assert answer == {"rewards": scores, "scores": scores, "extra_logs": {}}
    for prompt in (PROBLEM, MESSAGES[:1]):
        assert post(server, "/reward", {"prompt": prompt, "response": PROGRAMS[1], "label": None}) == scores[1]


def test_programs_extracts_and_shapes(server, scores, engine):
    fenced = f"Here:\n```python\n{PROGRAMS[1]}\n```"
    items = [{"problem": PROBLEM, "candidates": [fenced, "no program"]}, {"messages": MESSAGES}]
    answer = post(server, "/v1/programs", {"items": items, "extract": True, "shape": True})
    first, second = answer["results"]
    assert first[0]["score"] == scores[1]
    assert first[0]["reward"] == pytest.approx(np.log1p(np.exp(scores[1])))
    assert first[1] == {"score": None, "is_valid": False, "reward": 0.0}
    assert second[0]["score"] == scores[0]
    plain = post(server, "/v1/programs", {"items": [{"problem": PROBLEM, "candidates": PROGRAMS}]})["results"][0]
    assert [(record["score"], record["is_valid"]) for record in plain] == [
        (scores[0], True), (scores[1], True), (scores[2], False)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/classify", {}, "invalid_request"),
        ("/classify", {"input": "a", "messages": MESSAGES}, "invalid_request"),
        ("/classify", {"input": [1, "a"]}, "invalid_request"),
        ("/classify", {"input": []}, "invalid_request"),
        ("/classify", {"input": [300]}, "invalid_request"),
        ("/classify", {"input": [True]}, "invalid_request"),
        ("/classify", {"input": {"a": 1}}, "invalid_request"),
        ("/classify", {"messages": [{"role": "user", "content": 5}]}, "invalid_request"),
        ("/classify", {"input": "a " * 2000}, "invalid_request"),
        ("/classify", {"input": "\ud800"}, "invalid_request"),
        ("/classify", {"input": ["a"] * 4097}, "too_many_rows"),
        ("/rerank", {"query": "a", "documents": []}, "invalid_request"),
        ("/rerank", {"query": "a", "documents": [{"no": "text"}]}, "invalid_request"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": -1}, "invalid_request"),
        ("/rerank", {"query": "a", "documents": ["b"], "texts": ["b"]}, "invalid_request"),
        ("/v1/programs", {"items": [{"problem": "a"}]}, "invalid_request"),
        ("/v1/programs", {"items": [], "unknown": 1}, "invalid_request"),
        ("/v1/programs", {"items": [{"problem": "a", "candidates": ["b"]}], "language": "cobol"}, "invalid_request"),
    ],
)
def test_a_bad_body_is_refused_in_openais_form(server, path, body, code):
    status, headers, answer = send(server.url + path, body)
    check_answer(server, "POST", path, status, headers, answer)
    assert (status, answer["error"]["code"], answer["error"]["type"]) == (400, code, "invalid_request_error")
    # Where the clients of OpenAI, Cohere and Jina look for it.
    assert answer["error"]["message"] == answer["message"] == answer["detail"] != ""


def test_a_model_is_compared_and_never_opened(server):
    status, _, answer = send(server.url + "/classify", {"model": "../tiny", "input": "a"})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    models = send(server.url + "/v1/models")[2]["data"]
    assert [model["id"] for model in models] == ["tiny", "other-name"]


def test_the_description_has_every_route_and_no_other(server):
    described = {
        (method.upper(), path)
        for path, methods in send(server.url + "/openapi.json")[2]["paths"].items()
        for method in methods
    }
    assert described == {(method, route.path) for route in server.app.routes for method in route.methods - {"HEAD"}}


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/page.css", "/v1/models", "/health", "/health/live", "/health/ready", "/metrics"]
)
def test_what_is_read_is_as_described(server, path):
    status, headers, answer = send(server.url + path)
    assert status == 200
    check_answer(server, "GET", path, status, headers, answer)


def test_the_check_of_answers_finds_a_wrong_one(server):
    status, headers, answer = send(server.url + "/classify", {"input": "a"})
    for wrong in (answer | {"data": None}, answer | {"more": 1}, {"data": answer["data"]}):
        with pytest.raises(jsonschema.ValidationError):
            check_answer(server, "POST", "/classify", status, headers, wrong)
