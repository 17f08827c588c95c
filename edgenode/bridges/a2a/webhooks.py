"""Push notifications: a caller's web hooks, and the changes of its tasks to them, at least once and in order.

A hook is a file of its own below the bridge's directory, whole or not there, readable by its owner alone since it may hold
secrets of the receiver's. It says how far the receiver has come: the sequence of the last change it took. One delivery follows
the task from there, so after a restart of the bridge the rest is sent, perhaps with the last one again: each notification has
an id, the same whenever it is sent again (`X-A2A-Notification-Id`), and the sequence in its metadata.

A receiver that does not take one is asked again after 1 s, 2 s, ... 5 min, each drawn from the upper half, for a day; after
that, or when it answers 410 (gone), the hook is over. What it is told is the StreamResponse that a stream would have had,
except pieces of an output that forms: they are for those who watch.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from a2a.types import a2a_pb2
from google.protobuf import json_format

from edgenode.api.task.v1 import task_pb2
from edgenode.bridges.a2a import states
from edgenode.bridges.a2a.targets import Targets
from edgenode.link.errors import EdgenodeError, InvalidArgument, NotFound, ResourceExhausted
from edgenode.link.identity.files import write_private_file
from edgenode.link.model.names import check_token
from edgenode.link.model.task import TaskState
from edgenode.link.ports import Rng, system_rng
from edgenode.sdk.client import Client
from edgenode.sdk.handle import TaskUpdate

MAX_HOOKS = 1000
MAX_HOOKS_OF_TASK = 16
MAX_SECRET = 4096
FIRST_WAIT, LONGEST_WAIT, GIVE_UP = 1.0, 300.0, 86_400.0  # seconds
GONE = 410
ID_HEADER = "X-A2A-Notification-Id"
TOKEN_HEADER = "X-A2A-Notification-Token"

_log = logging.getLogger(__name__)


@dataclass
class Hook:
    """A hook as its file has it. `done`: wall-clock seconds since when nothing is sent any more, 0 while it is."""

    config: dict[str, Any]
    task_id: str
    id: str
    sequence: int
    done: float = 0.0

    def message(self) -> a2a_pb2.TaskPushNotificationConfig:
        """As the protocol has it."""
        return json_format.ParseDict(self.config, a2a_pb2.TaskPushNotificationConfig())


class Webhooks:
    """The hooks of one bridge, in `directory`. `start` it, and close it at the end."""

    def __init__(self, client: Client, directory: Path, targets: Targets, rng: Rng | None = None) -> None:
        self._client = client
        self._directory = directory
        self._targets = targets
        self._rng = rng or system_rng()
        self._hooks: dict[tuple[str, str], Hook] = {}
        self._deliveries: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Goes on with what an earlier process left."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._directory.glob("*.json"):
            try:
                hook = msgspec.json.decode(path.read_bytes(), type=Hook)
                hook.message()
            except (msgspec.DecodeError, json_format.ParseError) as error:
                _log.error("%s is no web hook, and left alone: %s", path, error)
                continue
            self._hooks[hook.task_id, hook.id] = hook
            if not hook.done:
                self._deliver(hook)
        self._prune()

    async def aclose(self) -> None:
        """Ends all deliveries where they are."""
        tasks = list(self._deliveries.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._targets.aclose()

    async def check(self, url: str) -> None:
        """Raises what is wrong with a target, see Targets.look."""
        await self._targets.look(url)

    async def add(
        self, task: task_pb2.Task, config: a2a_pb2.TaskPushNotificationConfig
    ) -> a2a_pb2.TaskPushNotificationConfig:
        """Stores a hook, or another one under its id; what happens from `task` on is sent. Its target was checked.

        Raises InvalidArgument, ResourceExhausted (TOO_MANY_HOOKS).
        """
        kept = a2a_pb2.TaskPushNotificationConfig()
        kept.CopyFrom(config)
        kept.task_id = task.task_id
        kept.id = check_token(config.id, "id") if config.id else task.task_id
        kept.ClearField("tenant")
        for name, text in (("token", kept.token), ("authentication", kept.authentication.credentials)):
            if len(text) > MAX_SECRET or not text.isprintable() or not text.isascii():
                raise InvalidArgument("BAD_SECRET", f"{name} cannot be sent in a header", field=name)
        if kept.authentication.scheme:
            check_token(kept.authentication.scheme, "authentication.scheme")
        key = kept.task_id, kept.id
        known = self._hooks.get(key)
        if known is not None and known.message() == kept and not known.done:
            return kept
        if known is None:
            self._prune()
            if len(self._hooks) >= MAX_HOOKS or len(self._of(task.task_id)) >= MAX_HOOKS_OF_TASK:
                raise ResourceExhausted(
                    "TOO_MANY_HOOKS", "there are as many web hooks as there may be", hint="delete some", retryable=False
                )
        await self._stop(key)
        hook = Hook(json_format.MessageToDict(kept), task.task_id, kept.id, task.sequence)
        self._write(hook)
        self._hooks[key] = hook
        self._deliver(hook)
        return kept

    async def get(self, task_id: str, id: str) -> a2a_pb2.TaskPushNotificationConfig:
        """Raises NotFound (UNKNOWN_TASK), as A2A has no other word for it."""
        hook = self._hooks.get((task_id, id))
        if hook is None:
            raise NotFound("UNKNOWN_TASK", f"task {task_id} has no web hook {id!r}", hint="list them")
        return hook.message()

    async def listed(self, task_id: str) -> list[a2a_pb2.TaskPushNotificationConfig]:
        """Those of a task, by id."""
        return [hook.message() for hook in sorted(self._of(task_id), key=lambda hook: hook.id)]

    async def remove(self, task_id: str, id: str) -> None:
        """Ends one; nothing is sent to it after this."""
        await self._stop((task_id, id))
        hook = self._hooks.pop((task_id, id), None)
        if hook is not None:
            self._path(hook).unlink(missing_ok=True)

    def _of(self, task_id: str) -> list[Hook]:
        return [hook for hook in self._hooks.values() if hook.task_id == task_id]

    async def _stop(self, key: tuple[str, str]) -> None:
        task = self._deliveries.pop(key, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    # --- delivery ---

    def _deliver(self, hook: Hook) -> None:
        key = hook.task_id, hook.id
        task = asyncio.create_task(self._follow(hook), name=f"webhook-{hook.task_id}")
        self._deliveries[key] = task

        def over(ended: asyncio.Task[None]) -> None:
            if self._deliveries.get(key) is ended:
                del self._deliveries[key]
            if not ended.cancelled() and (error := ended.exception()) is not None:
                _log.error("web hook %s of task %s ended", hook.id, hook.task_id, exc_info=error)

        task.add_done_callback(over)

    async def _follow(self, hook: Hook) -> None:
        wait = FIRST_WAIT
        while True:
            try:
                await self._send_all(hook)
                break
            except NotFound:
                break  # the node has forgotten the task
            except EdgenodeError as error:
                _log.warning("web hook of task %s waits for the node: %s", hook.task_id, error)
            await asyncio.sleep(self._jitter(wait))
            wait = min(2 * wait, LONGEST_WAIT)
        hook.done = time.time()
        self._write(hook)

    async def _send_all(self, hook: Hook) -> None:
        task = await self._client.get_task(hook.task_id)
        async with aclosing(self._client.watch_task(hook.task_id, after=hook.sequence)) as updates:
            async for update in updates:
                if states.settled(update.state):
                    task = update.task or await self._client.get_task(hook.task_id)
                for number, event in enumerate(_events(task, update)):
                    if not await self._send(hook, f"{hook.task_id}-{hook.id}-{update.sequence}-{number}", event):
                        return
                hook.sequence = max(hook.sequence, update.sequence)
                self._write(hook)

    async def _send(self, hook: Hook, id: str, event: a2a_pb2.StreamResponse) -> bool:
        """Until it is taken; False if the hook is over instead."""
        config = hook.message()
        headers = {"Content-Type": "application/a2a+json", ID_HEADER: id}
        if config.token:
            headers[TOKEN_HEADER] = config.token
        if config.authentication.scheme and config.authentication.credentials:
            headers["Authorization"] = f"{config.authentication.scheme} {config.authentication.credentials}"
        body = msgspec.json.encode(json_format.MessageToDict(event))
        loop = asyncio.get_running_loop()
        give_up, wait = loop.time() + GIVE_UP, FIRST_WAIT
        while True:
            try:
                status = await self._targets.post(config.url, body, headers)
                if 200 <= status < 300:
                    return True
                why = f"it answers {status}"
            except EdgenodeError as error:
                status, why = 0, str(error.problem)
            if status == GONE or loop.time() + wait > give_up:
                _log.warning("web hook %s of task %s is over: %s", hook.id, hook.task_id, why)
                return False
            _log.info("web hook %s of task %s: %s", hook.id, hook.task_id, why)
            await asyncio.sleep(self._jitter(wait))
            wait = min(2 * wait, LONGEST_WAIT)

    def _jitter(self, wait: float) -> float:
        return wait * (0.5 + self._rng.random() / 2)

    # --- files ---

    def _path(self, hook: Hook) -> Path:
        name = hashlib.blake2b(f"{hook.task_id}\n{hook.id}".encode(), digest_size=16).hexdigest()
        return self._directory / f"{name}.json"

    def _write(self, hook: Hook) -> None:
        write_private_file(self._path(hook), msgspec.json.encode(hook))

    def _prune(self) -> None:
        """Forgets hooks that were over a day ago."""
        before = time.time() - GIVE_UP
        for key, hook in list(self._hooks.items()):
            if hook.done and hook.done < before:
                del self._hooks[key]
                self._path(hook).unlink(missing_ok=True)


def _events(task: task_pb2.Task, update: TaskUpdate) -> list[a2a_pb2.StreamResponse]:
    found = []
    if TaskState(update.state).terminal:
        found = [a2a_pb2.StreamResponse(artifact_update=each) for each in states.result_events(task)]
    if update.pieces and not states.settled(update.state):
        return found
    return [*found, a2a_pb2.StreamResponse(status_update=states.update_of(task, update))]
