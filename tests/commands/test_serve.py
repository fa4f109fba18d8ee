"""How the names of a server's models are given, and what `play` opens."""

import argparse
import os
import re
import subprocess
import sys
import threading
import urllib.request

import pytest

from codescaler import cli
from codescaler.commands import serve
from codescaler.engine import Engine
from codescaler.errors import InvalidInput, WeightsError


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


@pytest.mark.parametrize("options, is_opened", [([], True), (["--no-browser"], False)])
def test_play_opens_the_page_of_this_machine(monkeypatch, capsys, options, is_opened):
    opened, shown, came = [], [], threading.Event()

    def open_browser(address):
        opened.append(address)
        came.set()

    def run(app, listener, *, drain_s):
        shown.append((listener.getsockname(), drain_s))
        assert not is_opened or came.wait(10)
        listener.close()

    monkeypatch.setattr("webbrowser.open", open_browser)
    monkeypatch.setattr("codescaler.serve.server.run_server", run)
    assert cli.main(["play", "--dtype", "float32", *options]) == 0
    ((host, port), drain_s) = shown[0]
    assert (host, drain_s) == ("127.0.0.1", 0.0)
    assert opened == ([f"http://127.0.0.1:{port}"] if is_opened else [])
    assert f"codescaler serves nano on http://127.0.0.1:{port}" in capsys.readouterr().err


def test_play_ends_at_an_interrupt_and_wants_no_key():
    command = [sys.executable, "-m", "codescaler.cli", "play", "--no-browser", "--num-threads", "1"]
    environment = os.environ | {"CODESCALER_API_KEY": "a key of another server"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = next(found[1] for line in process.stderr if (found := re.search(r" on (http://\S+)$", line)))
            assert b"page.js" in urllib.request.urlopen(address, timeout=30).read()
            process.send_signal(2)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_calibration_of_another_model_is_left_out(monkeypatch, capsys):
    def read(engine, path):
        raise WeightsError("calibration.json is of another model")

    monkeypatch.setattr(serve, "read_model_calibration", read)
    assert serve._find_calibration(None) is None
    assert "not used: calibration.json is of another model" in capsys.readouterr().err
