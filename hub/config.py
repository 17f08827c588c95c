"""What a hub can be told. Read once, at start; see edgenode.link.config for the sources and their order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgenode.link.blobs.files import FOLDER, Folder
from edgenode.link.blobs.room import BlobLimits
from edgenode.link.config import (
    EVENT_LOOPS,
    LOG_LEVELS,
    MOST_SHARES,
    Loaded,
    address,
    given,
    load,
    setting,
    socket_path_problem,
)
from edgenode.link.model.dead_letter import LetterBounds

FILE_NAME = "edgehub.toml"
STORE_NAME = "edgehub.db"
PREFIX = "EDGEHUB_"

_MIB, _GIB = 1 << 20, 1 << 30
_DAY = 86_400


@dataclass(frozen=True)
class HubConfig:
    """Settings of a hub."""

    state_dir: Path = setting("directory of authority, store and socket; one hub each", in_file=False, flag="--state")
    listen: str = setting("HOST:PORT of the sync listener (mutual TLS)", default="127.0.0.1:7443", check=given(address))
    enroll_listen: str = setting(
        "HOST:PORT of the enrollment listener (no client certificate)", default="127.0.0.1:7444", check=given(address)
    )
    socket: str = setting("path of the Unix socket; empty: STATE/edgehub.sock", default="")
    heartbeat_seconds: float = setting("longest silence of an edge", default=5.0, low=0.05, high=600)
    lease_seconds: float = setting("silence after which an edge is unreachable", default=15.0, low=0.1, high=3600)
    admissions_per_second: float = setting(
        "sessions of edges let in per second; others are told when to come back; 0: no bound",
        default=50.0,
        low=0,
        high=1_000_000,
    )
    leaf_ttl_seconds: int = setting("life of an edge's certificate", default=7 * _DAY, low=10.0, high=90 * _DAY)
    reassign_after_seconds: float = setting(
        "how long an unreachable edge keeps its tasks before others get them", default=30.0, low=0, high=_DAY
    )
    parent: str = setting("HOST:PORT of the parent hub; empty: as joined", default="", check=address)
    reconnect_min_seconds: float = setting("shortest wait before dialing the parent again", default=1.0, low=0.01)
    reconnect_max_seconds: float = setting("longest wait before dialing the parent again", default=300.0, low=0.01)
    message_retention_bytes: int = setting("messages kept for subscribers", default=_GIB, low=0)
    ack_retention_bytes: int = setting(
        "bytes kept for each edge after it acknowledged them, to refill an edge that is restored from a backup",
        default=_MIB,
        low=0,
    )
    ack_retention_seconds: float = setting("how long they are kept at most", default=3600.0, low=0, high=30 * _DAY)
    task_retention_seconds: int = setting("how long finished tasks are kept", default=7 * _DAY, low=0, high=365 * _DAY)
    store_bytes: int = setting("bound on the store's files", default=10 * _GIB, low=16 * _MIB)
    message_share: float = setting(
        "what of store_bytes messages may fill, so that they leave room for tasks", default=0.5, low=0.05, high=0.85
    )
    task_share: float = setting(
        "what of store_bytes tasks and all else but messages may fill", default=0.4, low=0.05, high=0.85
    )
    unread_messages: str = setting(
        "when messages have filled their share and a subscription has not read them: keep takes no more, and the edges wait;"
        " drop lets the oldest go",
        default="keep",
        choices=("keep", "drop"),
    )
    blob_bytes: int = setting("bytes that all blobs of tasks may take", default=10 * _GIB, low=_MIB)
    blob_disk_share: float = setting(
        "what of the space that blobs have and the disk has free blobs may take", default=0.5, low=0.01, high=0.95
    )
    blob_edge_share: float = setting(
        "what of the room for blobs those that came from one edge, child hub or parent may take",
        default=0.5,
        low=0.01,
        high=1.0,
    )
    max_blob_bytes: int = setting("largest blob", default=_GIB, low=1 << 16)
    max_queued_tasks: int = setting("tasks of the fleet waiting or running", default=1_000_000, low=1, high=100_000_000)
    dead_letter_limit: int = setting("dead letters kept; the oldest go first", default=100_000, low=1, high=10_000_000)
    dead_letter_bytes: int = setting("bytes of dead letters kept; the oldest go first", default=256 * _MIB, low=1 << 10)
    log_level: str = setting("what is logged", default="info", choices=LOG_LEVELS)
    event_loop: str = setting(
        "what the hub runs on; uvloop takes less CPU time and is an extra, edgenode[uvloop]",
        default="asyncio",
        choices=EVENT_LOOPS,
    )
    drain_seconds: float = setting("how long a stopping hub waits for its sessions", default=10.0, low=0, high=3600)

    @property
    def socket_path(self) -> Path:
        """Where the Unix socket is."""
        return Path(self.socket) if self.socket else self.state_dir / "edgehub.sock"

    @property
    def store_path(self) -> Path:
        """Where the store is."""
        return self.state_dir / STORE_NAME

    @property
    def parent_dir(self) -> Path:
        """Where the identity toward the parent is."""
        return self.state_dir / "parent"

    @property
    def blob_folder(self) -> Folder:
        """Where blobs are."""
        return Folder(self.state_dir / FOLDER)

    @property
    def blob_limits(self) -> BlobLimits:
        """All bounds on blobs. One that no task refers to is of no use here."""
        return BlobLimits(
            self.blob_bytes, self.max_blob_bytes, self.blob_disk_share, 60.0, peer_share=self.blob_edge_share
        )

    @property
    def dead_letter_bounds(self) -> LetterBounds:
        """Both bounds on dead letters."""
        return LetterBounds(self.dead_letter_limit, self.dead_letter_bytes)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """(key, expected) of values that do not go together."""
        if self.heartbeat_seconds >= self.lease_seconds:
            yield "heartbeat_seconds", f"less than lease_seconds ({self.lease_seconds:g})"
        if self.reconnect_min_seconds > self.reconnect_max_seconds:
            yield "reconnect_min_seconds", f"at most reconnect_max_seconds ({self.reconnect_max_seconds:g})"
        if self.message_retention_bytes >= self.store_bytes:
            yield "message_retention_bytes", f"less than store_bytes ({self.store_bytes})"
        if self.message_share + self.task_share > MOST_SHARES:
            yield (
                "message_share",
                f"with task_share ({self.task_share:g}) at most {MOST_SHARES:g}: the rest is the reserve",
            )
        if self.ack_retention_bytes >= self.store_bytes:
            yield "ack_retention_bytes", f"less than store_bytes ({self.store_bytes})"
        if self.listen == self.enroll_listen and not self.listen.endswith(":0"):
            yield "enroll_listen", "another address than listen"
        if problem := socket_path_problem(self.socket_path):
            yield "socket", problem


def load_hub_config(
    state_dir: Path, *, environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Loaded[HubConfig]:
    """The configuration of the hub in `state_dir`. Raises InvalidArgument (BAD_CONFIG)."""
    return load(
        HubConfig,
        file=state_dir / FILE_NAME,
        prefix=PREFIX,
        environ=os.environ if environ is None else environ,
        flags={**(flags or {}), "state_dir": state_dir},
    )
