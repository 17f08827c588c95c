"""The project's own source files, parsed once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@lru_cache
def files(*packages: str) -> tuple[Path, ...]:
    """Python files below `packages`, without the generated stubs."""
    generated = ROOT / "edgenode" / "api"
    return tuple(
        path
        for package in packages
        for path in sorted((ROOT / package).rglob("*.py"))
        if not path.is_relative_to(generated)
    )


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(module: ast.Module) -> Iterator[tuple[str, int]]:
    """(name, line) of everything imported; `from a import b` gives `a` and `a.b`."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"
