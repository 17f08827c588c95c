"""Results that form piece by piece, to a client that hears progress.

The protocol has no partial results: a request has one result, whole, and before it there is progress. So each piece is one
notification of progress, with its number as far as it has come, its text as the message that people see, and the piece itself
in `_meta` under `dev.edgenode/piece`, as a block of content. The result has all of them once more, joined as the SDK does for
whoever does not read along.
"""

from __future__ import annotations

import msgspec

from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.mcp.offers import Json, block_of
from edgenode.bridges.wishes import PREFIX
from edgenode.link.errors import ResourceExhausted
from edgenode.sdk.encoding import JSON, MAX_PAYLOAD_BYTES, OCTETS, Payload, is_json

PIECE_KEY = PREFIX + "piece"


def told(piece: Payload, index: int, attempt: int) -> tuple[str | None, Json]:
    """(message, `_meta`) of the progress that tells a piece, number `index` of attempt number `attempt`."""
    if is_json(piece.content_type):
        value = msgspec.json.decode(piece.data) if piece.data else None
        content: Json = {"type": "text", "text": value if isinstance(value, str) else piece.data.decode()}
    else:
        content = block_of(piece.data, piece.content_type, f"edgenode://pieces/{attempt}/{index}")
    return content.get("text"), {PIECE_KEY: {"index": index, "attempt": attempt, "content": content}}


class Pieces:
    """The pieces of an unstored call of a skill, to be its result."""

    def __init__(self, skill: registry_pb2.Skill) -> None:
        self._given: list[Payload] = []
        self._size = 0
        self._texts = _type_of(skill.output_schema) == "string"
        self._bytes_type = OCTETS if OCTETS in skill.output_modes and not skill.output_schema else ""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._given)

    def add(self, piece: Payload) -> None:
        """One more. Raises ResourceExhausted (RESULT_TOO_LARGE): the protocol has results whole."""
        self._size += len(piece.data)
        if self._size > MAX_PAYLOAD_BYTES:
            raise ResourceExhausted(
                "RESULT_TOO_LARGE",
                f"the result so far has {self._size} bytes",
                hint=f"at most {MAX_PAYLOAD_BYTES}: read it along with edgenode call --stream",
                retryable=False,
                limit=MAX_PAYLOAD_BYTES,
            )
        self._given.append(piece)

    def joined(self) -> Payload:
        """The result: bytes of one media type and texts joined, other values as a list."""
        types = {content_type for _, content_type in self._given} or {self._bytes_type}
        whole = [data for data, _ in self._given]
        if len(types) == 1 and not is_json(content_type := types.pop()):
            return Payload(b"".join(whole), content_type)
        values = [msgspec.json.decode(data) if is_json(kind) else data for data, kind in self._given]
        texts = [value for value in values if isinstance(value, str)]
        if self._texts and len(texts) == len(values):
            return Payload(msgspec.json.encode("".join(texts)), JSON)
        return Payload(msgspec.json.encode(values), JSON)


def _type_of(schema: str) -> object:
    found = msgspec.json.decode(schema) if schema else None
    return found.get("type") if isinstance(found, dict) else None
