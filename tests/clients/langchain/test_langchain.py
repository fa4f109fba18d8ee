"""langchain-cohere, and the release of Cohere's client that it wants."""

import cohere
import pytest
from langchain_cohere import CohereRerank
from langchain_core.documents import Document


@pytest.fixture
def reranker(served):
    return CohereRerank(base_url=served.url, model=served.name, cohere_api_key="any")


def test_a_ranking_has_the_order_and_the_bits_of_the_command(reranker, problem, programs, ranking):
    results = reranker.rerank(programs, problem, top_n=None)
    assert [(result["index"], result["relevance_score"]) for result in results] == ranking
    results = reranker.rerank(programs, problem)
    assert [(result["index"], result["relevance_score"]) for result in results] == ranking[:3]


def test_documents_come_best_first(reranker, problem, programs, ranking):
    documents = [Document(program, metadata={"number": index}) for index, program in enumerate(programs)]
    kept = reranker.compress_documents(documents, problem)
    assert [(doc.metadata["number"], doc.metadata["relevance_score"]) for doc in kept] == ranking[:3]


@pytest.mark.parametrize("make_client", [cohere.ClientV2, cohere.Client])
def test_cohere_5_ranks_as_the_command_does(make_client, served, problem, programs, ranking):
    assert cohere.__version__.startswith("5.")
    client = make_client(api_key="any", base_url=served.url)
    answer = client.rerank(model=served.name, query=problem, documents=programs)
    assert [(result.index, result.relevance_score) for result in answer.results] == ranking


def test_cohere_5_takes_and_gives_documents(served, problem, programs, ranking):
    client = cohere.Client(api_key="any", base_url=served.url)
    documents = [{"text": program} for program in programs]
    answer = client.rerank(model=served.name, query=problem, documents=documents, return_documents=True)
    assert [result.document.text for result in answer.results] == [programs[index] for index, _ in ranking]
