"""Properties are judged by what holds, not by how long an example takes on a busy machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("edgenode", deadline=None)
settings.load_profile("edgenode")
