"""What a client of 2026-07-28 listens to (`subscriptions/listen`): changes of lists and resources, which the SDK tells, and of
tasks (`taskIds` of the tasks extension), which are told here.

The SDK acknowledges what it knows of; the tasks that there are, are added to that. From then on the client gets each of them
as it stands at the moment (`notifications/tasks`, whole, as `tasks/get` has it), and again whenever its status, words or
question are others. A client that does not read holds up what it is told, and gets the newest when it does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mcp_types as types
from mcp.server.subscriptions import SUBSCRIPTION_ID_META_KEY, ListenHandler

from edgenode.bridges.mcp.calling import Message, Request
from edgenode.bridges.mcp.refusals import refusal
from edgenode.bridges.mcp.tasking import Tasks
from edgenode.link.errors import EdgenodeError, InvalidArgument
from edgenode.link.wire import checks

MOST_TASKS = 256  # of one subscription
_FILTER = "taskIds"
_TOLD = ("status", "statusMessage", "inputRequests")  # of a task: what a change of is worth a notification

_log = logging.getLogger(__name__)


class Listening:
    """Handler of `subscriptions/listen`."""

    def __init__(self, lists: ListenHandler, tasks: Tasks) -> None:
        self._lists = lists
        self._tasks = tasks

    async def __call__(
        self, request: Request, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Until the client goes or `close`. Raises MCPError."""
        wanted = _task_ids(params.notifications)
        if not wanted:
            return await self._lists(request, params)
        known = await self._tasks.known(request, wanted)
        followers: list[asyncio.Task[None]] = []

        def follow() -> None:
            followers.extend(asyncio.create_task(self._follow(request, task)) for task in known)

        session: Any = _Acknowledging(request.session, known, follow)
        try:
            return await self._lists(replace(request, session=session), params)
        finally:
            for follower in followers:
                follower.cancel()
            if followers:
                await asyncio.wait(followers)

    def close(self) -> None:
        """Ends all streams in order."""
        self._lists.close()

    async def _follow(self, request: Request, task_id: str) -> None:
        before = None
        meta = {SUBSCRIPTION_ID_META_KEY: request.request_id}
        try:
            async for told in self._tasks.follow(task_id):
                now = [told.get(key) for key in _TOLD]
                if now != before:
                    before = now
                    params = told | {"_meta": {**told.get("_meta", {}), **meta}}
                    message: Any = Message("notifications/tasks", params)
                    await request.session.send_notification(message, related_request_id=request.request_id)
        except EdgenodeError as error:
            _log.warning("task %s is not followed any more: %s", task_id, error)


class _Acknowledging:
    """A session whose acknowledgement also names the tasks; `after` it what is due then begins."""

    def __init__(self, session: Any, tasks: Sequence[str], after: Callable[[], None]) -> None:
        self._session = session
        self._tasks = tasks
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def send_notification(self, notification: Any, related_request_id: Any = None) -> None:
        """See ServerSession."""
        if not isinstance(notification, types.SubscriptionsAcknowledgedNotification):
            await self._session.send_notification(notification, related_request_id=related_request_id)
            return
        honored = notification.params.notifications.model_copy(update={_FILTER: list(self._tasks)})
        params = notification.params.model_copy(update={"notifications": honored})
        told = notification.model_copy(update={"params": params})
        await self._session.send_notification(told, related_request_id=related_request_id)
        self._after()


def _task_ids(wanted: types.SubscriptionFilter) -> list[str]:
    ids = (wanted.model_extra or {}).get(_FILTER) or []
    try:
        if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
            raise InvalidArgument("BAD_FILTER", f"{_FILTER} is no list of texts", hint="name tasks by their ids")
        checks.at_most(len(ids), MOST_TASKS, _FILTER)
    except EdgenodeError as error:
        raise refusal(error.problem) from error
    return list(dict.fromkeys(ids))
