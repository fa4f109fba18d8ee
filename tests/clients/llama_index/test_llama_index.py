"""llama-index's postprocessors for Cohere, Jina and TEI."""

import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

MAKERS = {
    "cohere": lambda served, **options: CohereRerank(
        model=served.name, base_url=served.url, api_key="any", max_retries=1, **options
    ),
    "jina": lambda served, **options: JinaRerank(
        model=served.name, base_url=f"{served.url}/v1", api_key="any", **options
    ),
    "tei": lambda served, **options: TextEmbeddingInference(base_url=served.url, **options),
}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS)
def make_postprocessor(request):
    return request.param


@pytest.fixture
def nodes(programs):
    return [NodeWithScore(node=TextNode(text=program, id_=str(index))) for index, program in enumerate(programs)]


@pytest.mark.parametrize("top_n", [2, 4])
def test_nodes_have_the_order_and_the_bits_of_the_command(make_postprocessor, served, problem, nodes, ranking, top_n):
    kept = make_postprocessor(served, top_n=top_n).postprocess_nodes(nodes, query_str=problem)
    assert [(int(node.node_id), node.score) for node in kept] == ranking[:top_n]


def test_jinas_error_says_what_was_wrong(served, problem, nodes):
    postprocessor = JinaRerank(model="unknown", base_url=f"{served.url}/v1", api_key="any")
    with pytest.raises(RuntimeError, match="there is no model 'unknown'"):
        postprocessor.postprocess_nodes(nodes, query_str=problem)
