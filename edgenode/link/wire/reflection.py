"""Reflection: generic clients ask a server for its contract, where the optional package is installed.

Few ever ask, and the package takes 4 MB and a tenth of a start, so it is loaded by the first who does.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import grpc

_SERVICE = "grpc.reflection.v1alpha.ServerReflection"
_METHOD = f"/{_SERVICE}/ServerReflectionInfo"


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> bool:
    """Answers for `services` and itself. False, and nothing is served, where grpcio-reflection is not installed."""
    if importlib.util.find_spec("grpc_reflection") is None:
        return False
    server.add_generic_rpc_handlers((_Late((*services, _SERVICE)),))
    return True


class _Late(grpc.GenericRpcHandler):
    def __init__(self, services: Sequence[str]) -> None:
        self._services = services
        self._handler: Any = None

    def service(self, handler_call_details: Any) -> Any:
        """See GenericRpcHandler."""
        if handler_call_details.method != _METHOD:
            return None
        if self._handler is None:
            self._handler = self._load()
        return self._handler

    def _load(self) -> Any:
        messages = importlib.import_module("grpc_reflection.v1alpha.reflection_pb2")
        servicer = importlib.import_module("grpc_reflection.v1alpha.reflection").aio.ReflectionServicer(self._services)
        return grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=messages.ServerReflectionRequest.FromString,
            response_serializer=messages.ServerReflectionResponse.SerializeToString,
        )
