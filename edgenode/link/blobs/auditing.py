"""Whether the blobs of a store are what was stored, for one that is running or looked at while it is not."""

from __future__ import annotations

from edgenode.link.blobs import rows
from edgenode.link.blobs.files import Folder, read_whole
from edgenode.link.gil import on_thread
from edgenode.link.model import finding
from edgenode.link.model.finding import Finding
from edgenode.link.store.audit import Readable

HOP = "blobs"


async def audit_blobs(database: Readable, folder: Folder | None) -> list[Finding]:
    """Read every blob and compare it with its digest; takes as long as the disk does."""
    if folder is None:
        return []
    findings = []
    for stored in await database.read(rows.load):
        digest = stored.ref.digest
        try:
            found = (await on_thread(read_whole, folder.place(digest)))[:2]
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
        else:
            if found == (digest, stored.ref.size):
                continue
            what = f"is {found[0]} of {found[1]} bytes"
        if any(known.ref.digest == digest for known in await database.read(rows.load)):  # not removed meanwhile
            findings.append(Finding(HOP, finding.DAMAGED, f"{digest} {what}"))
    return findings
