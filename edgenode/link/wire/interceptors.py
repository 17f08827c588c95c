"""What stands between the network and every servicer: who is calling, whether they may, and errors as statuses."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias
from urllib.parse import unquote

import grpc

from edgenode.link.errors import Unauthenticated, Unimplemented
from edgenode.link.wire.status import Context, abort_for

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs only
_Behaviour = Callable[[Any, Context], Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the transport knows it. Without a verified certificate `uris` is empty."""

    address: str  # as grpc writes it, e.g. `ipv4:127.0.0.1:5000`, `unix:`
    local: bool  # on this machine: Unix socket or loopback
    uris: tuple[str, ...] = ()  # URI names in the verified client certificate
    certificate: bytes = b""  # that certificate, PEM


class Authoriser(Protocol):
    """Decides who may call what. Raises Unauthenticated or PermissionDenied; returns to allow."""

    def authorise(self, peer: Peer, method: str) -> None:
        """`method` is the full name, e.g. `/edgenode.api.task.v1.TaskService/SubmitTask`."""
        ...


class LocalPeersOnly:
    """Allows every program of this machine, nobody else."""

    def authorise(self, peer: Peer, method: str) -> None:
        """See Authoriser."""
        if not peer.local:
            raise Unauthenticated(
                "NOT_LOCAL",
                f"{method} was called from {peer.address}",
                hint="call it from this machine",
                method=method,
            )


def peer_of(context: Context) -> Peer:
    """The peer of a running rpc."""
    return peer_from(context.peer(), context.auth_context() or {})


def peer_from(address: str, auth_context: Mapping[str, Iterable[bytes]]) -> Peer:
    """The peer at grpc's `address` with what TLS verified of it."""
    address = unquote(address)
    certificates = list(auth_context.get("x509_pem_cert", ()))
    return Peer(
        address=address,
        local=_is_local(address),
        uris=tuple(uri.decode() for uri in auth_context.get("peer_uri", ())),
        certificate=certificates[0] if certificates else b"",
    )


class ServiceInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method: authorises first, then turns what it raises into a status."""

    def __init__(self, authoriser: Authoriser | None = None) -> None:
        self._authoriser = authoriser or LocalPeersOnly()
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """See grpc.aio.ServerInterceptor. Unknown methods pass: grpc answers UNIMPLEMENTED."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self.wrap(handler, method))
        return known[1]

    def wrap(self, handler: Handler, method: str) -> Handler:
        """`handler` of `method`, guarded."""
        # The stubs type these for the synchronous server.
        behaviour: Any = handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream
        if behaviour is None:
            return handler
        guard = self._guard_stream if handler.response_streaming else self._guard_unary
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        wrapped: Handler = make(
            guard(behaviour, method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return wrapped

    def _guard_unary(self, behaviour: _Behaviour, method: str) -> Callable[[Any, Context], Awaitable[Any]]:
        async def guarded(request: Any, context: Context) -> Any:
            try:
                self._authoriser.authorise(peer_of(context), method)
                return await _start(behaviour, request, context, method)
            except Exception as error:
                await abort_for(context, error, method)

        return guarded

    def _guard_stream(self, behaviour: _Behaviour, method: str) -> Callable[[Any, Context], Awaitable[None]]:
        async def guarded(request: Any, context: Context) -> None:
            try:
                self._authoriser.authorise(peer_of(context), method)
                running = _start(behaviour, request, context, method)
                if not isinstance(running, AsyncIterator):
                    await running  # it writes through the context itself
                    return
                # Closed here, so that the servicer's cleanup does not wait for the garbage collector.
                async with aclosing(running) as responses:  # type: ignore[type-var]
                    async for response in responses:
                        await context.write(response)
            except Exception as error:
                await abort_for(context, error, method)

        return guarded


def _start(behaviour: _Behaviour, request: Any, context: Context, method: str) -> Any:
    """Calls a servicer's method; a generated one that nobody overrode is plain and raises NotImplementedError."""
    try:
        running = behaviour(request, context)
    except NotImplementedError:
        raise Unimplemented(
            "NOT_SERVED", f"{method} is not served by this kind of node", hint="ask another node", method=method
        ) from None
    if not (inspect.isawaitable(running) or isinstance(running, AsyncIterator)):
        raise TypeError(f"{method} is neither a coroutine nor an asynchronous generator")
    return running


def _is_local(address: str) -> bool:
    return address.startswith(("unix:", "unix-abstract:", "ipv4:127.", "ipv6:[::1]", "ipv6:[::ffff:127."))
