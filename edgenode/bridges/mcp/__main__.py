"""What the node starts; see mounting."""

from __future__ import annotations

from edgenode.bridges.mcp.mounting import main

main()
