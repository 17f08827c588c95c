"""The contract for other languages: an archive that is always the same, and templates that generators take."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests import npm
from tests.architecture.source import ROOT

TEMPLATES = sorted(path.name for path in (ROOT / "examples" / "stubs").iterdir())
GENERATORS = Path(__file__).with_name("generators")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    archives = [folder / name for name in ("first", "second")]
    for place in archives:
        command = [sys.executable, str(ROOT / "scripts" / "proto_archive"), str(place)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    first, second = (next(place.glob("*.tar.gz")) for place in archives)
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        tar.extractall(folder, filter="data")
    return next(folder.glob("edgenode-proto-*/"))


def buf(folder: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    program = shutil.which("buf", path=str(Path(sys.executable).parent))
    assert program is not None
    # Of programs the generators only: what is installed on this machine must not decide.
    environment = {"PATH": path, "HOME": str(folder), "BUF_CACHE_DIR": str(folder / "buf-cache")}
    return subprocess.run(
        [program, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_archive_stands_alone(unpacked: Path) -> None:
    linted = buf(unpacked, "lint")
    assert linted.returncode == 0, linted.stderr + linted.stdout
    assert (unpacked / "LICENSE").is_file()


@pytest.mark.timeout(180)
def test_typescript_stubs(unpacked: Path) -> None:
    generators = npm.installed(GENERATORS) / "node_modules" / ".bin"
    path = os.pathsep.join((str(generators), str(Path(npm.NODE).parent)))
    made = buf(unpacked, "generate", "--template", "buf.gen.typescript.yaml", path=path)
    assert made.returncode == 0, made.stderr
    text = (unpacked / "gen/edgenode/api/task/v1/task_service_pb.ts").read_text()
    assert "workTasks: {" in text
    assert 'methodKind: "bidi_streaming"' in text


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_lack_nothing_but_their_generators(unpacked: Path, template: str) -> None:
    made = buf(unpacked, "generate", "--template", template)
    assert made.returncode != 0
    assert "not found" in made.stderr
    assert "protoc" in made.stderr
