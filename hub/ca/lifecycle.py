"""What becomes of a node's identity: pure functions from a record to the next.

    event                          record                            outcome
    -----------------------------  --------------------------------  -----------------------------------------------------
    join                           none                              generation 1 is current
    join, token allows rejoin      any                               next generation is current; older ones are stale;
                                                                     a revocation or quarantine ends
    join                           any                               NODE_EXISTS
    present a certificate          revoked                           REVOKED
                                   a retired edge-ca signed it, and   RETIRED_CA: who has that CA's key can make such
                                   it is neither current nor pending
                                   quarantined, and any but the last CLONED_IDENTITY
                                   of the outcomes below
                                   it is current                     as it is
                                   it is pending                     it becomes current, the one before is stale
                                   it is newer than any issued       the record is older than the fleet (hub restored from a
                                                                     backup) or gone: the certificate is taken over
                                   any other                         STALE_GENERATION: a copied or restored state directory
    renew (after presenting)       pending has the request's key      pending again: the response was lost
                                   current has the request's key      BAD_CSR: a renewal is for a new key
                                   else                              next generation is pending; an unused one is replaced

Two copies of one state directory cannot both go on: where both are up they are found out (hub.services.clones), else
whichever renews and uses its certificate first makes the other stale.
A presented certificate was checked against edge-ca before it comes here.
"""

from __future__ import annotations

import dataclasses

from edgenode.link.errors import AlreadyExists, InvalidArgument, PermissionDenied
from hub.ca.ports import Issue, IssuedCertificate, NodeRecord

# What the copies of an identity wait before they ask again whether one of them may go on.
QUARANTINE_RETRY_SECONDS = 60.0


def join(record: NodeRecord | None, node: str, rejoin: bool, now: float, issue: Issue) -> NodeRecord:
    """The record after a claim. Raises AlreadyExists (NODE_EXISTS)."""
    if record is None:
        return NodeRecord(node, now, revoked=False, current=issue(node, 1))
    if not rejoin:
        raise node_exists(node)
    return NodeRecord(node, now, revoked=False, current=issue(node, record.generation + 1))


def present(record: NodeRecord | None, presented: IssuedCertificate, now: float) -> NodeRecord:
    """The record after a node showed a certificate.

    Raises PermissionDenied (REVOKED, RETIRED_CA, STALE_GENERATION, CLONED_IDENTITY).
    """
    if presented.retired and presented.certificate not in _certificates(record):
        raise PermissionDenied(
            "RETIRED_CA",
            f"a CA that is out of use signed the certificate of {presented.node}, and it is not the one that is known",
            hint=f"join it anew: edgehub token create {presented.node} --rejoin",
            node=presented.node,
        )
    if record is None:
        return NodeRecord(presented.node, now, revoked=False, current=presented)
    if record.revoked:
        raise PermissionDenied(
            "REVOKED",
            f"the identity of {record.node} was revoked",
            hint=f"an operator must let it in again: edgehub token create {record.node} --rejoin",
            node=record.node,
        )
    current = presented.serial == record.current.serial
    newest = record.pending is not None and presented.serial == record.pending.serial
    if current or newest or presented.generation > record.generation:
        if record.quarantine_time is not None:
            raise cloned(record.node)
        return record if current else dataclasses.replace(record, current=presented, pending=None)
    raise PermissionDenied(
        "STALE_GENERATION",
        f"{record.node} shows generation {presented.generation}; {record.current.generation} is in use",
        hint=f"its state directory was copied or restored; join it anew: edgehub token create {record.node} --rejoin",
        node=record.node,
        generation=record.current.generation,
    )


def _certificates(record: NodeRecord | None) -> list[bytes]:
    known = [] if record is None else [record.current, record.pending]
    return [issued.certificate for issued in known if issued is not None]


def renew(record: NodeRecord, public_key_hash: bytes, issue: Issue) -> NodeRecord:
    """The record with a pending certificate for a key. Raises InvalidArgument (BAD_CSR)."""
    if record.pending is not None and record.pending.public_key_hash == public_key_hash:
        return record
    if record.current.public_key_hash == public_key_hash:
        raise InvalidArgument(
            "BAD_CSR", "the request is for the present key", hint="make a new key for each renewal", field="csr"
        )
    return dataclasses.replace(record, pending=issue(record.node, record.generation + 1))


def cloned(node: str) -> PermissionDenied:
    """The error for both processes that use one identity. They may ask again, but need not hurry."""
    return PermissionDenied(
        "CLONED_IDENTITY",
        f"two processes use the identity of {node}: its state directory was copied; both are kept out",
        hint=f"end one, then on the hub: edgehub nodes release {node}; or join the one that stays anew, with a token of"
        f" edgehub token create {node} --rejoin",
        retryable=True,
        retry_after=QUARANTINE_RETRY_SECONDS,
        node=node,
    )


def node_exists(node: str) -> AlreadyExists:
    """The error for a name that is taken."""
    return AlreadyExists(
        "NODE_EXISTS",
        f"a node named {node} has joined before",
        hint=f"choose another name, or replace it: edgehub token create {node} --rejoin",
        node=node,
    )
