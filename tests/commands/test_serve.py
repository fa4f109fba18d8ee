"""How the names of a server's models are given."""

import argparse

import pytest

from codescaler.commands import serve
from codescaler.engine import Engine
from codescaler.errors import InvalidInput


@pytest.fixture
def open_models(monkeypatch):
    monkeypatch.setattr(Engine, "from_pretrained", lambda model=None, **_: model)
    monkeypatch.setattr(serve, "collect_options", lambda *_: {})
    return lambda models, names: serve._open_models(argparse.Namespace(models=models, served_name=names))


@pytest.mark.parametrize(
    "models, names, expected",
    [
        ([], [], [(None, ("nano",))]),
        ([], ["x", "nano=y"], [(None, ("nano", "x", "y"))]),
        (["a"], ["a=x=y"], [("a", ("a", "x=y"))]),
        (["a=b", "a"], ["a=b=x", "a=y"], [("a=b", ("a=b", "x")), ("a", ("a", "y"))]),
        (["a", "a"], ["x"], [("a", ("a", "x"))]),
    ],
)
def test_a_name_belongs_to_its_model(open_models, models, names, expected):
    assert open_models(models, names) == expected


@pytest.mark.parametrize("models, name", [(["a"], "b=x"), (["a", "b"], "x"), (["a", "b"], "c=x")])
def test_a_name_of_no_model_is_refused(open_models, models, name):
    with pytest.raises(InvalidInput, match="give MODEL=NAME, with a MODEL of a"):
        open_models(models, [name])
