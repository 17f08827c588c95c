"""Numbers as protobuf writes them, seven bits a byte, the lowest first, and the content whose length they are."""

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


def opening(tag: bytes, size: int) -> bytes:
    """What stands before the `size` bytes of a field; a field without content is left out."""
    return tag + varint(size) if size else b""


def content_size(room: int) -> int:
    """How many bytes the content has that takes `room` with its opening, whose tag is one byte; -1 where there is none."""
    if room == 0:
        return 0
    for digits in range(1, 6):
        size = room - 1 - digits
        if size > 0 and len(varint(size)) == digits:
            return size
    return -1
