"""OpenAI's client: a score is an embedding of one number, as SGLang answers for reward models."""

import asyncio
import base64
import struct

import openai
import pytest


@pytest.fixture(scope="session")
def texts(served, problem, programs):
    return [
        served.render([{"role": "user", "content": problem}, {"role": "assistant", "content": program}])
        for program in programs
    ]


# Without a format the client asks for base64, and decodes it.
@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_an_embedding_has_the_bits_of_the_score(served, texts, expected, encoding):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="any")
    answer = client.embeddings.create(model=served.name, input=texts, **encoding)
    if encoding.get("encoding_format") == "base64":
        values = [list(struct.unpack("<f", base64.b64decode(row.embedding))) for row in answer.data]
    else:
        values = [row.embedding for row in answer.data]
    assert values == [[score] for score in expected]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(texts)
    assert answer.model == served.folder


def test_token_ids_score_as_their_text(served, texts, expected):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="any")
    ids = [served.list_ids(text) for text in texts]
    assert [row.embedding for row in client.embeddings.create(model=served.name, input=ids).data] == [
        [score] for score in expected
    ]
    assert client.embeddings.create(model=served.name, input=ids[0]).data[0].embedding == expected[:1]


def test_many_requests_at_once_keep_the_bits(served, texts, expected):
    async def score_all():
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="any") as client:
            return await asyncio.gather(
                *(client.embeddings.create(model=served.name, input=text) for text in texts * 4)
            )

    answers = asyncio.run(score_all())
    assert [answer.data[0].embedding for answer in answers] == [[score] for score in expected * 4]


def test_models_are_listed(served):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="any")
    assert [model.id for model in client.models.list()] == [served.folder, served.name]


def test_a_refusal_has_the_clients_own_error(guarded, key):
    def embed(given_key, **body):
        client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=given_key)
        return client.embeddings.create(**({"model": guarded.name, "input": "a"} | body))

    with pytest.raises(openai.AuthenticationError) as refused:
        embed("not the key")
    assert refused.value.code == "key_not_valid"
    with pytest.raises(openai.NotFoundError) as refused:
        embed(key, model="unknown")
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        embed(key, input="a " * 4000)
    assert refused.value.code == "invalid_request" and "row 0" in refused.value.message
    assert len(embed(key).data[0].embedding) == 1
