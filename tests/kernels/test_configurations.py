"""The written table of tiles: an answer for every architecture, and room for one token at least."""

import pytest
from codescaler.kernels.configurations import WIDEST_HEAD, choose_attention_tile


@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942", "gfx950"])
@pytest.mark.parametrize("head_dim", [16, 64, 65, 128, WIDEST_HEAD])
@pytest.mark.parametrize("element_bytes", [2, 4])
@pytest.mark.parametrize("group", [1, 7, 16, 96, 128])
def test_a_tile_holds_a_token(architecture, head_dim, element_bytes, group):
    tile = choose_attention_tile(architecture, head_dim, element_bytes, group)
    assert tile.rows >= group
    assert tile.rows & (tile.rows - 1) == 0  # Triton's blocks are powers of two


def test_consumer_cards_get_what_fits_into_less_shared_memory():
    assert choose_attention_tile("sm_120", 128, 2, 1) == choose_attention_tile("sm_89", 128, 2, 1)
    assert choose_attention_tile("sm_103", 128, 2, 1) == choose_attention_tile("sm_100", 128, 2, 1)
