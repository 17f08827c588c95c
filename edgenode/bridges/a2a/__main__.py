"""What the node starts; see mounting."""

from __future__ import annotations

from edgenode.api.admin.v1 import admin_pb2
from edgenode.bridges.a2a.mounted import Mounted
from edgenode.bridges.mounting import main

main("edgenode.bridges.a2a", admin_pb2.MOUNT_KIND_A2A, lambda _state: Mounted)
