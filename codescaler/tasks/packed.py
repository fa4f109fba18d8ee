"""LiveCodeBench's packed tests: base64 of zlib of a pickle of one string. The pickle is read, never loaded."""

import base64
import pickletools
import zlib

from codescaler.errors import InvalidInput

MAX_UNPACKED_BYTES = 2**28  # zlib makes a thousand bytes of one: a line of a file could ask for all memory

_TEXT = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_SILENT = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "STOP"}  # build no value


def unpack_text(packed: str, where: str) -> str:
    """Returns the one string that is packed; `where` is what errors call it.

    Raises: InvalidInput if it is not packed so, unpacks to more than `MAX_UNPACKED_BYTES`, or its pickle does anything
        but hold one string.
    """
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(packed, validate=True), MAX_UNPACKED_BYTES + 1)
        if len(data) > MAX_UNPACKED_BYTES:
            raise InvalidInput(f"{where} unpacks to more than {MAX_UNPACKED_BYTES} bytes; no problem's tests do")
        if not unpacker.eof or unpacker.unused_data:
            raise ValueError("the packed data ends too early, or too late")
        return _read_pickled_text(data)
    except InvalidInput:
        raise
    except (ValueError, OverflowError, zlib.error) as error:  # that base64 is damaged is a ValueError
        raise InvalidInput(
            f"{where} is neither a JSON list nor a packed string ({error}); download the file again"
        ) from error


def _read_pickled_text(data: bytes) -> str:
    """Walks the pickle's instructions, of which those of a single string are allowed and none is carried out."""
    texts: list[str] = []
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name in _TEXT and not texts:
            texts.append(str(argument))
        elif opcode.name not in _SILENT:
            raise ValueError(f"its pickle has the instruction {opcode.name} at byte {position}; one string is allowed")
    if not texts or position is None or position + 1 != len(data):
        raise ValueError("its pickle holds no string, or something after it")
    return texts[0]
