"""litellm's providers whose servers rank or embed, each in its own dialect."""

import os

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or the import asks the network for prices

import litellm
from litellm.llms.base_llm.chat.transformation import BaseLLMException

# The address that each provider is given. infinity, hosted_vllm and huggingface share the path /rerank.
ADDRESSES = {"cohere": "", "hosted_vllm": "", "infinity": "", "huggingface": "", "jina_ai": "/v1/rerank"}


@pytest.mark.parametrize("provider", ADDRESSES)
@pytest.mark.parametrize("top_n", [None, 2])
@pytest.mark.parametrize("options", [{}, {"return_documents": True}, {"return_documents": False}], ids=str)
def test_a_ranking_has_the_order_and_the_bits_of_the_command(
    provider, served, problem, programs, ranking, top_n, options
):
    answer = litellm.rerank(
        model=f"{provider}/{served.name}",
        query=problem,
        documents=programs,
        top_n=top_n,
        api_base=served.url + ADDRESSES[provider],
        api_key="any",
        **options,
    )
    assert [(result["index"], result["relevance_score"]) for result in answer.results] == ranking[:top_n]
    for result in answer.results:
        document = result.get("document")
        assert document is None or document["text"] == programs[result["index"]]


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_an_embedding_has_the_bits_of_the_score(provider, served, problem, programs, expected):
    messages = [[{"role": "user", "content": problem}, {"role": "assistant", "content": text}] for text in programs]
    answer = litellm.embedding(
        model=f"{provider}/{served.name}",
        input=[served.render(pair) for pair in messages],
        api_base=f"{served.url}/v1",
        api_key="any",
    )
    assert [row["embedding"] for row in answer.data] == [[score] for score in expected]


@pytest.mark.parametrize("provider", sorted(ADDRESSES.keys() - {"huggingface"}))  # TEI's requests name no model
def test_a_refusal_says_what_was_wrong(provider, served, problem, programs):
    with pytest.raises(
        (litellm.APIConnectionError, litellm.NotFoundError, BaseLLMException), match="no model 'unknown'"
    ):
        litellm.rerank(
            model=f"{provider}/unknown",
            query=problem,
            documents=programs,
            api_base=served.url + ADDRESSES[provider],
            api_key="any",
        )
