"""`Client` and `AsyncClient`: an engine's methods over HTTP. They import neither torch nor the server.

A request that the server refuses for now (503), or that finds no server, is sent again until `timeout_s` is over. Each
request names the hash of its problem, so that a load balancer can send programs of one problem to one server.
"""

import asyncio
import hashlib
import http.client
import json
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from codescaler.env import read_api_key
from codescaler.errors import CodescalerError, EndpointUnavailable, InvalidInput
from codescaler.text.program import Conversation, Pair, normalize_program
from codescaler.types import RankedCandidate

TIMEOUT_S = 120.0
_PAUSE_S = 0.5  # before a request is sent again, doubled each time up to _LONGEST_PAUSE_S
_LONGEST_PAUSE_S = 10.0
_MAX_ROWS = 1024  # of one request


class Client:
    """Scores and ranks programs on a server. A thread may use one client at a time.

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
        self._connection: http.client.HTTPConnection | None = None

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
    ) -> list[RankedCandidate]:
        """Returns the candidates best first, as `Engine.rerank` does; `code` is known if nothing was extracted.

        Raises: as `score`.
        """
        item = {"problem": problem, "candidates": list(candidates), "system": system}
        body = {"items": [item], "extract": extract, "language": language}
        records = self._post("/v1/programs", body, _hash_problem([item]))["results"][0]
        ranked = [
            RankedCandidate(
                index, record["score"], record["is_valid"], None if extract else normalize_program(candidates[index])
            )
            for index, record in enumerate(records)
        ]
        ranked.sort(key=lambda c: (not c.is_valid, float("inf") if c.score is None else -c.score, c.index))
        return ranked[:top_k]

    def reward(
        self, problem: str, completions: Sequence[str], *, language: str = "python", system: str | None = None
    ) -> list[float]:
        """Returns the shaped reward of each completion: 0 without one program that parses, else softplus of its score.

        Raises: as `score`.
        """
        item = {"problem": problem, "candidates": list(completions), "system": system}
        body = {"items": [item], "extract": True, "shape": True, "language": language}
        return [record["reward"] for record in self._post("/v1/programs", body, _hash_problem([item]))["results"][0]]

    def predict(self, pairs: Sequence[Pair]) -> list[float]:
        """Returns what `score` does; named as in sentence-transformers."""
        return self.score(pairs)

    def rank(self, query: str, documents: Sequence[str], top_k: int | None = None) -> list[dict[str, Any]]:
        """Returns documents best first, as {"corpus_id", "score"}; named as in sentence-transformers."""
        scores = self.score([(query, document) for document in documents])
        best = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
        return [{"corpus_id": index, "score": scores[index]} for index in best[:top_k]]

    def list_models(self) -> list[str]:
        """Returns the names of the server's models."""
        return [model["id"] for model in self._send("GET", "/v1/models", None, {})["data"]]

    def close(self) -> None:
        """Closes the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

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
        pause_s = _PAUSE_S
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        while True:
            left_s = until - time.monotonic()
            headers["x-request-timeout-ms"] = str(max(1, int(1000 * left_s)))
            try:
                status, wait_s, answer = self._exchange(method, path, data, headers, max(left_s, 0.1))
            except (ssl.SSLCertVerificationError, http.client.InvalidURL) as error:
                raise InvalidInput(f"{self.url} cannot be asked: {error}") from error
            except (OSError, http.client.HTTPException) as error:
                self.close()
                status, wait_s, answer = 503, None, f"{type(error).__name__}: {error}"
            if status == 200:
                return answer
            if status != 503:
                _raise_refusal(status, answer, self.url)
            pause_s = min(pause_s if wait_s is None else wait_s, _LONGEST_PAUSE_S)
            if time.monotonic() + pause_s > until:
                raise EndpointUnavailable(
                    f"{self.url} gave no score in {self.timeout_s:.0f} s ({_get_message(answer)}); is the server up?"
                )
            time.sleep(pause_s)
            pause_s *= 2

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int, float | None, Any]:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.timeout = timeout_s
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        self._connection.request(method, path, data, dict(headers))
        response = self._connection.getresponse()
        text = response.read()
        retry_after = response.headers.get("retry-after", "")
        try:
            answer = json.loads(text)
        except ValueError as error:
            if response.status in (502, 503, 504):  # of a proxy, or of a server with too many connections
                return 503, None, text[:200].decode(errors="replace")
            raise EndpointUnavailable(f"{self.url}{path} answered {text[:200]!r}; is it codescaler serve?") from error
        return response.status, float(retry_after) if retry_after.isdigit() else None, answer

    def _connect(self) -> http.client.HTTPConnection:
        if self._parts.scheme == "unix":
            return _UnixConnection(self._parts.path)
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.netloc, timeout=self.timeout_s)


class AsyncClient:
    """`Client` for event loops: each call runs on a thread, with a connection of its own. Arguments as there."""

    def __init__(self, url: str = "http://127.0.0.1:8000", **options: Any) -> None:
        self._url = url
        self._options = options
        Client(url, **options)  # checks them

    async def score(self, pairs: Sequence[Pair]) -> list[float]:
        """Returns what `Client.score` does."""
        return await self._call("score", pairs)  # type: ignore[no-any-return]

    async def rerank(self, problem: str, candidates: Sequence[str], **options: Any) -> list[RankedCandidate]:
        """Returns what `Client.rerank` does."""
        return await self._call("rerank", problem, candidates, **options)  # type: ignore[no-any-return]

    async def reward(self, problem: str, completions: Sequence[str], **options: Any) -> list[float]:
        """Returns what `Client.reward` does."""
        return await self._call("reward", problem, completions, **options)  # type: ignore[no-any-return]

    async def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        def run() -> Any:
            with Client(self._url, **self._options) as client:
                return getattr(client, name)(*arguments, **options)

        return await asyncio.to_thread(run)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _make_item(pair: Pair) -> dict[str, Any]:
    given = pair if isinstance(pair, Conversation) else Conversation(pair)
    messages = list(given.turns)
    if len(messages) == 2 and all(isinstance(text, str) for text in messages):
        messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), messages, strict=True)]
    return {"messages": messages, "system": given.system, "is_program": given.is_program}


def _hash_problem(items: Sequence[Mapping[str, Any]]) -> str:
    first = items[0] if items else {}
    problem = first.get("problem") or json.dumps(first.get("messages", [])[:1])
    return hashlib.sha256(problem.encode(errors="surrogatepass")).hexdigest()[:16]


def _raise_refusal(status: int, answer: Any, url: str) -> None:
    message = f"{url} answered {status}: {_get_message(answer)}"
    if status in (400, 404, 413, 415):
        raise InvalidInput(message)
    if status in (401, 403, 408, 504):
        raise EndpointUnavailable(message)
    raise CodescalerError(message)


def _get_message(answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error["message"]) if isinstance(error, dict) and "message" in error else str(answer)[:200]
