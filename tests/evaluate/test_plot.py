import sys

import pytest

from codescaler.errors import BackendUnavailable, InvalidInput
from codescaler.evaluate.plot import plot_bars, require_plot


def test_a_name_that_is_no_pngs_is_refused(tmp_path):
    require_plot(tmp_path / "a.PNG")
    with pytest.raises(InvalidInput, match=r"a\.pdf is no name of a PNG"):
        require_plot(tmp_path / "a.pdf")


def test_the_extra_is_named_where_matplotlib_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'codescaler\[evaluate\]'"):
        require_plot(tmp_path / "a.png")


def test_bars_are_drawn_though_a_mean_is_a_rounding_outside_its_interval(tmp_path):
    path = tmp_path / "bars.png"
    plot_bars({"a": {"mean": 0.1 + 0.2, "interval": (0.30000000000000016, 0.4)}}, "title", path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
