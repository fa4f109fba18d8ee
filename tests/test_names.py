"""Functions are named by verbs. `python tests/test_names.py` lists those that are not, and counts them."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# The first words of functions' names.
VERBS = """
act add admit advance align allocate announce answer append apply ask assert assign attack attempt attend audit
augment average await barrier bench bind bound broadcast build call capture cast certify change charge check choose
classify clear close collate collect combine compare compile complete compute concat connect continue convert copy
correlate count cross cut decode derive describe destroy detach detect disguise divide download draw drop dump edit
emit encode end enter escape estimate evaluate exchange excuse execute exit expect explain extend extract fail feed
fill filter finalize find finish fit flatten forget fork format free gather generate get give grade group handle hash
hold ignore indent index init introduce invert iterate join judge keep kill label launch lay leave lengthen limit list
load locate lock log make mark measure merge misspell mount move multiply mutate name narrow normalise normalize note
number observe open operate order overwrite pack pad paint parse patch pay pivot place plan play plot pool post
predict prefill prepare preview print profile protect prune pull put quantize queue raise randomize rank read reap
receive record reformat refuse register release remove rename render renew replace replay report request require
rerank resample reset resolve restore reuse reward rewrap rewrite round route run sample save scale score select send
serve settle shape shard share shorten show shrink simulate skip sleep sort spend split stack standardize start step
stop stratify stream strengthen strip submit sum summarize take tell time tokenize trace train trim truncate try
unfuse unpack unshare upcast update upload use validate vary view visit wait wake walk warm watch weigh withdraw work
wrap write
"""
# Predicates, constructors, the entry point.
FIRST_WORDS = {"is", "has", "may", "should", "allows", "supports", "from", "of", "main"}
# What the field calls operations, losses and figures; what users call; what other libraries call by its name.
OPERATIONS = {
    "expert_mlp", "fp8_linear", "fp8_rows", "glu", "int8_linear", "int8_rows", "linear", "linear_glu", "log_sum_exp",
    "pairwise_loss", "pooled_score", "qk_norm_rope", "rms_norm", "scaled_product", "tree_attention",
}  # fmt: skip
FIGURES = {"best_of_n", "bootstrap_interval", "kendall_tau", "pair_accuracy"}
COLLECTIVES = {"all_reduce_gradients", "all_reduce_sum"}
LOSSES = {"bradley_terry_loss", "exit_loss", "margin_mse_loss"}
FACE = {"feature_stream", "features", "features_tokens", "shaped_reward"}
HOOKS = {
    "assemble_rm_scores", "backward", "connection_lost", "connection_made", "data_received", "do_POST", "forward",
    "generic_visit", "getitem", "on_body", "on_header", "on_headers_complete", "on_message_begin",
    "on_message_complete", "on_step_end", "pause_writing", "pytest_collection_modifyitems", "pytest_runtest_logreport",
    "read1", "redirect_request", "resume_writing",
}  # fmt: skip
TERMS = OPERATIONS | FIGURES | COLLECTIVES | LOSSES | FACE | HOOKS
THINGS = {"property", "cached_property", "contextmanager", "fixture", "overload"}  # decorators of what is no action


def find_nouns():
    """Yields the place and name of every function that is not named by a verb."""
    for folder in ("codescaler", "kernels", "benches"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name.startswith("test_"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not is_named_well(node):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"


def is_named_well(node):
    name = node.name.lstrip("_")
    operation = name.removesuffix("_kernel").partition("_backward")[0]
    return (
        node.name.startswith("__")
        or name.split("_")[0] in FIRST_WORDS.union(VERBS.split())
        or operation in TERMS
        or any(word in ast.unparse(each) for each in node.decorator_list for word in THINGS)
    )


def test_functions_are_named_by_verbs():
    assert list(find_nouns()) == []


def test_the_check_finds_a_noun():
    assert not is_named_well(ast.parse("def _augmented(): pass").body[0])
    assert not is_named_well(ast.parse("def problem_of(): pass").body[0])
    assert is_named_well(ast.parse("def _augment(): pass").body[0])


if __name__ == "__main__":
    found = list(find_nouns())
    print(*found, f"{len(found)} functions are not named by a verb", sep="\n")
    sys.exit(bool(found))
