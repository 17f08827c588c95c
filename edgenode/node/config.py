"""What an edge node can be told. Read once, at start; see edgenode.link.config for the sources and their order."""

from __future__ import annotations

import os
import re
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
    load,
    loopback_address,
    setting,
    socket_path_problem,
    valid_name,
)
from edgenode.link.model.dead_letter import LetterBounds

FILE_NAME = "edgenode.toml"
PREFIX = "EDGENODE_"

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_DAY = 86_400


@dataclass(frozen=True)
class NodeConfig:
    """Settings of an edge node."""

    state_dir: Path = setting("directory of identity, store and socket; one node each", in_file=False, flag="--state")
    node: str = setting(
        "name of the node; empty: the identity's, else the host's made valid", default="", check=valid_name
    )
    socket: str = setting("path of the Unix socket; empty: STATE/edgenode.sock", default="")
    listen: str = setting(
        "HOST:PORT on loopback for plaintext callers that cannot use the socket; empty: none",
        default="",
        check=loopback_address,
    )
    direct_streams: bool = setting(
        "serve the busy streams of programs on this device without HTTP/2 too, at a `.direct.sock` beside the socket",
        default=True,
    )
    hub: str = setting("HOST:PORT of the hub's sync listener; empty: as joined", default="", check=address)
    store_bytes: int = setting("bound on the store's files", default=_GIB, low=16 * _MIB)
    message_share: float = setting(
        "what of store_bytes messages may fill, so that they leave room for tasks", default=0.6, low=0.05, high=0.85
    )
    task_share: float = setting(
        "what of store_bytes tasks and all else but messages may fill", default=0.3, low=0.05, high=0.85
    )
    max_input_bytes: int = setting("largest input of a task or call", default=_MIB, low=_KIB, high=16 * _MIB)
    max_output_bytes: int = setting("largest result of a task or call", default=_MIB, low=_KIB, high=16 * _MIB)
    max_message_bytes: int = setting("largest payload of a message", default=256 * _KIB, low=_KIB, high=_MIB)
    max_queued_tasks: int = setting("tasks that may wait or run at once", default=100_000, low=1, high=10_000_000)
    attempt_timeout_seconds: float = setting(
        "how long one attempt may run unless task or skill say otherwise", default=300.0, low=0.1, high=7 * _DAY
    )
    call_timeout_seconds: float = setting(
        "how long a call without a deadline may take", default=30.0, low=0.1, high=3600
    )
    lease_seconds: float = setting(
        "how long an agent is believed without hearing from it", default=15.0, low=1, high=3600
    )
    task_retention_seconds: int = setting("how long finished tasks are kept", default=_DAY, low=0, high=365 * _DAY)
    message_retention_bytes: int = setting("messages kept after everyone took them", default=64 * _MIB, low=0)
    blob_bytes: int = setting("bytes that all blobs may take", default=4 * _GIB, low=_MIB)
    blob_disk_share: float = setting(
        "what of the space that blobs have and the disk has free blobs may take", default=0.5, low=0.01, high=0.95
    )
    max_blob_bytes: int = setting("largest blob", default=_GIB, low=64 * _KIB)
    blob_retention_seconds: int = setting(
        "how long a blob is kept that no task refers to, since it was last used", default=_DAY, low=60, high=365 * _DAY
    )
    ack_retention_bytes: int = setting(
        "bytes of each lane kept after the hub acknowledged them, to refill a hub that is restored from a backup",
        default=16 * _MIB,
        low=0,
    )
    ack_retention_seconds: float = setting("how long they are kept at most", default=3600.0, low=0, high=30 * _DAY)
    dead_letter_limit: int = setting("dead letters kept; the oldest go first", default=10_000, low=1, high=1_000_000)
    dead_letter_bytes: int = setting("bytes of dead letters kept; the oldest go first", default=64 * _MIB, low=_KIB)
    drain_seconds: float = setting("how long a stopping node waits for running work", default=10.0, low=0, high=3600)
    reconnect_min_seconds: float = setting("shortest wait before dialing the hub again", default=1.0, low=0.01)
    reconnect_max_seconds: float = setting("longest wait before dialing the hub again", default=300.0, low=0.01)
    log_level: str = setting(
        "what is logged; the hub's desired state may change it", default="info", choices=LOG_LEVELS
    )
    event_loop: str = setting(
        "what node, bridges and `edgenode agent run` run on; uvloop takes less CPU time and is an extra, edgenode[uvloop]",
        default="asyncio",
        choices=EVENT_LOOPS,
    )
    in_memory: bool = setting("keep nothing on disk: for tests only", default=False)

    @property
    def socket_path(self) -> Path:
        """Where the Unix socket is."""
        return Path(self.socket) if self.socket else self.state_dir / "edgenode.sock"

    @property
    def store_path(self) -> Path:
        """Where the store is."""
        return self.state_dir / "edgenode.db"

    @property
    def blob_folder(self) -> Folder | None:
        """Where blobs are; None for a node in memory."""
        return None if self.in_memory else Folder(self.state_dir / FOLDER)

    @property
    def blob_limits(self) -> BlobLimits:
        """All bounds on blobs."""
        return BlobLimits(self.blob_bytes, self.max_blob_bytes, self.blob_disk_share, self.blob_retention_seconds)

    @property
    def dead_letter_bounds(self) -> LetterBounds:
        """Both bounds on dead letters."""
        return LetterBounds(self.dead_letter_limit, self.dead_letter_bytes)

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """(key, expected) of values that do not go together."""
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
        if problem := socket_path_problem(self.socket_path):
            yield "socket", problem


def load_node_config(
    state_dir: Path, *, environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Loaded[NodeConfig]:
    """The configuration of the node in `state_dir`. Raises InvalidArgument (BAD_CONFIG)."""
    return load(
        NodeConfig,
        file=state_dir / FILE_NAME,
        prefix=PREFIX,
        environ=os.environ if environ is None else environ,
        flags={**(flags or {}), "state_dir": state_dir},
    )


def name_from_host(hostname: str) -> str:
    """A node's name made from a host's: its first label, with everything a name cannot hold turned into `-`."""
    label = re.sub(r"[^a-z0-9]+", "-", hostname.partition(".")[0].lower())[:63].strip("-")
    return label or "edge"
