"""`Guard`: what a request must show before it is read: its host, its origin, its key.

The checks of Host and Origin keep a web page that its user happens to visit from calling a server on the same machine
(DNS rebinding). Browsers send both headers on every POST, and a page cannot change them.
"""

import base64
import contextlib
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence

from codescaler.errors import InvalidInput
from codescaler.serve.refusal import Refusal

OPEN_PATHS = frozenset({"/health/live", "/health/ready"})  # a supervisor has no key
MIN_KEY_CHARACTERS = 16


class Guard:
    """Says who a client is, or why it is refused.

    Args:
        hosts: names that the server answers to, without ports; None answers to every name, which wants keys.
        keys: any of these lets a client in; without keys everybody is.
    """

    def __init__(self, hosts: Sequence[str] | None, keys: Sequence[str] = ()) -> None:
        for key in keys:
            if len(key) < MIN_KEY_CHARACTERS:
                raise InvalidInput(f"an API key has {len(key)} characters; give at least {MIN_KEY_CHARACTERS}")
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def admit(self, path: str, headers: Mapping[str, str], peer: str) -> str:
        """Returns what names the client in the queue: a digest of its key, or its address.

        Raises: Refusal, with status 403 for a foreign host or origin, 401 without a right key.
        """
        authority = headers.get("host", "").lower()
        host = _strip_port(authority)
        if self._hosts is not None and host not in self._hosts:
            raise Refusal(
                403, "host_not_allowed", f"this server does not answer to host {host!r:.200}; add --allowed-host"
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != authority:
            raise Refusal(403, "origin_not_allowed", f"a page of {origin!r:.200} may not call this server")
        if path in OPEN_PATHS or not self._digests:
            return peer
        given = hashlib.sha256(_read_key(headers)).digest()
        # Every key is compared, and digests have one length, so that the time tells nothing.
        if not any([hmac.compare_digest(given, known) for known in self._digests]):
            raise Refusal(401, "key_not_valid", "send a valid key as Authorization: Bearer KEY")
        return given.hex()[:16]


def _read_key(headers: Mapping[str, str]) -> bytes:
    """Returns the key that a request shows: a browser asks its user for one, and sends it as a password."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
    return (value if scheme.lower() == "bearer" else headers.get("x-api-key", "")).strip().encode()


def list_hosts(host: str, others: Sequence[str] = ()) -> list[str]:
    """Returns the names of a server that is bound to `host`: for the loopback, all of its names."""
    bare = host.strip("[]").lower()
    names = {f"[{bare}]" if ":" in bare else bare, *map(_strip_port, others)}
    if is_loopback(host):
        names |= {"localhost", "127.0.0.1", "[::1]"}
    return sorted(names)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that is bound to `host`."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _strip_port(host: str) -> str:
    """Returns a name without its port; of what is no name and port, all of it, which is no name that is known."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]*)(:\d*)?", host.lower())
    return found[1] if found else host
