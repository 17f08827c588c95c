"""What the hub does when its parent comes, goes and speaks: ties the uplink to the services."""

from __future__ import annotations

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.model.problem import Problem
from edgenode.link.wire.connection import LinkConnection
from hub.services.calls import CallRouter
from hub.services.dispatcher import Dispatcher
from hub.services.handlers import FleetHandlers
from hub.services.links import Links
from hub.services.uplink import Above
from hub.store.records import PARENT


class FromParent(Above):
    """hub.services.uplink.Above."""

    def __init__(self, dispatcher: Dispatcher, calls: CallRouter, handlers: FleetHandlers, links: Links) -> None:
        self._dispatcher = dispatcher
        self._calls = calls
        self._handlers = handlers
        self._links = links

    def path_changed(self, path: tuple[str, ...]) -> None:
        """See Above."""
        self._links.path_changed()

    def lost(self) -> None:
        """See Above."""
        self._calls.lost(PARENT)

    def established(self, link: LinkConnection) -> None:
        """See LinkEvents."""
        self._dispatcher.parent_session(link.peer.heads)
        self._handlers.session_began(PARENT)

    def up(self) -> None:
        """See Above."""
        self._dispatcher.parent_back()

    def room(self, link: LinkConnection) -> None:
        """See LinkEvents."""
        self._handlers.link_has_room(PARENT)

    def closed(self, link: LinkConnection, problem: Problem) -> None:
        """See LinkEvents."""
        self._handlers.session_ended(PARENT)
        self._dispatcher.parent_gone()

    async def on_calls(self, link: LinkConnection, message: sync_pb2.CallBatch) -> None:
        """See LinkEvents."""
        self._calls.receive(PARENT, message)

    async def on_blobs(self, link: LinkConnection, message: sync_pb2.BlobExchange) -> None:
        """See LinkEvents."""
        self._handlers.blobs(PARENT, message)

    async def on_notices(self, link: LinkConnection, message: sync_pb2.NoticeBatch) -> None:
        """See LinkEvents."""
        await self._handlers.notices(PARENT, message)
