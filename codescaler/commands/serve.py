"""The command `serve`."""

import argparse
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from codescaler.commands.options import Add, add_engine_options, collect_options
from codescaler.env import API_KEY, read_api_key, use_passive_waiting
from codescaler.errors import BackendUnavailable, InvalidInput

if TYPE_CHECKING:
    from codescaler.engine import Engine


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
    add_engine_options(serve)


def _serve(options: argparse.Namespace) -> None:
    use_passive_waiting()  # the server's own threads share the cores with those of a forward
    try:
        from codescaler.serve.app import make_app
        from codescaler.serve.guard import Guard, is_loopback, list_hosts
        from codescaler.serve.models import ServedModel
        from codescaler.serve.server import open_listener, run_server
    except ImportError as error:
        raise BackendUnavailable(
            f"the server needs a package that is not here ({error}); pip install 'codescaler[serve]'"
        ) from error
    keys = _read_keys(options.api_key_file)
    is_local = options.uds is not None or is_loopback(options.host)
    if not (is_local or keys or options.no_auth):
        raise InvalidInput(
            f"--host {options.host} lets other machines in; give --api-key-file or {API_KEY}, or say --no-auth"
        )
    hosts = None if options.uds is not None else list_hosts(options.host, options.allowed_host)
    if not is_local and (keys or options.no_auth) and not options.allowed_host:
        hosts = None  # its names are not known, and without a key it is open to everybody already
    listener = open_listener(options.host, options.port, options.uds)
    models = [ServedModel(*opened) for opened in _open_models(options)]
    app = make_app(models, Guard(hosts, keys))
    _tell(options, listener, [name for model in models for name in model.names])
    run_server(app, listener)


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
        (Engine.from_pretrained(model, **collect_options(options)), (model or "nano", *names[model or "nano"]))
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


def _tell(options: argparse.Namespace, listener: socket.socket, names: list[str]) -> None:
    place = f"unix:{options.uds}" if options.uds else "http://{}:{}".format(*listener.getsockname()[:2])
    print(f"codescaler serves {', '.join(names)} on {place}", file=sys.stderr, flush=True)
