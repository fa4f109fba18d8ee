"""`LimitedProtocol`: uvicorn's HTTP, with bounds on what a slow, greedy or broken client may take.

The parser keeps headers and trailers of any size, and waits for ever for what does not come. uvicorn's own timer stops
at the first byte of a message. So the limits stand here, where bytes arrive.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from codescaler.serve.holding import Share, SharedLimit
from codescaler.serve.refusal import Refusal, describe_refusal

HEADER_S = 10.0  # that a client may take from its connection, or its first byte, to the end of its headers
MESSAGE_S = 40.0  # for the rest of the message. A slow body has its answer before, a body that nobody reads has not
WRITE_S = 60.0  # that a client may leave an answer unread
KEEP_ALIVE_S = 75
LATE_S = 0.05  # beyond these times, in which a busy loop reads what came within them
REFUSED_S = 1.0  # that a refused connection stays, since a client that is still writing would not see the answer
MAX_HEADERS = 256
MAX_HEADER_BYTES = 1 << 16  # of headers, of trailers, and between two pieces of a body


class LimitedProtocol(HttpToolsProtocol):
    """A connection. `limit` is shared by all: an address that has its part of it is refused, not others."""

    def __init__(self, limit: SharedLimit, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limit = limit
        self._share: Share | None = None
        self._due: asyncio.TimerHandle | None = None
        self._write_due: asyncio.TimerHandle | None = None
        self._is_in_headers = False
        self._is_refused = False
        self._num_bytes = 0  # since the last piece of a body or the end of a message

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_within(HEADER_S)
        self._share = self._limit.take(self.client[0] if self.client else "local", 1)
        if self._share is None and len(self.connections) > 2 * self._limit.limit:
            self.transport.abort()
        elif self._share is None:
            message = "this address has too many connections; use them again, or come again in 1 s"
            self._refuse(Refusal(503, "too_many_connections", message, retry_after_s=1))

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_within(None)
        self._stop_watching_writes()
        if self._share is not None:
            self._share.give_back()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._due is None and not self._is_busy():  # the first byte of a message, or of nothing
            self._await_within(HEADER_S)
        self._num_bytes += len(data)
        super().data_received(data)
        if self._num_bytes > MAX_HEADER_BYTES:
            self._refuse(Refusal(431, "headers_too_large", f"headers take above {MAX_HEADER_BYTES} bytes; send fewer"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_headers = True
        self._await_within(HEADER_S)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_headers:  # a trailer, which nobody reads
            return
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._refuse(Refusal(431, "headers_too_large", f"there are more than {MAX_HEADERS} headers; send fewer"))
            self._is_in_headers = False

    def on_headers_complete(self) -> None:
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        if has_body and self.parser.should_upgrade():  # the parser does not read it then
            self._refuse(Refusal(400, "upgrade_not_supported", "send no Upgrade header; this server speaks HTTP/1.1"))
        if not self._is_refused:
            self._is_in_headers = False
            self._await_within(MESSAGE_S)
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_bytes = 0
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_bytes = 0
        if not self._is_refused:
            self._await_within(None if self._is_busy() else KEEP_ALIVE_S)
            super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_due = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_watching_writes()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Refusal(400, "not_http", "this is no HTTP/1.1 request that can be read"))

    def _is_busy(self) -> bool:
        """Whether a request has no whole answer yet."""
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def _await_within(self, seconds: float | None) -> None:
        """Gives the client this time for what it has to send now; None: it has nothing to send."""
        if self._due is not None:
            self._due.cancel()
        self._due = None if seconds is None else self.loop.call_later(seconds, self._read_once_more)

    def _read_once_more(self) -> None:
        """Leaves the loop a pass to read what has come: where thousands connect at once, it reads late."""
        self._due = self.loop.call_later(LATE_S, self._give_up)

    def _give_up(self) -> None:
        self._due = None
        if self.pipeline or (self._is_in_headers and self._is_busy()):
            self._await_within(HEADER_S)  # a request before this one has no answer yet, and nothing is read meanwhile
        else:
            self.transport.close()

    def _stop_watching_writes(self) -> None:
        if self._write_due is not None:
            self._write_due.cancel()
            self._write_due = None

    def _refuse(self, refusal: Refusal) -> None:
        """Answers before there is a request, or in place of it, and closes the connection. Reads nothing more."""
        if self._is_refused or self.transport.is_closing():
            return
        answer, headers = describe_refusal(refusal)
        body = msgspec.json.encode(answer)
        headers |= {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        lines = [f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.write_eof()
        self._is_refused = True
        self._await_within(REFUSED_S)
