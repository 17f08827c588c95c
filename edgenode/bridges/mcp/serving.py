"""The node as an MCP server, for clients of 2026-07-28 and of 2025-11-25 and before, over HTTP or a client's pipes.

The protocol is the SDK's; here is what it asks for. Tools, prompts and resources are what agents offer (`catalog`), a request
is a task (`calling`) or a handle of one (`tasking`), of which a client hears more if it listens (`listening`), and what is
said of the node itself are resources (`resources`). The state a client carries between two rounds of a request is sealed with
a key of the node's, so it holds over a restart.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import mcp_types as types
import msgspec
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPError

import edgenode
from edgenode.bridges.mcp.calling import DEFAULT_TIMEOUT, Caller, Request
from edgenode.bridges.mcp.catalog import Catalog, Resource
from edgenode.bridges.mcp.listening import Listening
from edgenode.bridges.mcp.offers import Json, Offer, input_of
from edgenode.bridges.mcp.outcomes import media_type_of, prompt_result, resource_result, tool_result
from edgenode.bridges.mcp.refusals import refusal
from edgenode.bridges.mcp.resources import JSON_TYPE, OWN, REGISTRY, ROOT, TEMPLATES, read_own
from edgenode.bridges.mcp.sessions import Sessions
from edgenode.bridges.mcp.tasking import EXTENSION, TaskIdParams, Tasks, UpdateParams
from edgenode.link.errors import EdgenodeError, InvalidArgument, NotFound
from edgenode.link.ports import Clock, SystemClock
from edgenode.sdk.client import Client
from edgenode.sdk.encoding import Payload

PAGE = 200
STATE_SECONDS = 86_400.0  # how long a client may take to come back with an answer
CACHE = CacheHint(ttl_ms=5_000, scope="private")
MOST_COMPLETIONS = 100
_CACHED: dict[CacheableMethod, CacheHint] = {
    "tools/list": CACHE,
    "prompts/list": CACHE,
    "resources/list": CACHE,
    "resources/templates/list": CACHE,
    "resources/read": CacheHint(ttl_ms=0, scope="private"),
    "server/discover": CACHE,
}
_SETTLE_SECONDS = 2.0

Item = TypeVar("Item")

_log = logging.getLogger(__name__)


class _Server(Server[None]):
    """Says to clients of the older revisions as well that lists change."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """See Server."""
        options = notification_options or NotificationOptions(True, True, True)
        return super().create_initialization_options(options, experimental_capabilities, extensions)


class Serving:
    """`async with Serving(...) as serving`: then `serving.server` is to be run on transports.

    `client` is open, and stays the caller's. `key`: 32 bytes or more that seal the state of requests; `timeout`: seconds a
    request may take unless it says otherwise; `retention`: seconds the node keeps ended tasks; `memory`: file that holds who
    was known of the fleet, None for none.
    """

    def __init__(
        self,
        client: Client,
        *,
        key: bytes,
        timeout: float = DEFAULT_TIMEOUT,
        retention: float = 86_400.0,
        memory: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._sessions = Sessions()
        self.catalog = Catalog(client, clock or SystemClock(), self._offers_changed, memory)
        self.caller = Caller(client, timeout)
        self._tasks = Tasks(self.caller, self._offer_of, retention)
        self._listening = Listening(ListenHandler(self._sessions.bus), self._tasks)
        self.server = self._make(key)

    def _make(self, key: bytes) -> Server[None]:
        server = _Server(
            "edgenode",
            version=edgenode.__version__,
            title="edgenode",
            instructions="Tools are skills of agents on this device and its fleet. A tool on a device that is out of reach "
            "answers when that is back; see the resource edgenode://registry.",
            cache_hints=_CACHED,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_completion=self._complete,
            on_subscriptions_listen=self._listening,
            on_subscribe_resource=self._sessions.subscribe,
            on_unsubscribe_resource=self._sessions.unsubscribe,
            get_tool_input_schema=self._input_schema,
        )
        server.extensions[EXTENSION] = {}
        server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, self._sessions.set_level)
        server.add_request_handler("tasks/get", TaskIdParams, self._tasks.get)
        server.add_request_handler("tasks/update", UpdateParams, self._tasks.update)
        server.add_request_handler("tasks/cancel", TaskIdParams, self._tasks.cancel)
        server.add_notification_handler("notifications/initialized", types.NotificationParams, self._sessions.joined)
        security = RequestStateSecurity(keys=[key], ttl=STATE_SECONDS)
        server.middleware.append(RequestStateBoundary(security, default_audience="edgenode"))
        return server

    async def __aenter__(self) -> Serving:
        self._watching = asyncio.create_task(self.catalog.run(), name="mcp-catalog")
        self._watching.add_done_callback(_ended)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await self.caller.settle(_SETTLE_SECONDS)

    def stop(self) -> None:
        """Ends streams in order; requests that are under way when the transports end can be made again."""
        self.caller.stopping = True
        self._listening.close()

    def _offers_changed(self, kinds: set[str]) -> None:
        self._sessions.changed(kinds)
        self._sessions.updated(REGISTRY)

    def _offer_of(self, skill: str) -> Offer | None:
        return self.catalog.offers.tool(skill)

    def _input_schema(self, name: str) -> Mapping[str, Any] | None:
        offer = self.catalog.offers.tool(name)
        return offer.tool.input_schema if offer is not None else None

    # --- tools ---

    async def _list_tools(
        self, _request: Request, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        offers = await self.catalog.current()
        page, after = _page(offers.tools.values(), _key, params)
        return types.ListToolsResult(tools=[offer.tool for offer in page], next_cursor=after)

    async def _call_tool(self, request: Request, params: types.CallToolRequestParams) -> Any:
        offer = await self._find(lambda offers: offers.tool(params.name), "UNKNOWN_TOOL", f"tool {params.name}")
        data = _input(offer, params.arguments)
        if self._tasks.wanted(offer, request):
            return await self._tasks.call(offer, data, request, params)
        return await self.caller.call(offer, data, request, params, tool_result)

    async def _find(self, look: Callable[[Any], Item | None], reason: str, what: str) -> Item:
        """What is looked for, after a second look at the fleet. Raises MCPError."""
        found = look(await self.catalog.known())
        if found is None:
            found = look(await self.catalog.current(fresh=True))
        if found is None:
            hint = "list again" if self.catalog.fleet_included else "list again; the hub is out of reach at the moment"
            raise refusal(NotFound(reason, f"nobody offers the {what}", hint=hint).problem)
        return found

    # --- prompts ---

    async def _list_prompts(
        self, _request: Request, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        offers = await self.catalog.current()
        page, after = _page(offers.prompts.values(), _key, params)
        return types.ListPromptsResult(prompts=[_prompt(offer) for offer in page], next_cursor=after)

    async def _get_prompt(self, request: Request, params: types.GetPromptRequestParams) -> Any:
        offer = await self._find(lambda offers: offers.prompt(params.name), "UNKNOWN_PROMPT", f"prompt {params.name}")
        data = _input(offer, dict(params.arguments or {}))
        return await self.caller.call(offer, data, request, params, prompt_result)

    async def _complete(self, _request: Request, params: types.CompleteRequestParams) -> types.CompleteResult:
        """Values that the schema of a prompt's argument names, an `enum` or `examples`."""
        offers = await self.catalog.known()
        offer = None
        if isinstance(params.ref, types.PromptReference):
            offer = offers.prompt(params.ref.name)
        else:
            given = next((resource for resource in offers.resources if resource.uri == params.ref.uri), None)
            offer = given.offer if given is not None else None
        schema = (
            offer.tool.input_schema.get("properties", {}).get(params.argument.name, {}) if offer is not None else {}
        )
        known = [text for text in (*schema.get("enum", ()), *schema.get("examples", ())) if isinstance(text, str)]
        fit = [text for text in known if text.startswith(params.argument.value)]
        return types.CompleteResult(
            completion=types.Completion(
                values=fit[:MOST_COMPLETIONS], total=len(fit), has_more=len(fit) > MOST_COMPLETIONS
            )
        )

    # --- resources ---

    async def _list_resources(
        self, _request: Request, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        offers = await self.catalog.current()
        listed = [types.Resource.model_validate(own | {"mimeType": JSON_TYPE}) for own in OWN]
        listed += [
            types.Resource.model_validate({"uri": resource.uri, **_named(resource)})
            for resource in offers.resources
            if not resource.template
        ]
        page, after = _page(listed, lambda entry: entry.uri, params)
        return types.ListResourcesResult(resources=page, next_cursor=after)

    async def _list_templates(
        self, _request: Request, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        offers = await self.catalog.current()
        listed = [types.ResourceTemplate.model_validate(own) for own in TEMPLATES]
        listed += [
            types.ResourceTemplate.model_validate({"uriTemplate": resource.uri, **_named(resource)})
            for resource in offers.resources
            if resource.template
        ]
        page, after = _page(listed, lambda entry: entry.uri_template, params)
        return types.ListResourceTemplatesResult(resource_templates=page, next_cursor=after)

    async def _read_resource(self, request: Request, params: types.ReadResourceRequestParams) -> Any:
        uri = params.uri
        if uri.startswith(ROOT):
            try:
                return {"resultType": "complete", "contents": [await read_own(self._client, uri)]}
            except NotFound as error:
                raise MCPError(types.INVALID_PARAMS, str(error), {"reason": error.reason, "uri": uri}) from error
            except EdgenodeError as error:
                raise refusal(error.problem) from error
        found = (await self.catalog.known()).resource(uri) or (await self.catalog.current(fresh=True)).resource(uri)
        if found is None:
            raise MCPError(types.INVALID_PARAMS, "Resource not found", {"reason": "UNKNOWN_RESOURCE", "uri": uri})
        resource, values = found
        data = Payload(msgspec.json.encode(values), "")
        return await self.caller.call(
            resource.offer, data, request, params, lambda offer, task: resource_result(offer, task, uri)
        )


def _ended(watching: asyncio.Task[None]) -> None:
    """Lists stay as they are from then on, which somebody has to be told."""
    if not watching.cancelled() and (error := watching.exception()) is not None:
        _log.error("what is on offer is not followed any more", exc_info=error)


def _input(offer: Offer, arguments: Mapping[str, Any] | None) -> Payload:
    try:
        return input_of(offer, arguments or {})
    except InvalidArgument as error:
        raise refusal(error.problem) from error


def _named(resource: Resource) -> Json:
    skill = resource.offer.skill
    told = {"name": skill.name or skill.id, "description": skill.description, "mimeType": media_type_of(resource.offer)}
    return {key: value for key, value in told.items() if value}


def _prompt(offer: Offer) -> types.Prompt:
    schema = offer.tool.input_schema
    required = schema.get("required", ())
    return types.Prompt(
        name=offer.tool.name,
        title=offer.tool.title,
        description=offer.tool.description,
        arguments=[
            types.PromptArgument(name=name, description=part.get("description"), required=name in required)
            for name, part in schema.get("properties", {}).items()
        ],
        _meta=offer.tool.meta,
    )


def _key(offer: Offer) -> str:
    return f"{int(not offer.local)}{offer.skill.id}"


def _page(
    items: Iterable[Item], key: Callable[[Item], str], params: types.PaginatedRequestParams | None
) -> tuple[list[Item], str | None]:
    """(a page, cursor of the next). A cursor names the last item, so it holds while the list changes. Raises MCPError."""
    ordered = sorted(items, key=key)
    if params is not None and params.cursor:
        try:
            after = base64.b64decode(params.cursor.encode(), b"-_", validate=True).decode()
        except ValueError as error:
            raise refusal(
                InvalidArgument("BAD_CURSOR", "the cursor is none of this list's", hint="begin without one").problem
            ) from error
        ordered = [item for item in ordered if key(item) > after]
    page = ordered[:PAGE]
    more = len(ordered) > PAGE
    return page, base64.urlsafe_b64encode(key(page[-1]).encode()).decode() if more else None
