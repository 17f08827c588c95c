"""The preloaded library: building it, starting a program under it, steering it while the program runs.

control.h has the same words in the same order.
"""

from __future__ import annotations

import functools
import mmap
import shutil
import struct
import subprocess
import tempfile
from enum import IntFlag
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent
PAGE_BYTES = 4096
YEAR = 365 * 86_400
_MEMORY = Path("/dev/shm")


class Files(IntFlag):
    """Classes of files."""

    DATABASE = 1
    WAL = 2
    TEMPORARY = 4
    OTHER = 8


ALL_FILES = Files.DATABASE | Files.WAL | Files.TEMPORARY | Files.OTHER

# Words of the control page.
_WORDS = {
    name: index
    for index, name in enumerate(
        [
            "journal_bytes",
            "writes",
            "syncs",
            "refused_writes",
            "refused_syncs",
            "clock_reads",
            "temporary_opens",
            "shared_maps",
            "held_syncs",
        ]
    )
} | {
    name: index + 16
    for index, name in enumerate(
        ["space", "full", "sync_delay", "sync_faults", "sync_classes", "read_only", "wall_offset", "die", "still"]
    )
}


def memory_folder() -> Path:
    """A new directory in memory where there is room for one: what counts is what is written down, not where it lies."""
    return Path(tempfile.mkdtemp(prefix="disk-", dir=_MEMORY if _MEMORY.is_dir() else None))


@functools.cache
def library() -> Path:
    """The library, built once in a process's life. Skips the test, with the reason, where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc): disks cannot be brought under control")
    path = Path(tempfile.mkdtemp(prefix="disk-")) / "libdisk.so"
    sources = [str(SOURCES / name) for name in ("disk.c", "clock.c")]
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(path), *sources, "-ldl", "-lpthread"], check=True)
    return path


class Disk:
    """The disk below `root` and the clock of the programs started with `environment`.

    What is set takes effect at the next call of libc. `journal` is written only where asked for.
    """

    def __init__(self, root: Path, place: Path, *, journal: bool = False) -> None:
        """`place` is a directory for the control page and the journal, outside of `root`."""
        place.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.journal = place / "journal"
        self._control = place / "control"
        self._control.write_bytes(bytes(PAGE_BYTES))
        self._library = library()
        with self._control.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), PAGE_BYTES)
        self._journals = journal
        self.heal()

    @property
    def environment(self) -> dict[str, str]:
        """What a program is started with."""
        made = {"LD_PRELOAD": str(self._library), "DISK_ROOT": str(self.root), "DISK_CONTROL": str(self._control)}
        return made | ({"DISK_JOURNAL": str(self.journal)} if self._journals else {})

    def close(self) -> None:
        """Let go of the control page."""
        self._page.close()

    def _get(self, name: str) -> int:
        value: int = struct.unpack_from("=q", self._page, _WORDS[name] * 8)[0]
        return value

    def _set(self, name: str, value: int) -> None:
        struct.pack_into("=q", self._page, _WORDS[name] * 8, value)

    # --- what the library saw ---

    @property
    def journal_bytes(self) -> int:
        """Length of the journal: everything up to there had happened when this was asked."""
        return self._get("journal_bytes")

    @property
    def writes(self) -> int:
        """Writes below the root."""
        return self._get("writes")

    @property
    def syncs(self) -> int:
        """Syncs below the root that succeeded."""
        return self._get("syncs")

    @property
    def refused_writes(self) -> int:
        """Changes answered with ENOSPC or EROFS."""
        return self._get("refused_writes")

    @property
    def refused_syncs(self) -> int:
        """Syncs answered with EIO."""
        return self._get("refused_syncs")

    @property
    def clock_reads(self) -> int:
        """Readings of the wall clock."""
        return self._get("clock_reads")

    @property
    def temporary_opens(self) -> int:
        """Temporary files that SQLite opened."""
        return self._get("temporary_opens")

    @property
    def shared_maps(self) -> int:
        """Mappings that write past the library."""
        return self._get("shared_maps")

    @property
    def held_syncs(self) -> int:
        """Syncs that came while the disk stood still."""
        return self._get("held_syncs")

    # --- what it does from now on ---

    def heal(self) -> None:
        """Nothing fails, the clock is right."""
        self._set("space", -1)
        self._set("full", 0)
        self._set("sync_delay", -1)
        self._set("sync_faults", 0)
        self._set("sync_classes", int(ALL_FILES))
        self._set("read_only", 0)
        self._set("wall_offset", 0)
        self._set("die", 0)
        self._set("still", 0)

    def limit_space(self, size: int) -> None:
        """Files may grow by `size` bytes in all, and by what they shrink; then ENOSPC."""
        self._set("space", size)

    def fill(self, files: Files) -> None:
        """Files of these classes cannot grow: ENOSPC."""
        self._set("full", int(files))

    def fail_syncs(self, count: int = -1, *, after: int = 0, files: Files = ALL_FILES) -> None:
        """Of the syncs of these files the next `after` succeed and `count` (-1: all) behind them fail with EIO."""
        self._set("sync_faults", count)
        self._set("sync_classes", int(files))
        self._set("sync_delay", after)

    def make_read_only(self, read_only: bool = True) -> None:
        """Every change is answered with EROFS."""
        self._set("read_only", int(read_only))

    def stand_still(self, still: bool = True) -> None:
        """Syncs wait until it goes on; what is written goes on."""
        self._set("still", int(still))

    def kill(self) -> None:
        """Whoever changes something next dies of SIGKILL, when that is done and written down."""
        self._set("die", 1)

    def set_clock(self, seconds: int) -> None:
        """The wall clock is off by so many seconds."""
        self._set("wall_offset", seconds)
