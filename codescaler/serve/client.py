"""`Client` and `AsyncClient`: an engine's methods over HTTP. They import neither torch nor the server.

A request that the server refuses for now (503), or that finds no server, is sent again until `timeout_s` is over. Each
request names the hash of its problem, so that a load balancer can send programs of one problem to one server.
"""

import asyncio
import dataclasses
import hashlib
import http.client
import json
import logging
import socket
import ssl
import time
import urllib.parse
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, overload

from codescaler.env import API_KEY, read_api_key
from codescaler.errors import CodescalerError, EndpointUnavailable, InvalidInput
from codescaler.io.backoff import Backoff, read_retry_after
from codescaler.text.program import Conversation, Pair, normalize_program
from codescaler.types import LineScore, RankedCandidate

TIMEOUT_S = 120.0
MAX_CONNECTIONS = 64  # of an `AsyncClient`
_PAUSE_S = 0.5  # before a request is sent again
_LONGEST_PAUSE_S = 10.0
_MAX_ROWS = 1024  # of one request

_log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Client:
    """Scores and ranks programs on a server. Any thread may call it. Connections stay open for the calls that follow.

    Args:
        url: "http://host:port", or "unix:FILE" for a socket in a file.
        model: name of the model, None for the only one.
        api_key: that the server wants; None reads CODESCALER_API_KEY.
        timeout_s: after which a call gives up.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https", "unix") or not (parts.netloc or parts.path):
            raise InvalidInput(f"url={url!r}; give http://HOST:PORT, https://HOST, or unix:FILE")
        self.url = url
        self.model = model
        self.timeout_s = timeout_s
        self._parts = parts
        self._api_key = api_key or read_api_key()
        self._idle: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _close_all, self._idle)

    def score(self, pairs: Sequence[Pair]) -> list[float]:
        """Returns the raw reward of each (problem, response), or of each list of messages, as `Engine.score` does.

        Raises:
            InvalidInput: the server refuses a pair. EndpointUnavailable: no answer came in time.
        """
        if isinstance(pairs, (str, bytes)):
            raise InvalidInput("pairs is a text; give a list of (problem, response) pairs")
        scores: list[float] = []
        for start in range(0, len(pairs), _MAX_ROWS):
            items = [_make_item(pair) for pair in pairs[start : start + _MAX_ROWS]]
            results = self._post("/v1/programs", {"items": items}, _hash_problem(items))["results"]
            scores += [records[0]["score"] for records in results]
        return scores

    def score_stream(self, pairs: Iterable[Pair], names: Iterable[str] | None = None) -> Iterator[float]:
        """Yields what `score` returns; for what takes an engine, such as `RewardFunction`. Names are not sent."""
        yield from self.score(list(pairs))

    def rerank(
        self,
        problem: str,
        candidates: Sequence[str],
        extract: bool | str = False,
        top_k: int | None = None,
        *,
        language: str = "python",
        system: str | None = None,
        asked_first: bool = False,
    ) -> list[RankedCandidate]:
        """Returns the candidates best first, as `Engine.rerank` does; `code` is known if nothing was extracted.

        Raises: as `score`.
        """
        item = {"problem": problem, "candidates": _require_texts("candidates", candidates), "system": system}
        body = {"items": [item], "extract": extract, "language": language, "asked_first": asked_first}
        records = self._post("/v1/programs", body, _hash_problem([item]))["results"][0]
        ranked = [
            RankedCandidate(
                index,
                record["score"],
                record["is_valid"],
                None if extract else normalize_program(candidates[index]),
                tuple(record.get("missing", ())),
            )
            for index, record in enumerate(records)
        ]
        return sorted(ranked, key=lambda candidate: candidate.place)[:top_k]

    def reward(
        self, problem: str, completions: Sequence[str], *, language: str = "python", system: str | None = None
    ) -> list[float]:
        """Returns the shaped reward of each completion: 0 without one program that parses, else softplus of its score.

        Raises: as `score`.
        """
        item = {"problem": problem, "candidates": _require_texts("completions", completions), "system": system}
        body = {"items": [item], "extract": True, "shape": True, "language": language}
        return [record["reward"] for record in self._post("/v1/programs", body, _hash_problem([item]))["results"][0]]

    @overload
    def trace(self, problem: str, programs: str, *, system: str | None = None) -> list[LineScore]: ...

    @overload
    def trace(
        self, problem: str, programs: list[str] | tuple[str, ...], *, system: str | None = None
    ) -> list[list[LineScore]]: ...

    def trace(
        self, problem: str, programs: str | list[str] | tuple[str, ...], *, system: str | None = None
    ) -> list[LineScore] | list[list[LineScore]]:
        """Returns the score after each line of a program, or of each of several of one problem, as `Engine.trace` does.

        Raises: as `score`.
        """
        if isinstance(programs, str):
            return self.trace(problem, [programs], system=system)[0]
        body = {"problem": problem, "programs": _require_texts("programs", programs), "system": system}
        traced = self._post("/v1/trace", body, _hash_problem([body]))["programs"]
        names = [field.name for field in dataclasses.fields(LineScore)]
        return [[LineScore(**{name: line[name] for name in names}) for line in each["lines"]] for each in traced]

    def predict(self, pairs: Sequence[Pair]) -> list[float]:
        """Returns what `score` does; named as in sentence-transformers."""
        return self.score(pairs)

    def rank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[dict[str, Any]]:
        """Returns documents best first, as {"corpus_id", "score"}; named as in sentence-transformers.

        Documents are programs that are compared, as in `rerank`, but their order is that of the scores alone.
        """
        body = {
            "query": query,
            "documents": _require_texts("documents", documents),
            "top_n": top_k,
            "return_documents": False,
        }
        results = self._post("/v2/rerank", body, _hash_problem([{"problem": query}]))["results"]
        return [{"corpus_id": result["index"], "score": result["relevance_score"]} for result in results]

    def list_models(self) -> list[str]:
        """Returns the names of the server's models."""
        return [model["id"] for model in self._send("GET", "/v1/models", None, {})["data"]]

    def close(self) -> None:
        """Closes the connections that no call is using; the next call opens another."""
        _close_all(self._idle)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, path: str, body: dict[str, Any], session: str) -> Any:
        data = json.dumps({"model": self.model, **body}).encode()
        return self._send("POST", path, data, {"content-type": "application/json", "x-session-id": session})

    def _send(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> Any:
        """Sends a request until it is answered; 503 and a missing server are for now."""
        until = time.monotonic() + self.timeout_s
        backoff = Backoff(_PAUSE_S, _LONGEST_PAUSE_S)
        has_told = False
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        while True:
            left_s = until - time.monotonic()
            headers["x-request-timeout-ms"] = str(max(1, int(1000 * left_s)))
            connection, is_new = self._take_connection(max(left_s, 0.1))
            try:
                status, wait_s, answer = self._exchange(connection, method, path, data, headers)
            except (ssl.SSLCertVerificationError, http.client.InvalidURL) as error:
                raise InvalidInput(f"{self.url} cannot be asked: {error}") from error
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not is_new:  # the server may have closed it while it was idle
                    continue
                status, wait_s, answer = 503, 0.0, f"{type(error).__name__}: {error}"
                if not has_told:
                    has_told = True
                    _log.warning(
                        "no server answers at %s (%s); trying for %.0f s more, so start it, or name another URL",
                        self.url, error, max(left_s, 0.0),
                    )  # fmt: skip
            if status == 200:
                return answer
            if status != 503:
                _raise_refusal(status, answer, self.url)
            pause_s = backoff.step(wait_s)
            if time.monotonic() + pause_s > until:
                raise EndpointUnavailable(
                    f"{self.url} gave no score in {self.timeout_s:.0f} s ({_get_message(answer)}); is the server up?"
                )
            time.sleep(pause_s)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        data: bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[int, float, Any]:
        connection.request(method, path, data, dict(headers))
        response = connection.getresponse()
        text = response.read()
        self._idle.append(connection)
        try:
            answer = json.loads(text)
        except ValueError as error:
            if response.status in (502, 503, 504):  # of a proxy, or of a server with too many connections
                return 503, read_retry_after(response.headers), text[:200].decode(errors="replace")
            raise EndpointUnavailable(f"{self.url}{path} answered {text[:200]!r}; is it codescaler serve?") from error
        return response.status, read_retry_after(response.headers), answer

    def _take_connection(self, timeout_s: float) -> tuple[http.client.HTTPConnection, bool]:
        """Returns an idle connection or a new one, and whether it is new."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        return connection, connection.sock is None

    def _connect(self) -> http.client.HTTPConnection:
        if self._parts.scheme == "unix":
            return _UnixConnection(self._parts.path)
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.netloc, timeout=self.timeout_s)


class AsyncClient:
    """`Client` for event loops. Calls run on threads of its own, `max_connections` at a time; other arguments as there.

    A trainer has hundreds of samples under way, and the server can join only those that it has seen.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, max_connections: int = MAX_CONNECTIONS, **options: Any
    ) -> None:
        self._client = Client(url, **options)
        self._threads = ThreadPoolExecutor(max_connections, "codescaler-client")

    async def score_async(self, pairs: Sequence[Pair]) -> list[float]:
        """Returns what `Client.score` does; named as in `Engine`."""
        return await self.score(pairs)

    async def score(self, pairs: Sequence[Pair]) -> list[float]:
        """Returns what `Client.score` does."""
        return await self._run(self._client.score, pairs)

    async def rerank(self, problem: str, candidates: Sequence[str], **options: Any) -> list[RankedCandidate]:
        """Returns what `Client.rerank` does."""
        return await self._run(self._client.rerank, problem, candidates, **options)

    async def reward(self, problem: str, completions: Sequence[str], **options: Any) -> list[float]:
        """Returns what `Client.reward` does."""
        return await self._run(self._client.reward, problem, completions, **options)

    @overload
    async def trace(self, problem: str, programs: str, **options: Any) -> list[LineScore]: ...

    @overload
    async def trace(
        self, problem: str, programs: list[str] | tuple[str, ...], **options: Any
    ) -> list[list[LineScore]]: ...

    async def trace(
        self, problem: str, programs: str | list[str] | tuple[str, ...], **options: Any
    ) -> list[LineScore] | list[list[LineScore]]:
        """Returns what `Client.trace` does."""
        return await self._run(self._client.trace, problem, programs, **options)

    async def predict(self, pairs: Sequence[Pair]) -> list[float]:
        """Returns what `Client.predict` does."""
        return await self.score(pairs)

    async def rank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[dict[str, Any]]:
        """Returns what `Client.rank` does."""
        return await self._run(self._client.rank, query, documents, top_k)

    async def list_models(self) -> list[str]:
        """Returns what `Client.list_models` does."""
        return await self._run(self._client.list_models)

    async def close(self) -> None:
        """Ends the threads and their connections, when the calls that are under way have ended."""
        await asyncio.to_thread(self._threads.shutdown)
        self._client.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, call: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *arguments, **options))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _close_all(connections: list[http.client.HTTPConnection]) -> None:
    while connections:
        connections.pop().close()


def _require_texts(name: str, texts: Sequence[str]) -> list[str]:
    if isinstance(texts, (str, bytes)):
        raise InvalidInput(f"{name} is a text; give a list of texts")
    return list(texts)


def _make_item(pair: Pair) -> dict[str, Any]:
    given = pair if isinstance(pair, Conversation) else Conversation(pair)
    messages = list(given.turns)
    if len(messages) == 2 and all(isinstance(text, str) for text in messages):
        messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), messages, strict=True)]
    return {"messages": messages, "system": given.system, "is_program": given.is_program}


def _hash_problem(items: Sequence[Mapping[str, Any]]) -> str:
    """Returns what names the first item's problem, in whichever form it is sent: all of a conversation but its end."""
    first = items[0] if items else {}
    problem = first.get("problem")
    if problem is None:
        problem = "\n".join(str(message.get("content")) for message in first.get("messages", [])[:-1])
    return hashlib.sha256(problem.encode(errors="surrogatepass")).hexdigest()[:16]


def _raise_refusal(status: int, answer: Any, url: str) -> None:
    message = f"{url} answered {status}: {_get_message(answer)}"
    if status in (400, 404, 413, 415):
        raise InvalidInput(message)
    if status == 401:
        raise EndpointUnavailable(f"{message}; give api_key, or set {API_KEY} where this client runs")
    if status in (403, 408, 504):
        raise EndpointUnavailable(message)
    raise CodescalerError(message)


def _get_message(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error["message"]) if isinstance(error, dict) and "message" in error else str(answer)[:200]
