"""What a running edge has loaded: every package costs memory and time at each start, on devices that have little of both."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.architecture.source import ROOT

# An edge that has not joined: start, serve, stop.
PROGRAM = """
import asyncio, json, sys, tempfile
from pathlib import Path

import click
from edgenode.cli.main import main as command
command.get_command(click.Context(command), "run")
from edgenode.node.config import NodeConfig
from edgenode.node.node import Node

async def main():
    with tempfile.TemporaryDirectory() as state:
        node = Node(NodeConfig(state_dir=Path(state), node="north"))
        await node.start()
        print(json.dumps(sorted(sys.modules)))
        await node.stop()

asyncio.run(main())
"""
NEEDED = {"aiosqlite", "click", "edgenode", "google", "grpc", "grpc_health", "grpc_status", "msgspec", "structlog"}
# Loaded by one of those where they are installed, which on a device they are not.
BY_OTHERS = {"cython_runtime", "grpc_reflection", "grpc_tools", "typing_extensions"}
# Heavy, and not needed before somebody asks for what they do.
LATER = {"cryptography", "ctypes", "email", "http", "multiprocessing", "psutil", "unittest", "xml", "zipfile"}
LATER_MODULES = {"google.protobuf.descriptor_pb2"}  # the schema of schemas, which reflection needs


def test_a_start_loads_what_is_on_the_list() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    modules = set(json.loads(ended.stdout.splitlines()[-1]))
    tops = {name.partition(".")[0] for name in modules}
    foreign = {name for name in tops if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert foreign - BY_OTHERS <= NEEDED
    assert not tops & LATER
    assert not modules & LATER_MODULES
    assert "sqlite3" in tops  # it is the edge that was looked at
