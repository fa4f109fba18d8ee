"""`make_app`: the ASGI application. Reads a request within limits, has the service compute it, writes the answer.

Every answer to a request that fails is in OpenAI's form: {"error": {"message", "type", "code"}}. Bodies are not logged.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from codescaler.engine import Engine
from codescaler.errors import CodescalerError
from codescaler.serve.answers import Model, ModelsAnswer, StatusAnswer
from codescaler.serve.dialects import POSTS, Body, MakeJob
from codescaler.serve.guard import Guard
from codescaler.serve.holding import Holding
from codescaler.serve.job import Job
from codescaler.serve.metrics import Metrics
from codescaler.serve.models import ModelRegistry, ServedModel
from codescaler.serve.native import NATIVE_POSTS
from codescaler.serve.page import ASSETS, PAGE_HEADERS, read_asset
from codescaler.serve.refusal import Refusal, describe_refusal, make_refusal
from codescaler.serve.schema import describe_api
from codescaler.serve.service import Service
from codescaler.serve.trainers import TRAINER_POSTS

MAX_BODY_BYTES = 16 << 20
_MAX_DISCARDED = 4  # bodies' worth that is read and dropped: a client that is still writing would not see the answer
_HELD_BYTES = 1 << 16  # a body is counted in steps of these
MAX_ROWS = 4096  # of one request: more belong into several, so that others come in between
BODY_S = 30.0  # that a client may take to send a body
TIMEOUT_S = 120.0  # for the scores of a request, if the client names no time
MAX_TIMEOUT_S = 3600.0

ALL_POSTS = POSTS | TRAINER_POSTS | NATIVE_POSTS

_log = logging.getLogger("codescaler.serve")


def make_app(models: Sequence[ServedModel] | None = None, guard: Guard | None = None) -> Starlette:
    """Returns the application: by default of nano, for this machine's loopback, without keys."""
    if models is None:
        models = [ServedModel(Engine.from_pretrained(), ("nano",))]
    metrics = Metrics()
    service = Service(ModelRegistry(models), metrics)
    metrics.watch(service)
    return _App(service, guard or Guard(["localhost", "127.0.0.1", "[::1]", "testserver"])).app


class _App:
    """The routes, and what they share."""

    def __init__(self, service: Service, guard: Guard) -> None:
        self._service = service
        self._guard = guard
        self._started = int(time.time())
        gets: dict[str, Callable[[Request], Response]] = {
            **{path: partial(_send_asset, *asset) for path, asset in ASSETS.items()},
            "/v1/models": self._list_models,
            "/health": self._show_ready,
            "/health/live": lambda _: _write(StatusAnswer(status="live")),
            "/health/ready": self._show_ready,
            "/metrics": lambda _: Response(service.metrics.format(), media_type="text/plain; version=0.0.4"),
            "/openapi.json": lambda _: _write(describe_api(ALL_POSTS)),
        }
        routes = [Route(path, self._wrap(path, _make_get(make)), methods=["GET"]) for path, make in gets.items()]
        for path, post in ALL_POSTS.items():
            routes.append(Route(path, self._wrap(path, self._make_post(post.body, post.make_job)), methods=["POST"]))
        self.app = Starlette(
            routes=routes, lifespan=self._live, exception_handlers={404: self._refuse_path, 405: self._refuse_path}
        )
        self.app.router.redirect_slashes = False  # a redirection would pass the guard by
        self.app.state.service = service

    @contextlib.asynccontextmanager
    async def _live(self, _: Starlette) -> AsyncIterator[None]:
        yield
        self._service.close()

    async def _refuse_path(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        return _write_refusal(
            Refusal(status, "no_such_route", f"there is no {request.method} {request.scope['path']:.200}")
        )

    def _wrap(
        self, path: str, handle: Callable[[Request, str], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Adds to a handler: who may call it, errors in one form, metrics, and the id of the request."""

        async def run(request: Request) -> Response:
            started = time.perf_counter()
            try:
                peer = request.client.host if request.client else "local"
                client = self._guard.admit(path, _merge_headers(request), peer)
                response = await handle(request, client)
            except (CodescalerError, ClientDisconnect) as error:
                response = self._refuse(path, _describe(error))
            except Exception as error:
                _log.exception("%s failed", path)
                response = self._refuse(path, make_refusal(error))
            self._service.metrics.requests.labels(path, response.status_code).inc()
            self._service.metrics.seconds.labels(path).observe(time.perf_counter() - started)
            return response

        return run

    def _refuse(self, path: str, refusal: Refusal) -> Response:
        self._service.metrics.refused.labels(refusal.code).inc()
        response = _write_refusal(refusal)
        if refusal.status == 401:  # of the page's reader, the browser then asks for a password
            response.headers["www-authenticate"] = 'Basic realm="codescaler"' if path == "/" else "Bearer"
        return response

    def _make_post(self, body_type: type[Body], make_job: MakeJob) -> Callable[[Request, str], Awaitable[Response]]:
        decoder = msgspec.json.Decoder(body_type)

        async def post(request: Request, client: str) -> Response:
            timeout_s = _read_timeout(request)
            with Holding() as holding:
                body = await _read_body(request, partial(self._service.hold_body, client, holding=holding))
                read_job = partial(_make_job, decoder, make_job, body, request.query_params)
                leave = partial(_wait_for_leaving, request)
                job, outcome = await self._service.compute(read_job, len(body), client, timeout_s, leave, holding)
                return _write(job.answer(outcome), {"x-request-id": outcome.request_id})

        return post

    def _list_models(self, _: Request) -> Response:
        data = [
            Model(
                id=name,
                object="model",
                created=self._started,
                owned_by="codescaler",
                max_model_len=model.engine.max_length,
            )
            for model in self._service.models.models
            for name in model.names
        ]
        return _write(ModelsAnswer(object="list", data=data))

    def _show_ready(self, _: Request) -> Response:
        if self._service.is_draining:
            raise Refusal(503, "draining", "this server is about to end; go to another one", retry_after_s=1)
        return _write(StatusAnswer(status="ready"))


def _send_asset(name: str, media_type: str, _: Request) -> Response:
    return Response(read_asset(name), media_type=media_type, headers=PAGE_HEADERS)


def _make_get(make: Callable[[Request], Response]) -> Callable[[Request, str], Awaitable[Response]]:
    async def get(request: Request, client: str) -> Response:
        return make(request)

    return get


def _merge_headers(request: Request) -> dict[str, str]:
    """Returns the headers, one that stands there twice as a list: a proxy may have read the other one."""
    merged: dict[str, str] = {}
    for name, value in request.headers.items():
        merged[name] = f"{merged[name]}, {value}" if name in merged else value
    return merged


def _read_timeout(request: Request) -> float:
    value = request.headers.get("x-request-timeout-ms")
    if value is None:
        return TIMEOUT_S
    is_number = value.isascii() and value.isdigit() and len(value) <= 12
    if not is_number or not 0 < int(value) <= 1000 * MAX_TIMEOUT_S:
        raise Refusal(
            400,
            "invalid_request",
            f"X-Request-Timeout-Ms is {value!r:.50}; give milliseconds from 1 to {1000 * MAX_TIMEOUT_S:.0f}",
        )
    return int(value) / 1000.0


async def _read_body(request: Request, hold: Callable[[int], None]) -> bytearray:
    """Reads the body within the limits of size and time. `hold` is told of its bytes, before they are kept.

    Raises: Refusal, with status 415 for another type or a compressed body, 413 above the size, 408 after the time.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "not_json", f"the body is {kind!r:.100}; send Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "compressed", "the body is compressed; send it as it is")
    body = bytearray()
    num_held = num_bytes = 0

    async def read() -> None:
        nonlocal num_held, num_bytes
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_held < num_bytes <= MAX_BODY_BYTES:
                hold(max(num_bytes - num_held, _HELD_BYTES))
                num_held += max(num_bytes - num_held, _HELD_BYTES)
            if num_bytes <= MAX_BODY_BYTES:
                body.extend(chunk)
            elif num_bytes > _MAX_DISCARDED * MAX_BODY_BYTES:
                break

    try:
        await asyncio.wait_for(read(), BODY_S)
    except asyncio.TimeoutError as error:
        raise Refusal(408, "body_too_slow", f"no whole body after {BODY_S:.0f} s") from error
    if num_bytes > MAX_BODY_BYTES:
        raise Refusal(413, "body_too_large", f"the body is larger than {MAX_BODY_BYTES} bytes; send fewer rows")
    return body


def _decode(decoder: "msgspec.json.Decoder[Any]", body: bytearray) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Refusal(
            400, "invalid_request", f"the body cannot be read: {error or 'it is nested too deeply'}"
        ) from error


def _make_job(
    decoder: "msgspec.json.Decoder[Any]", make_job: MakeJob, body: bytearray, query_params: Mapping[str, str]
) -> Job:
    """Reads a body. On a thread, since a large one takes long."""
    decoded = _decode(decoder, body)
    decoded.update_from_url(query_params)
    for count in decoded.count_rows():
        if count > MAX_ROWS:
            raise Refusal(400, "too_many_rows", f"the request holds {count} rows; send at most {MAX_ROWS} at a time")
        if not count:
            raise Refusal(400, "invalid_request", "the request holds no row; give at least one")
    return make_job(decoded)


async def _wait_for_leaving(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _describe(error: Exception) -> Refusal:
    if isinstance(error, ClientDisconnect):
        return Refusal(499, "client_left", "the client closed the connection")
    return make_refusal(error)


def _write(value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers=headers)


def _write_refusal(refusal: Refusal) -> Response:
    response = _write(*describe_refusal(refusal))
    response.status_code = refusal.status
    return response
