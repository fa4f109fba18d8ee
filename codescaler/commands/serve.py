"""The commands `serve`, and `play`, which opens the page of a server of this machine."""

import argparse
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from codescaler.commands.calibration import read_model_calibration
from codescaler.commands.options import HEAD_OPTIONS, Add, add_engine_options, add_model_option, collect_options
from codescaler.env import API_KEY, read_api_key, use_passive_waiting
from codescaler.errors import BackendUnavailable, InvalidInput, WeightsError

if TYPE_CHECKING:
    from codescaler.engine import Engine
    from codescaler.evaluate.calibration import Calibration


def add_commands(add: Add) -> None:
    """Adds them to the command line."""
    serve = add("serve", _serve, "Answer requests for scores over HTTP.")
    serve.add_argument("models", nargs="*", metavar="MODEL", help="reward models, folders or hub ids (nano)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serve.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for a free one (%(default)s)")
    serve.add_argument("--uds", type=Path, metavar="FILE", help="listen in this file, a unix socket of mode 0600")
    serve.add_argument(
        "--served-name",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that clients may call the model by; with several models MODEL=NAME; may be repeated",
    )
    serve.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help=f"file of keys, one a line; or set {API_KEY} to one key"
    )
    serve.add_argument("--no-auth", action="store_true", help="let other machines in without a key")
    serve.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="a name that the server is reached by"
    )
    add_engine_options(serve, HEAD_OPTIONS)
    play = add("play", _play, "Open a page in the browser that ranks programs and shows where scores rise and fall.")
    add_model_option(play)
    play.add_argument("--port", type=int, default=0, help="port to listen on (a free one)")
    play.add_argument("--no-browser", action="store_true", help="only say the address")
    add_engine_options(play, HEAD_OPTIONS)
    play.set_defaults(host="127.0.0.1", uds=None, served_name=[], api_key_file=None, no_auth=False, allowed_host=[])


def _play(options: argparse.Namespace) -> None:
    options.models = [] if options.model is None else [options.model]
    _serve(options, is_played=True)


def _serve(options: argparse.Namespace, is_played: bool = False) -> None:
    use_passive_waiting()  # the server's own threads share the cores with those of a forward
    try:
        from codescaler.serve.app import make_app
        from codescaler.serve.guard import Guard, is_loopback, list_hosts
        from codescaler.serve.models import ServedModel
        from codescaler.serve.server import DRAIN_S, open_listener, run_server
    except ImportError as error:
        raise BackendUnavailable(
            f"the server needs a package that is not here ({error}); pip install 'codescaler[serve]'"
        ) from error
    keys = [] if is_played else _read_keys(options.api_key_file)  # only this machine reaches a page
    is_local = options.uds is not None or is_loopback(options.host)
    if not (is_local or keys or options.no_auth):
        raise InvalidInput(
            f"--host {options.host} lets other machines in; give --api-key-file or {API_KEY}, or say --no-auth"
        )
    hosts = None if options.uds is not None else list_hosts(options.host, options.allowed_host)
    if not is_local and (keys or options.no_auth) and not options.allowed_host:
        hosts = None  # its names are not known, and without a key it is open to everybody already
    listener = open_listener(options.host, options.port, options.uds)
    models = [ServedModel(engine, called, _find_calibration(engine)) for engine, called in _open_models(options)]
    app = make_app(models, Guard(hosts, keys))
    host, port = ("", 0) if options.uds else listener.getsockname()[:2]
    address = f"unix:{options.uds}" if options.uds else f"http://{f'[{host}]' if ':' in host else host}:{port}"
    names = ", ".join(name for model in models for name in model.names)
    print(f"codescaler serves {names} on {address}", file=sys.stderr, flush=True)
    if is_played and not options.no_browser:
        # A browser of the terminal would hold this thread. The socket listens, so nobody comes too early.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    run_server(app, listener, drain_s=0.0 if is_played else DRAIN_S)  # nobody balances load to a page


def _find_calibration(engine: "Engine") -> "Calibration | None":
    """Returns what the page says of gaps. A server does without a file that is of another model."""
    try:
        return read_model_calibration(engine, None)
    except WeightsError as error:
        print(f"not used: {error}", file=sys.stderr)
        return None


def _open_models(options: argparse.Namespace) -> "list[tuple[Engine, tuple[str, ...]]]":
    from codescaler.engine import Engine

    models: list[str | None] = list(dict.fromkeys(options.models)) or [None]
    names: dict[str, list[str]] = {model or "nano": [] for model in models}
    for name in options.served_name:
        model = next((model for model in names if name.startswith(f"{model}=")), None)
        if model is None and (len(names) > 1 or "=" in name):
            raise InvalidInput(f"--served-name {name}: give MODEL=NAME, with a MODEL of {', '.join(names)}")
        names[model or next(iter(names))].append(name if model is None else name.removeprefix(f"{model}="))
    return [
        (
            Engine.from_pretrained(model, **collect_options(options, HEAD_OPTIONS)),
            (model or "nano", *names[model or "nano"]),
        )
        for model in models
    ]


def _read_keys(path: Path | None) -> list[str]:
    if path is None:
        key = read_api_key()
        return [] if key is None else [key]
    from codescaler.commands.options import read_text

    keys = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not keys:
        raise InvalidInput(f"{path} holds no key; write one a line")
    return keys
