"""What an agent's process loads."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded(statement: str) -> set[str]:
    """Modules loaded after `statement` in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(run.stdout.split())


def test_the_package_alone_costs_nothing() -> None:
    assert loaded("import edgenode.sdk").isdisjoint({"grpc", "msgspec", "asyncio"})


def test_an_agent_loads_neither_node_nor_cryptography() -> None:
    modules = loaded("from edgenode.sdk import Agent, Client, Context, errors")
    assert "grpc" in modules
    assert modules.isdisjoint({"cryptography", "sqlite3", "edgenode.node", "edgenode.sdk.testing"})


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(ImportError):
        from edgenode.sdk import Nonsense  # noqa: F401
