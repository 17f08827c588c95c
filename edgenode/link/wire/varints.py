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


def read_varint(data: bytes, start: int) -> tuple[int, int]:
    """The number that is written at `start`, of at most five bytes, and where it ends. Raises IndexError where `data` ends."""
    number = 0
    for place in range(5):
        byte = data[start + place]
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    return number, start + place + 1
