import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgenode.link.errors import (
    AlreadyExists,
    EdgenodeError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from edgenode.link.store.database import Database
from hub.ca import lifecycle
from hub.ca.ports import SERIAL_RANDOM_BITS, Issue, IssuedCertificate, TokenRecord
from hub.store.enrollment import KEEP_EXPIRED_SECONDS, SCHEMA, SqliteEnrollmentStore

SECRET = b"s" * 32
_numbers = itertools.count(1)


def issue_for(key: bytes) -> Issue:
    """Signs for `key`, without cryptography; every certificate differs."""

    def issue(node: str, generation: int) -> IssuedCertificate:
        serial = generation << SERIAL_RANDOM_BITS | (1 << 63) + next(_numbers)
        return IssuedCertificate(node, serial, f"certificate {serial}".encode(), key, 0.0, 700.0)

    return issue


def token(token_id: str, node: str = "north", *, rejoin: bool = False, expire_time: float = 100.0) -> TokenRecord:
    return TokenRecord(token_id, node, SECRET, 0.0, expire_time, rejoin)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteEnrollmentStore]:
    database = await Database.open(tmp_path / "hub.db", [SCHEMA], application_id=1)
    yield SqliteEnrollmentStore(database)
    await database.close()


async def claim(
    store: SqliteEnrollmentStore, token_id: str, key: bytes, *, secret: bytes = SECRET, now: float = 1.0
) -> IssuedCertificate:
    return await store.claim_token(token_id, secret, key, now, issue_for(key))


async def renew(store: SqliteEnrollmentStore, presented: IssuedCertificate, key: bytes) -> IssuedCertificate:
    return await store.renew(presented, key, 2.0, issue_for(key))


async def joined(store: SqliteEnrollmentStore, node: str = "north") -> IssuedCertificate:
    await store.create_token(token(f"token-of-{node}", node))
    return await claim(store, f"token-of-{node}", b"key-1")


async def test_a_claim_is_repeated_to_the_same_key_only(store: SqliteEnrollmentStore) -> None:
    await store.create_token(token("t"))
    first = await claim(store, "t", b"key-1")
    assert first.generation == 1
    assert await claim(store, "t", b"key-1", now=99.0) == first
    with pytest.raises(PermissionDenied) as used:
        await claim(store, "t", b"key-2")
    assert used.value.reason == "TOKEN_USED"
    with pytest.raises(Unauthenticated) as late:
        await claim(store, "t", b"key-1", now=100.0)
    assert late.value.reason == "TOKEN_EXPIRED"
    with pytest.raises(PermissionDenied):
        await claim(store, "t", b"key-2", now=100.0)


async def test_a_claim_is_repeated_after_a_renewal_and_a_sweep(store: SqliteEnrollmentStore) -> None:
    await store.create_token(token("t", expire_time=1000.0))
    first = await claim(store, "t", b"key-1")
    second = await renew(store, first, b"key-2")
    await store.admit(second, 3.0)
    assert await claim(store, "t", b"key-1") == first


@pytest.mark.parametrize(
    ("token_id", "secret", "now", "reason"),
    [
        ("other", SECRET, 1.0, "UNKNOWN_TOKEN"),
        ("t", b"x" * 32, 1.0, "WRONG_SECRET"),
        ("t", b"", 1.0, "WRONG_SECRET"),
        ("t", SECRET, 100.0, "TOKEN_EXPIRED"),
    ],
)
async def test_claims_refused(
    store: SqliteEnrollmentStore, token_id: str, secret: bytes, now: float, reason: str
) -> None:
    await store.create_token(token("t"))
    with pytest.raises(Unauthenticated) as refusal:
        await claim(store, token_id, b"key-1", secret=secret, now=now)
    assert refusal.value.reason == reason
    assert await store.node("north") is None
    assert (await claim(store, "t", b"key-2")).generation == 1


async def test_of_many_claims_at_once_one_key_wins(store: SqliteEnrollmentStore) -> None:
    await store.create_token(token("t"))
    claims = [claim(store, "t", b"key-%d" % number) for number in range(20)]
    outcomes = await asyncio.gather(*claims, return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, IssuedCertificate)]
    lost = [outcome.reason for outcome in outcomes if isinstance(outcome, EdgenodeError)]
    assert len(won) == 1
    assert lost == ["TOKEN_USED"] * 19
    record = await store.node("north")
    assert record is not None
    assert record.current == won[0]


async def test_refused_claims_do_not_undo_their_neighbours(store: SqliteEnrollmentStore) -> None:
    await store.create_token(token("t"))
    outcomes = await asyncio.gather(
        *[claim(store, "unknown", b"key") for _ in range(5)], claim(store, "t", b"key-1"), return_exceptions=True
    )
    assert isinstance(outcomes[-1], IssuedCertificate)
    assert await claim(store, "t", b"key-1") == outcomes[-1]


async def test_a_request_that_cannot_be_signed_spends_nothing(store: SqliteEnrollmentStore) -> None:
    await store.create_token(token("t"))

    def refuse(node: str, generation: int) -> IssuedCertificate:
        raise InvalidArgument("BAD_CSR", "no")

    with pytest.raises(InvalidArgument):
        await store.claim_token("t", SECRET, b"key-1", 1.0, refuse)
    assert (await claim(store, "t", b"key-2")).generation == 1


async def test_a_name_is_joined_twice_only_when_allowed(store: SqliteEnrollmentStore) -> None:
    await store.create_token(token("rival"))
    first = await joined(store)
    with pytest.raises(AlreadyExists) as taken:
        await store.create_token(token("second"))
    assert taken.value.reason == "NODE_EXISTS"
    with pytest.raises(AlreadyExists):
        await claim(store, "rival", b"key-2")
    await store.revoke("north")
    await store.create_token(token("again", rejoin=True))
    second = await claim(store, "again", b"key-3")
    assert second.generation == 2
    assert not (await store.admit(second, 5.0)).revoked
    with pytest.raises(PermissionDenied) as stale:
        await store.admit(first, 5.0)
    assert stale.value.reason == "STALE_GENERATION"


async def test_the_present_certificate_is_good_until_the_next_is_used(store: SqliteEnrollmentStore) -> None:
    first = await joined(store)
    second = await renew(store, first, b"key-2")
    assert second.generation == 2
    assert (await store.admit(first, 3.0)).pending == second
    assert (await store.admit(second, 3.0)).current == second
    with pytest.raises(PermissionDenied) as stale:
        await store.admit(first, 4.0)
    assert stale.value.reason == "STALE_GENERATION"
    with pytest.raises(PermissionDenied):
        await renew(store, first, b"key-9")


async def test_a_renewal_is_repeated_to_the_same_key(store: SqliteEnrollmentStore) -> None:
    first = await joined(store)
    second = await renew(store, first, b"key-2")
    assert await renew(store, first, b"key-2") == second
    with pytest.raises(InvalidArgument) as present:
        await renew(store, first, b"key-1")
    assert present.value.reason == "BAD_CSR"
    # The answer never came and the key was lost with the disk: the next request replaces it.
    third = await renew(store, first, b"key-3")
    assert third.generation == 3
    with pytest.raises(PermissionDenied):
        await store.admit(second, 4.0)
    assert (await store.admit(third, 4.0)).generation == 3


async def test_renewing_with_an_unused_certificate_is_its_first_use(store: SqliteEnrollmentStore) -> None:
    first = await joined(store)
    second = await renew(store, first, b"key-2")
    third = await renew(store, second, b"key-3")
    record = await store.node("north")
    assert record is not None
    assert (record.current, record.pending) == (second, third)


async def test_two_copies_cannot_both_go_on(store: SqliteEnrollmentStore) -> None:
    first = await joined(store)
    one = await renew(store, first, b"key-of-one")
    other = await renew(store, first, b"key-of-other")
    await store.admit(other, 3.0)
    for late in (one, first):
        with pytest.raises(PermissionDenied) as stale:
            await store.admit(late, 3.0)
        assert stale.value.reason == "STALE_GENERATION"


async def test_a_revoked_node_is_refused(store: SqliteEnrollmentStore) -> None:
    first = await joined(store)
    second = await renew(store, first, b"key-2")
    assert (await store.revoke("north")).revoked
    for certificate in (first, second):
        with pytest.raises(PermissionDenied) as refusal:
            await store.admit(certificate, 3.0)
        assert refusal.value.reason == "REVOKED"
    with pytest.raises(PermissionDenied):
        await renew(store, first, b"key-3")
    with pytest.raises(NotFound):
        await store.revoke("nobody")


async def test_a_quarantined_node_is_refused_until_it_is_released_or_joins_anew(store: SqliteEnrollmentStore) -> None:
    first = await joined(store)
    second = await renew(store, first, b"key-2")

    async def refused(certificate: IssuedCertificate) -> None:
        with pytest.raises(PermissionDenied) as refusal:
            await store.admit(certificate, 3.0)
        assert refusal.value.reason == "CLONED_IDENTITY"
        assert refusal.value.problem.retry_after

    await store.quarantine("north", 3.0)
    await refused(first)
    await refused(second)
    with pytest.raises(PermissionDenied):  # none of the copies gets a newer certificate than the other meanwhile
        await renew(store, first, b"key-2")
    assert await store.release("north")
    assert not await store.release("north")
    assert (await store.admit(second, 4.0)).quarantine_time is None
    await store.quarantine("north", 5.0)
    await store.create_token(token("again", rejoin=True))
    third = await claim(store, "again", b"key-3")
    assert (await store.admit(third, 6.0)).quarantine_time is None
    with pytest.raises(PermissionDenied) as stale:
        await store.admit(second, 6.0)
    assert stale.value.reason == "STALE_GENERATION"
    for change in (store.release("nobody"), store.quarantine("nobody", 7.0)):
        with pytest.raises(NotFound):
            await change


async def test_a_hub_restored_from_a_backup_takes_over_what_it_signed(store: SqliteEnrollmentStore) -> None:
    first = await joined(store)
    newer = issue_for(b"key-7")("north", 7)
    assert (await store.admit(newer, 3.0)).current == newer
    with pytest.raises(PermissionDenied):
        await store.admit(first, 3.0)
    unknown = issue_for(b"key-1")("south", 4)
    assert (await renew(store, unknown, b"key-2")).generation == 5
    record = await store.node("south")
    assert record is not None
    assert record.current == unknown


async def test_nodes_in_pages(store: SqliteEnrollmentStore) -> None:
    for node in ("c", "a", "b"):
        await joined(store, node)
    assert [record.node for record in await store.nodes("", 2)] == ["a", "b"]
    assert [record.node for record in await store.nodes("b", 2)] == ["c"]
    assert await store.nodes("c", 2) == []


async def test_everything_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "hub.db"
    database = await Database.open(path, [SCHEMA], application_id=1)
    store = SqliteEnrollmentStore(database)
    first = await joined(store)
    second = await renew(store, first, b"key-2")
    before = await store.node("north")
    await database.close()
    database = await Database.open(path, [SCHEMA], application_id=1)
    store = SqliteEnrollmentStore(database)
    assert await store.node("north") == before
    assert await renew(store, first, b"key-2") == second
    assert await claim(store, "token-of-north", b"key-1") == first
    await database.close()


async def test_old_tokens_and_certificates_are_forgotten(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "hub.db", [SCHEMA], application_id=1)
    store = SqliteEnrollmentStore(database)
    certificate = await joined(store)
    for number in range(2, 6):
        certificate = await renew(store, certificate, b"key-%d" % number)
    later = 101.0 + KEEP_EXPIRED_SECONDS
    await store.create_token(replace(token("new", "south"), create_time=later, expire_time=later + 1))
    rows = await database.read(
        lambda connection: (
            connection.execute("SELECT token_id FROM join_token").fetchall(),
            connection.execute("SELECT count(*) FROM node_certificate").fetchone()[0],
        )
    )
    assert rows == ([("new",)], 2)  # current and pending
    with pytest.raises(Unauthenticated) as refusal:
        await claim(store, "token-of-north", b"key-1")
    assert refusal.value.reason == "UNKNOWN_TOKEN"
    await database.close()


def test_presenting_changes_nothing_when_there_is_nothing_to_change() -> None:
    record = lifecycle.join(None, "north", False, 1.0, issue_for(b"key-1"))
    assert lifecycle.present(record, record.current, 2.0) is record
