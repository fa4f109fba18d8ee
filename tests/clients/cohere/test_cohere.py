"""Cohere's client of today, with both versions of its API."""

import cohere
import pytest


@pytest.fixture(params=[cohere.ClientV2, cohere.Client])
def make_client(request):
    return request.param


def test_a_ranking_has_the_order_and_the_bits_of_the_command(make_client, served, problem, programs, ranking):
    client = make_client(api_key="any", base_url=served.url)
    for top_n in (None, 2):
        answer = client.rerank(model=served.name, query=problem, documents=programs, top_n=top_n)
        assert [(result.index, result.relevance_score) for result in answer.results] == ranking[:top_n]


def test_the_first_version_takes_and_gives_documents(served, problem, programs, ranking):
    client = cohere.Client(api_key="any", base_url=served.url)
    documents = [{"text": program} for program in programs]
    answer = client.rerank(model=served.name, query=problem, documents=documents, return_documents=True)
    assert [result.document.text for result in answer.results] == [programs[index] for index, _ in ranking]


def test_the_second_version_takes_its_limits(served, problem, programs, ranking):
    client = cohere.ClientV2(api_key="any", base_url=served.url)
    answer = client.rerank(model=served.name, query=problem, documents=programs, max_tokens_per_doc=4096, priority=1)
    assert [(result.index, result.relevance_score) for result in answer.results] == ranking


def test_a_refusal_has_the_clients_own_error(make_client, guarded, key, problem, programs):
    client = make_client(api_key="not the key", base_url=guarded.url)
    with pytest.raises(cohere.UnauthorizedError, match="send a valid key"):
        client.rerank(model=guarded.name, query=problem, documents=programs)
    client = make_client(api_key=key, base_url=guarded.url)
    with pytest.raises(cohere.NotFoundError, match="there is no model 'unknown'"):
        client.rerank(model="unknown", query=problem, documents=programs)
    assert len(client.rerank(model=guarded.name, query=problem, documents=programs).results) == len(programs)
