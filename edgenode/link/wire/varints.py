"""Numbers as protobuf writes them: seven bits a byte, the lowest first."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(1024)
def varint(number: int) -> bytes:
    """A number that is not negative."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def read_varint(data: bytes, start: int) -> int:
    """The number at `start`, of 35 bits at most."""
    number = shift = 0
    for byte in data[start : start + 5]:
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return number
