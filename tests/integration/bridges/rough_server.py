"""An MCP server for tests, by hand: what it answers to a call of `say` are the lines it is told, `@` being the call's id
and `\\xff` the byte.

It tells of a cancelled request with a notification. `leave` is its exit code after that, `deaf` that it reads no more.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

ANSWERS: dict[str, Any] = {
    "initialize": {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "rough", "version": "1"},
    },
    "tools/list": {
        "tools": [
            {
                "name": "say",
                "inputSchema": {"type": "object"},
                "outputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}},
            }
        ]
    },
}


def _say(text: str) -> None:
    sys.stdout.buffer.write(text.encode().replace(b"\\xff", b"\xff") + b"\n")
    sys.stdout.buffer.flush()


def _write(message: dict[str, Any]) -> None:
    _say(json.dumps({"jsonrpc": "2.0", **message}))


for line in sys.stdin:
    request = json.loads(line)
    method, params = request["method"], request.get("params", {})
    if method == "tools/call":
        told = params["arguments"]
        for text in told.get("lines", ()):
            _say(text.replace("@", str(request["id"])))
        if "leave" in told:
            sys.exit(told["leave"])
        if "deaf" in told:
            time.sleep(600)
    elif method == "notifications/cancelled":
        _write({"method": "notifications/heard", "params": {"id": params["requestId"]}})
    elif method in ANSWERS:
        _write({"id": request["id"], "result": ANSWERS[method]})
    elif "id" in request:
        _write({"id": request["id"], "error": {"code": -32601, "message": "no such method"}})
