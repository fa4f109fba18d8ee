"""Completions from a server that speaks OpenAI's chat form. Knows HTTP, and nothing of programs."""

import http.client
import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from email.message import Message
from typing import IO, Any

from codescaler.data.sample.sampling import Completion, Request, Sampling
from codescaler.errors import EndpointUnavailable, InvalidInput
from codescaler.io.backoff import Backoff, read_retry_after

_MAX_ANSWER_BYTES = 2**26
_MAX_WAIT_SECONDS = 60.0


class _Passing(Exception):
    """A failure that may pass; `wait_seconds` is what the server asks for."""

    def __init__(self, message: str, wait_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the key is for the server that was named."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


class Endpoint:
    """A server, asked for one completion a request, `concurrency` requests at a time.

    A passing fault (429, 5xx, no connection, an answer that is no completion) is tried `num_tries` times. Waits double
    from `backoff_seconds` up to a minute. A wait that the server asks for is kept, up to a minute. `num_retries` counts
    retries. Seeds are passed on. The server decides whether the same seed gives the same text.
    """

    identity = "an endpoint"  # the same model may be served elsewhere tomorrow

    def __init__(
        self,
        url: str,
        sampling: Sampling,
        *,
        api_key: str | None = None,
        concurrency: int = 8,
        timeout_seconds: float = 300.0,
        num_tries: int = 8,
        backoff_seconds: float = 1.0,
    ) -> None:
        if concurrency < 1:
            raise InvalidInput(f"concurrency {concurrency}; give a whole number of at least 1")
        self.num_retries = 0
        self._url = make_chat_url(url)
        self._sampling = sampling
        self._api_key = api_key
        self._concurrency = concurrency
        self._timeout_seconds = timeout_seconds
        self._num_tries = num_tries
        self._backoff_seconds = backoff_seconds
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._lock = threading.Lock()

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        """Yields each request's completions.

        Raises: EndpointUnavailable: a completion could not be had. InvalidInput: the server refuses what it is asked.
        """
        stopped = threading.Event()
        pool = ThreadPoolExecutor(self._concurrency)
        waiting: deque[list[Future[Completion]]] = deque()
        try:
            for request in requests:
                waiting.append([pool.submit(self._complete, request.prompt, seed, stopped) for seed in request.seeds])
                # Enough ahead that no worker idles while the first request of the window takes its time.
                while sum(not future.done() for group in waiting for future in group) >= 2 * self._concurrency:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)

    def _complete(self, prompt: str, seed: int, stopped: threading.Event) -> Completion:
        body = {
            "model": self._sampling.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "max_tokens": self._sampling.max_tokens,
            "seed": seed,
        }
        backoff = Backoff(self._backoff_seconds, _MAX_WAIT_SECONDS)
        for number in range(1, self._num_tries + 1):
            try:
                return self._ask(json.dumps(body).encode())
            except _Passing as error:
                if number == self._num_tries or stopped.is_set():
                    raise EndpointUnavailable(
                        f"{self._url}: {error}, {number} times; see that it runs and start again: whole groups are kept"
                    ) from error
                with self._lock:
                    self.num_retries += 1
                stopped.wait(backoff.step(error.wait_seconds))
        raise AssertionError("num_tries is at least 1")

    def _ask(self, body: bytes) -> Completion:
        headers = {"Content-Type": "application/json"}
        if self._api_key is not None:
            headers["Authorization"] = f"Bearer {self._api_key}"
        request = urllib.request.Request(self._url, body, headers)
        try:
            with self._opener.open(request, timeout=self._timeout_seconds) as answer:
                data = answer.read(_MAX_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(2000).decode("utf-8", "replace")
            if error.code == 429 or error.code >= 500:
                raise _Passing(f"it answered {error.code}: {said!r:.300}", read_retry_after(error.headers)) from error
            raise InvalidInput(
                f"{self._url} answered {error.code}: {said!r:.300}; check --endpoint, --model and CODESCALER_API_KEY"
            ) from error
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            raise _Passing(f"no answer ({error})") from error
        return _parse_completion(data)


def make_chat_url(url: str) -> str:
    """The address of chat completions, from that of a server, its /v1, or the whole."""
    try:
        parts = urllib.parse.urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_address = False
    if not is_address:
        raise InvalidInput(f"endpoint {url!r:.80}; give an address such as http://localhost:8000/v1")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path += "/chat/completions" if path.endswith("/v1") else "/v1/chat/completions"
    return urllib.parse.urlunsplit(parts._replace(path=path))


def _parse_completion(data: bytes) -> Completion:
    try:
        choice: Any = json.loads(data)["choices"][0]
        text, finish = choice["message"]["content"], choice["finish_reason"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise _Passing(f"it answered what is no chat completion ({error!r:.80}): {data[:200]!r}") from error
    text = "" if text is None else text  # a refusal, or all tokens went into thinking: empty ones are counted
    if not isinstance(text, str) or not isinstance(finish, str):
        raise _Passing(f"it answered a completion of {text!r:.80} that finished by {finish!r:.80}")
    return Completion(text, finish)
