"""The one way from text or token lists to ids: what is checked, cut, truncated and refused, and in which order."""

import numpy as np
import pytest

from codescaler.checkpoint.load import open_checkpoint
from codescaler.errors import CapacityExceeded, InvalidInput, MissingTensor
from codescaler.testing import save_chat, save_random_checkpoint
from codescaler.text.chat import load_chat, make_messages
from codescaler.text.encoder import Encoder, build_encoder

PAD = 299
PAIR = ("Add.", "a + b")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    save_random_checkpoint(path, "qwen3", vocab_size=300, pad_token_id=PAD, max_position_embeddings=2048)
    save_chat(path)
    return path


def encode(encoder, *lists):
    sequences, num_truncated = encoder.encode_tokens(lists)
    assert all(sequence.dtype == np.int32 for sequence in sequences)
    return [sequence.tolist() for sequence in sequences], num_truncated


def test_pairs_and_messages_become_the_tokenizer_s_ids(folder):
    encoder, chat = build_encoder(open_checkpoint(folder)), load_chat(folder)
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    sequences, num_truncated = encoder.encode_pairs([PAIR, messages], ["first", "second"])
    expected = chat.encode([chat.render(make_messages(PAIR)), chat.render(messages)])
    assert [sequence.tolist() for sequence in sequences] == [array.tolist() for array in expected]
    assert num_truncated == 0
    assert encoder.encode_pairs([], []) == ([], 0)


def test_errors_have_the_caller_s_names(folder):
    encoder = build_encoder(open_checkpoint(folder), max_length=5)
    with pytest.raises(InvalidInput, match="row 7 has"):
        encoder.encode_pairs([PAIR], ["row 7"])
    with pytest.raises(InvalidInput, match="row 8 is None"):
        encoder.encode_pairs([None], ["row 8"])
    with pytest.raises(InvalidInput, match=r"ids\[1\] is empty"):
        encoder.encode_tokens([[1], []])


@pytest.mark.parametrize(
    "head, pooling, expected",
    [
        (None, "hf", [3, PAD, 4]),
        (None, "last", [3, PAD, 4, PAD]),
        ("none", "hf", [3, PAD, 4, PAD]),
        ("token_classification", "hf", [3, PAD, 4, PAD]),
        ("sequence_classification", "hf", [3, PAD, 4]),
    ],
)
def test_a_sequence_ends_where_the_head_pools(folder, head, pooling, expected):
    encoder = build_encoder(open_checkpoint(folder), head=head, pooling=pooling)
    assert encode(encoder, [3, PAD, 4, PAD])[0] == [expected]


def test_pads_alone_leave_one(folder):
    assert encode(build_encoder(open_checkpoint(folder)), [PAD, PAD])[0] == [[PAD]]


def test_pads_do_not_count_as_length(folder):
    encoder = build_encoder(open_checkpoint(folder), max_length=2, max_batch_tokens=2)
    assert encode(encoder, [1, 2, PAD, PAD]) == ([[1, 2]], 0)


@pytest.mark.parametrize("truncation, kept", [("left", [3, 4, 5]), ("middle", [1, 4, 5])])
def test_truncation_is_counted(truncation, kept):
    encoder = Encoder((), 10, max_length=3, truncation=truncation)
    assert encode(encoder, [1, 2, 3, 4, 5], [1, 2, 3]) == ([kept, [1, 2, 3]], 1)


def test_what_no_forward_holds_is_refused():
    encoder = Encoder((), 10, max_length=5, truncation="left", max_batch_tokens=4)
    assert encode(encoder, [1] * 4)[0] == [[1] * 4]
    with pytest.raises(CapacityExceeded, match=r"ids\[0\] has 5 tokens, more than max_batch_tokens=4"):
        encoder.encode_tokens([[1] * 6])
    with pytest.raises(InvalidInput, match=r"ids\[0\]\[1\] is 10, outside the vocabulary 0\.\.9"):
        encoder.encode_tokens([[1, 10]])


def test_ids_are_copies():
    """A caller may write to its array while the request waits."""
    array = np.array([1, 2, 3], dtype=np.int32)
    (sequence,), _ = Encoder((), 10).encode_tokens([array])
    array[:] = 9
    assert sequence.tolist() == [1, 2, 3]


def test_a_folder_without_a_tokenizer_takes_token_lists(tmp_path):
    save_random_checkpoint(tmp_path, "qwen3")
    encoder = build_encoder(open_checkpoint(tmp_path))
    assert encode(encoder, [1, 2])[0] == [[1, 2]]
    with pytest.raises(MissingTensor, match="score_tokens"):
        encoder.encode_pairs([PAIR], ["pair"])
