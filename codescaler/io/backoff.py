"""How long to wait before a server is asked again. Knows no transport, and never sleeps."""

from email.message import Message


class Backoff:
    """Pauses between the tries of one request: each is twice the one before, up to `longest_s`.

    A server that names a time is given that time, up to `longest_s`.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._next_s = first_s
        self._longest_s = longest_s

    def step(self, asked_s: float = 0.0) -> float:
        """Returns the next pause, of which the server asked for at least `asked_s`."""
        pause_s = min(max(self._next_s, asked_s), self._longest_s)
        self._next_s *= 2
        return pause_s


def read_retry_after(headers: Message) -> float:
    """Returns the seconds that a Retry-After asks for, 0 without one. A date there asks for none."""
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdecimal() else 0.0
