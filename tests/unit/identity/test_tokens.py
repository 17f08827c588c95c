import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.link.errors import InvalidArgument
from edgenode.link.identity.tokens import JoinToken, hash_secret, make_join_token, parse_join_token

ROOT_HASH = hashlib.sha256(b"root").digest()


def reseal(body: str) -> str:
    return f"{body}_{zlib.crc32(body.encode()):08x}"


def test_a_token_is_read_back() -> None:
    token = make_join_token("north-1", ROOT_HASH)
    again = parse_join_token(f"  {token.text()}\n")
    assert again == token
    assert again.node == "north-1"
    assert again.secret_hash == hash_secret(token.secret) == hashlib.sha256(token.secret).digest()
    assert len(token.secret) == 32
    assert token.text().count("_") == 4


def test_tokens_differ() -> None:
    tokens = [make_join_token("north", ROOT_HASH) for _ in range(50)]
    assert len({token.token_id for token in tokens}) == len({token.secret for token in tokens}) == 50


def test_the_secret_is_not_shown() -> None:
    token = make_join_token("north", ROOT_HASH)
    secret_part = token.text().split("_")[2]
    assert secret_part not in repr(token)
    assert repr(token.secret) not in repr(token)
    with pytest.raises(InvalidArgument) as refusal:
        parse_join_token(token.text()[:-1])
    assert secret_part not in str(refusal.value)


@given(st.integers(min_value=5), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_slip_of_the_hand_is_told(position: int, letter: str) -> None:
    text = TOKEN.text()
    position = 5 + position % (len(text) - 5)
    if text[position] in ("_", letter):
        return
    with pytest.raises(InvalidArgument) as refusal:
        parse_join_token(text[:position] + letter + text[position + 1 :])
    assert refusal.value.reason == "BAD_TOKEN"
    assert refusal.value.problem.metadata["part"] == "checksum"
    assert "mistyped" in refusal.value.problem.hint


TOKEN = JoinToken("north.abcdefghijklmnop", bytes(range(32)), ROOT_HASH)
_, ID, SECRET, HASH, _ = TOKEN.text().split("_")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "prefix"),
        ("hello", "prefix"),
        (TOKEN.text().replace("enj1", "enj2"), "prefix"),
        (TOKEN.text().replace("enj1", "ENJ1"), "prefix"),
        (TOKEN.text().rpartition("_")[0], "parts"),
        (TOKEN.text() + "_x", "parts"),
        (TOKEN.text()[:-1], "checksum"),
        (TOKEN.text() + "\u00e9", "checksum"),
        (reseal(f"enj1_north_{SECRET}_{HASH}"), "id"),
        (reseal(f"enj1_North.abcdefghijklmnop_{SECRET}_{HASH}"), "id"),
        (reseal(f"enj1_-north.abcdefghijklmnop_{SECRET}_{HASH}"), "id"),
        (reseal(f"enj1_../x.abcdefghijklmnop_{SECRET}_{HASH}"), "id"),
        (reseal(f"enj1_{ID}_{SECRET[:-1]}_{HASH}"), "secret"),
        (reseal(f"enj1_{ID}_{SECRET[:-1]}7_{HASH}"), "secret"),
        (reseal(f"enj1_{ID}_{SECRET.upper()}_{HASH}"), "secret"),
        (reseal(f"enj1_{ID}_{SECRET}_{HASH[:-2]}"), "root hash"),
        (reseal(f"enj1_{ID}_{SECRET}_{HASH.upper()}"), "root hash"),
    ],
)
def test_what_is_wrong_is_said(text: str, part: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        parse_join_token(text)
    assert refusal.value.reason == "BAD_TOKEN"
    assert refusal.value.problem.metadata["part"] == part
    assert refusal.value.problem.hint


def test_a_token_for_a_bad_name_is_not_made() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        make_join_token("North_1", ROOT_HASH)
    assert refusal.value.reason == "BAD_NAME"
