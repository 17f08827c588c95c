"""Rules of the source that no linter knows."""

from __future__ import annotations

import ast
import re
import sys

import pytest

from tests.architecture.source import ROOT, files, imports, place, tree

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 90

# What a core may import of the standard library: nothing that waits, reads a clock, draws a number or opens a thing.
PURE = frozenset(
    {
        "__future__",
        "abc",
        "bisect",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "enum",
        "functools",
        "hashlib",
        "heapq",
        "itertools",
        "math",
        "operator",
        "re",
        "string",
        "struct",
        "typing",
        "zlib",
    }
)
CORE_ROOMS = ("edgenode.link.model", "edgenode.link.protocol", "edgenode.link.errors", "edgenode.link.ports")


def core_violations(module: ast.Module) -> list[tuple[str, int]]:
    """Imports a core may not have, and calls that open or print."""
    found = [
        (name, line)
        for name, line in imports(module)
        if name.partition(".")[0] not in PURE and not name.startswith(CORE_ROOMS)
    ]
    for node in ast.walk(module):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("open", "print", "input")
        ):
            found.append((f"{node.func.id}()", node.lineno))
        if isinstance(node, ast.AsyncFunctionDef):
            found.append((f"async def {node.name}", node.lineno))
    return found


def test_cores_have_no_clock_chance_or_io() -> None:
    found = [
        f"{place(path, line)} {name}"
        for path in files("edgenode/link/protocol", "edgenode/link/model")
        for name, line in core_violations(tree(path))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    ["import time", "from time import monotonic", "import random", "from datetime import datetime", "async def f(): ...",
     "import asyncio", "from edgenode.link.wire import status", "from edgenode.api.task.v1 import task_pb2", "open('x')"],
)  # fmt: skip
def test_the_rule_for_cores_bites(text: str) -> None:
    assert core_violations(ast.parse(text)) != []


def test_no_room_for_everything() -> None:
    bad = re.compile(r"(^|_)(utils?|common|helpers?|misc)(_|$)")
    found = [
        str(path.relative_to(ROOT))
        for path in files("edgenode", "hub", "tests", "examples")
        if any(bad.search(part) for part in path.relative_to(ROOT).with_suffix("").parts)
    ]
    assert found == []


def test_sizes_of_files_and_functions() -> None:
    long_files, long_functions = [], []
    for path in files("edgenode", "hub"):
        lines = len(path.read_text().splitlines())
        if lines > MAX_FILE_LINES:
            long_files.append(f"{place(path, 1)} has {lines} lines")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long_functions.append(f"{place(path, node.lineno)} {node.name} has {length} lines")
    assert (long_files, long_functions) == ([], [])


def test_refusals_have_stable_reasons() -> None:
    """The first argument of an error is its reason; where it is written out, it is UPPER_SNAKE_CASE."""
    errors = {
        node.name
        for node in tree(ROOT / "edgenode/link/errors.py").body
        if isinstance(node, ast.ClassDef) and node.name != "EdgenodeError"
    }
    assert len(errors) > 10
    reason = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
    found = []
    for path in files("edgenode", "hub"):
        for node in ast.walk(tree(path)):
            if not (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in errors and node.args
            ):
                continue
            first = node.args[0]
            if isinstance(first, ast.Constant) and not (isinstance(first.value, str) and reason.fullmatch(first.value)):
                found.append(f"{place(path, node.lineno)} {node.func.id}({first.value!r})")
    assert found == []


def test_only_the_standard_library_is_pure() -> None:
    assert sys.stdlib_module_names >= PURE
