"""What the conformance suite starts for each scenario of a client: hands over what it was told, and waits for the end of it.

`knock.py SOCKET URL`. The client under test is started once, see mounting.py; this needs nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
    line.connect(sys.argv[1])
    told = {"url": sys.argv[2], "context": json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))}
    line.sendall(json.dumps(told).encode() + b"\n")
    sys.stdout.write(line.makefile().read())
