"""What one forward computed of a prefix serves the next: fewer tokens, the same bits."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codescaler.engine import Engine
from codescaler.engine.prefix_memory import MIN_TOKENS, Prefix, PrefixMemory
from codescaler.errors import InvalidInput
from codescaler.testing import save_chat, save_random_checkpoint


@pytest.fixture(scope="module", params=[("qwen3", "float32"), ("qwen3", "bfloat16"), ("gemma2", "float32")], ids=str)
def make_engine(request, tmp_path_factory):
    family, dtype = request.param
    path = tmp_path_factory.mktemp(family)
    save_random_checkpoint(path, family, vocab_size=97, pad_token_id=None, max_position_embeddings=1024)

    def make(num_bytes):
        return Engine.from_pretrained(path, device="cpu", dtype=dtype, prefix_memory_bytes=num_bytes)

    return make


def make_family(seed, num_tokens, num_programs):
    random = np.random.default_rng(seed)
    problem = random.integers(0, 97, num_tokens).tolist()
    return [problem + random.integers(0, 97, random.integers(1, 40)).tolist() for _ in range(num_programs)]


def score_one_by_one(engine, lists):
    return np.concatenate([engine.score_tokens([tokens]) for tokens in lists])


def test_programs_that_come_one_by_one_share_their_problem(make_engine):
    lists = make_family(0, 200, 8) + make_family(1, 130, 5)
    plain, remembering = make_engine(0), make_engine(None)
    expected = plain.score_tokens(lists)
    assert np.array_equal(score_one_by_one(remembering, lists), expected)
    programs = sum(map(len, lists)) - 8 * 200 - 5 * 130
    # The first program is alone, and the second shows what they share.
    assert remembering.num_distinct_tokens == programs + 2 * 200 + 2 * 130
    assert np.array_equal(score_one_by_one(remembering, lists[::-1]), expected[::-1])


def test_a_second_call_shares_with_the_first(make_engine):
    lists = make_family(0, 200, 8)
    plain, remembering = make_engine(0), make_engine(None)
    expected = np.concatenate([plain.score_tokens(lists)[:, None], plain.features_tokens(lists)], axis=1)
    remembering.score_tokens(lists[:4])
    before = remembering.num_distinct_tokens
    scores = remembering.score_tokens(lists[4:])
    assert remembering.num_distinct_tokens - before == sum(map(len, lists[4:])) - 4 * 200
    assert np.array_equal(scores, expected[4:, 0])
    assert np.array_equal(remembering.features_tokens(lists), expected[:, 1:])


@st.composite
def rounds_of_lists(draw):
    """Calls of lists that branch off earlier ones at random places, equal ones and prefixes among them."""
    lists: list[list[int]] = []
    rounds = []
    for _ in range(draw(st.integers(1, 4))):
        call = []
        for _ in range(draw(st.integers(1, 4))):
            base = draw(st.sampled_from(lists)) if lists else [1] * 70
            cut = draw(st.sampled_from([len(base), len(base) - 1, 64, 65, draw(st.integers(0, len(base)))]))
            tail = draw(st.lists(st.integers(0, 2), max_size=draw(st.sampled_from([2, 90]))))
            lists.append((base[:cut] + tail)[:400] or [0])
            call.append(lists[-1])
        rounds.append(call)
    return rounds


@pytest.fixture(scope="module")
def engines(make_engine):
    return make_engine(0), make_engine(None), make_engine(60_000)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=rounds_of_lists())
def test_over_random_calls_no_bit_changes(engines, rounds):
    plain, *remembering = engines
    for call in rounds:
        expected = plain.score_tokens(call)
        for engine in remembering:
            assert np.array_equal(engine.score_tokens(call), expected)


def test_a_prefix_serves_in_part():
    """The first two programs begin alike by chance, and the third does not."""
    memory = PrefixMemory()
    problem = np.arange(100, dtype=np.int32)
    first, second, third = (np.append(problem, np.array(end, np.int32)) for end in ([7, 7, 1], [7, 7, 2], [8, 3]))
    (prefix,) = memory.choose(["me"] * 2, [first, second]).values()
    assert len(prefix.tokens) == 102
    prefix.layers.append(Layers())
    memory.keep([prefix])
    assert memory.find("me", third) == (prefix, 100)
    assert memory.choose(["me"], [third]) == {}, "two tokens less than is kept"


def test_problems_below_one_system_prompt_are_kept_apart():
    memory = PrefixMemory()
    system = np.arange(80, dtype=np.int32)
    problems = [np.append(system, np.full(90, first, np.int32)) for first in (201, 202)]
    rows = [np.append(problem, np.array([end], np.int32)) for problem in problems for end in (301, 302)]
    chosen = memory.choose(["me"] * 4, rows)
    assert sorted(prefix.tokens[-1] for prefix in chosen.values()) == [201, 202]


ANSWER = np.array([90, 91], np.int32)


@pytest.mark.parametrize(
    "tokens, length",
    [
        ([1] * 100 + [90, 91, 5], 102),
        ([1] * 100 + [90, 91, 5, 90, 91, 6], 105),  # the last answer of several
        ([1] * 100 + [90, 91, 5, 91], 102),
        ([1] * 100 + [90, 91], None),  # no answer begins here
        ([1] * 60 + [90, 91] + [5] * 40, None),  # too short to keep
        ([1] * 100 + [91, 90, 5], None),
    ],
)
def test_the_first_program_of_a_problem_shows_where_the_answer_starts(tokens, length):
    memory = PrefixMemory(get_answer_start=lambda: ANSWER)
    chosen = memory.choose(["me"], [np.array(tokens, np.int32)])
    assert [len(prefix.tokens) for prefix in chosen.values()] == ([] if length is None else [length])


def test_no_more_is_copied_than_has_room():
    memory = PrefixMemory(max_bytes=2500, bytes_per_token=10, get_answer_start=lambda: ANSWER)
    problems = [np.append(np.full(98, first, np.int32), ANSWER) for first in range(4)]
    chosen = memory.choose(["me"] * 4, [np.append(problem, np.int32(5)) for problem in problems])
    assert sorted(chosen) == [2, 3], "the last 2 of 100 tokens each"


def test_programs_as_text_share_from_the_first_on(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3", vocab_size=300, pad_token_id=299, max_position_embeddings=1024)
    save_chat(tmp_path)
    engine = Engine.from_pretrained(tmp_path, device="cpu", dtype="float32")
    rows = [("Add two numbers. " * 6, f"return {value}") for value in ("a + b", "b + a", "a - b")]
    one_by_one = [engine.score([row])[0] for row in rows]
    computed = engine.num_distinct_tokens
    plain = Engine.from_pretrained(tmp_path, device="cpu", dtype="float32", prefix_memory_bytes=0)
    assert np.array_equal(plain.score(rows), one_by_one)
    shared_beyond_the_problem = 2 * len("\nreturn ") + len("a ")  # white space counts as the answer's
    assert computed == plain.num_distinct_tokens + shared_beyond_the_problem


def test_another_client_gains_nothing(make_engine):
    lists = make_family(0, 200, 4)
    engine = make_engine(None)
    engine._intake.put_tokens(lists[:2], client="a").result()
    before = engine.num_distinct_tokens
    engine._intake.put_tokens([lists[2]], client="b").result()
    assert engine.num_distinct_tokens - before == len(lists[2])
    before = engine.num_distinct_tokens
    engine._intake.put_tokens([lists[3]], client="a").result()
    assert engine.num_distinct_tokens - before == len(lists[3]) - 200


class Layers(list):
    """Stands for tensors: only their size counts."""

    nbytes = 100


def make_prefix(first, length=MIN_TOKENS):
    return Prefix("me", np.full(length, first, dtype=np.int32), [Layers()])


def test_the_memory_is_bounded_and_forgets_what_was_not_used():
    memory = PrefixMemory(250)
    prefixes = [make_prefix(first) for first in range(3)]
    memory.keep(prefixes[:2])
    longer = np.append(prefixes[0].tokens, np.int32(9))
    assert memory.find("me", longer) == (prefixes[0], MIN_TOKENS)
    memory.keep(prefixes[2:])
    assert (len(memory), memory.num_bytes) == (2, 200)
    assert memory.find("me", np.append(prefixes[1].tokens, np.int32(9))) is None
    assert memory.find("me", longer) == (prefixes[0], MIN_TOKENS)
    assert memory.find("you", longer) is None
    assert memory.find("me", prefixes[0].tokens) is None, "a sequence has a token of its own to compute"
    memory.clear()
    assert len(memory) == memory.num_bytes == 0


def test_a_wrong_size_is_refused(make_engine):
    for wrong in (-1, 1.5, True, "1"):
        with pytest.raises(InvalidInput, match="prefix_memory_bytes"):
            make_engine(wrong)
