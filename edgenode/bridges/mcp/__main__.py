"""What the node starts; see mounting."""

from __future__ import annotations

from functools import partial

from edgenode.api.admin.v1 import admin_pb2
from edgenode.bridges.mcp.mounted import Mounted
from edgenode.bridges.mcp.oauth.kept import forget_others
from edgenode.bridges.mounting import main

main("edgenode.bridges.mcp", admin_pb2.MOUNT_KIND_MCP, lambda state: partial(Mounted, state=state), forget_others)
