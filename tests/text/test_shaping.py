import math

import pytest

from codescaler.errors import InvalidInput
from codescaler.text.shaping import shaped_reward


@pytest.mark.parametrize("score", [0.0, 1.0, -1.0, 6.5424, -0.0313, 23.07, -20.5, 700.0, -700.0, 1e308, -1e308])
def test_a_valid_reward_is_softplus(score):
    expected = score if score > 700 else math.log1p(math.exp(score))
    assert shaped_reward(score, True) == pytest.approx(expected, rel=1e-12)


def test_valid_beats_invalid_and_order_is_kept():
    scores = [-700.0, -20.0, -1.0, 0.0, 1.0, 20.0, 700.0]
    rewards = [shaped_reward(score, True) for score in scores]
    assert rewards == sorted(rewards)
    assert min(rewards) > shaped_reward(1e9, False) == 0.0


def test_infinities_and_nan():
    assert shaped_reward(math.inf, True) == math.inf
    assert shaped_reward(-math.inf, True) == 0.0
    assert shaped_reward(math.nan, False) == 0.0
    with pytest.raises(InvalidInput, match="nan"):
        shaped_reward(math.nan, True)
