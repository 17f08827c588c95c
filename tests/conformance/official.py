"""The official conformance suite of MCP as a program: one run, and the verdict it prints on each scenario."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path

from tests import npm

PACKAGE = Path("node_modules/@modelcontextprotocol/conformance")
_TIME = 150.0  # seconds for one revision
_VERDICT = re.compile(r"^([✓✗]) ([\w/-]+): \d+ passed, \d+ failed", re.MULTILINE)


async def run(
    suite: Path, *arguments: str, node_options: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> tuple[int, dict[str, bool], str]:
    """(exit code, passed or not by scenario, output). `suite`: a folder where it is installed."""
    process = await asyncio.create_subprocess_exec(
        npm.NODE,
        *node_options,
        str(suite / PACKAGE / "dist" / "index.js"),
        *arguments,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_TIME):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = out.decode(errors="replace")
    return process.returncode or 0, {name: mark == "✓" for mark, name in _VERDICT.findall(text)}, text
