"""The load of trainers: each row is one POST on a connection of its own, and many are under way at a time."""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

TIMEOUT_S = 600.0


class Answer(NamedTuple):
    """What came back on one connection, and how long that took from the first packet to the last."""

    status: int
    body: bytes
    seconds: float


def post_all(
    port: int, path: str, bodies: Sequence[bytes], num_connections: int, starts: Sequence[float] = ()
) -> list[Answer]:
    """Posts every body and returns the answers in order, at most `num_connections` under way at a time.

    `starts` are seconds from now at which a body is posted at the earliest.
    Raises: OSError if a connection fails; RuntimeError if an answer is no 200.
    """

    async def post_in_turn(body: bytes, start: float, free: asyncio.Semaphore) -> Answer:
        await asyncio.sleep(start)
        async with free:
            return await _post(port, path, body)

    async def run() -> list[Answer]:
        free = asyncio.Semaphore(num_connections)
        return await asyncio.gather(
            *(
                post_in_turn(body, start, free)
                for body, start in zip(bodies, starts or [0.0] * len(bodies), strict=True)
            )
        )

    answers = asyncio.run(run())
    for answer in answers:
        if answer.status != 200:
            raise RuntimeError(f"port {port} answers {answer.status} to a POST of {path}: {answer.body[:500]!r}")
    return answers


def count_failures(port: int, path: str, bodies: Sequence[bytes]) -> int:
    """Posts every body in one moment, each on a connection of its own; returns how many got no 200."""

    async def run() -> list[Answer | BaseException]:
        return await asyncio.gather(*(_post(port, path, body) for body in bodies), return_exceptions=True)

    return sum(isinstance(answer, BaseException) or answer.status != 200 for answer in asyncio.run(run()))


async def _post(port: int, path: str, body: bytes) -> Answer:
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    try:
        writer.write(head.encode() + body)
        answer = await asyncio.wait_for(reader.read(), TIMEOUT_S)
    finally:
        writer.close()
    status, _, rest = answer.partition(b"\r\n")
    if not status.startswith(b"HTTP/1.1 "):
        raise ConnectionResetError(f"port {port} closed the connection after {answer[:100]!r}")
    return Answer(int(status.split()[1]), rest.partition(b"\r\n\r\n")[2], time.perf_counter() - started)
