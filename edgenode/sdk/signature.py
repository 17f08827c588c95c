"""A skill's function: what its types say to callers (JSON Schema) and to the worker (decoding, validation).

The parameters are the properties of one JSON object. Two are special: the first one, if it is annotated `Context` or named
`ctx`, gets the context; a single other one annotated `bytes` gets the input as it came. What a function returns is
written as JSON and read back as its declared type, so callers get what the schema promises or an error; `bytes` go as
they are, and a `Payload` under the media type it names. A generator's result forms piece by piece, see `streaming`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from edgenode.link.errors import FailedPrecondition, InvalidArgument
from edgenode.sdk.context import Context
from edgenode.sdk.encoding import JSON, OCTETS, Payload, is_json, json_reader, write_json
from edgenode.sdk.schema import schema_text

_ABSENT: Any = inspect.Parameter.empty


_GENERATORS = {AsyncIterator, AsyncGenerator, AsyncIterable, Iterator, Generator, Iterable}


class PieceType:
    """The type of what a generator yields. Texts and bytes are joined to one result, other values are its list."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.raw = kind is bytes
        self.result = kind if kind in (str, bytes) else list[kind]
        self._reader = None if kind is Any or self.raw else json_reader(kind)

    def output(self, value: Any) -> tuple[bytes, str]:
        """(bytes, media type) of a piece. Raises FailedPrecondition (BAD_RESULT)."""
        return _output(value, self.raw, self._reader)

    def join(self, values: list[Any]) -> Any:
        """The result that these pieces make."""
        if self.kind is str:
            return "".join(values)
        return b"".join(values) if self.raw else values


class Signature:
    """Reads a function once. Raises TypeError for what cannot be a skill, naming the function and the parameter."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.streams = inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
        self.asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        name = getattr(function, "__qualname__", repr(function))
        try:
            hints = get_type_hints(function, include_extras=True)
        except NameError as error:
            raise TypeError(f"{name}: {error}; a skill's types must be importable where it is defined") from error
        parameters = list(inspect.signature(function).parameters.values())
        first = parameters[0] if parameters else None
        self.wants_context = first is not None and (hints.get(first.name) is Context or first.name == "ctx")
        if self.wants_context:
            parameters = parameters[1:]
        for parameter in parameters:
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(f"{name}: parameter {parameter.name} cannot be a property of a JSON object")
        self.raw = len(parameters) == 1 and hints.get(parameters[0].name) is bytes
        self._raw_name = parameters[0].name if self.raw else ""
        returns = hints.get("return", _ABSENT)
        if self.streams:
            self.piece = PieceType(_yielded(name, returns))
            returns = self.piece.result
        self.returns_raw = returns is bytes
        self.returns_payload = returns is Payload
        try:
            self._read_types(name, parameters, hints, Any if returns is _ABSENT else returns)
        except TypeError as error:
            raise TypeError(f"{name}: {error}") from error

    def _read_types(self, name: str, parameters: list[inspect.Parameter], hints: dict[str, Any], returns: Any) -> None:
        fields = [_field(parameter, hints.get(parameter.name, Any)) for parameter in parameters]
        title = name.rpartition(".")[2]
        model = msgspec.defstruct(title, fields, kw_only=True, forbid_unknown_fields=True, module=__name__)
        self._decoder = json_reader(model)
        self.input_schema = "" if self.raw else schema_text(model)
        unstated = returns is Any or self.returns_payload
        self._results = None if unstated else json_reader(returns)
        self.output_schema = "" if unstated or self.returns_raw else schema_text(returns, of_results=True)

    @property
    def description(self) -> str:
        """The docstring's first paragraph on one line."""
        return first_paragraph(self.function.__doc__)

    def arguments(self, data: bytes, content_type: str) -> dict[str, Any]:
        """Keyword arguments from a task's input. Raises InvalidArgument (BAD_INPUT) naming the path."""
        if self.raw:
            return {self._raw_name: data}
        if not is_json(content_type):
            raise InvalidArgument("BAD_INPUT", f"the input is {content_type}", hint="expected JSON")
        try:
            model = self._decoder.decode(data or b"{}")
        except msgspec.DecodeError as error:
            raise InvalidArgument(
                "BAD_INPUT", f"the input does not fit: {error}", hint="compare it with the skill's input schema"
            ) from error
        return msgspec.structs.asdict(model)

    def output(self, result: Any) -> tuple[bytes, str]:
        """(bytes, media type) of what the function returned. Raises FailedPrecondition (BAD_RESULT)."""
        return _output(result, self.returns_raw, self._results)


def _output(result: Any, raw: bool, reader: msgspec.json.Decoder[Any] | None) -> tuple[bytes, str]:
    if isinstance(result, bytes) and (raw or reader is None):
        return result, OCTETS
    if isinstance(result, Payload) and reader is None:
        return result
    try:
        if raw:
            raise TypeError(f"expected bytes, got {type(result).__name__}")
        data = write_json(result)
        if reader is not None:
            reader.decode(data)
    except (TypeError, ValueError, RecursionError, msgspec.DecodeError) as error:
        raise FailedPrecondition(
            "BAD_RESULT", f"the result does not fit the skill's return type: {error}", hint="a defect of the agent"
        ) from error
    return data, JSON


def _yielded(name: str, returns: Any) -> Any:
    """The T of `AsyncIterator[T]` and its like."""
    if returns is _ABSENT:
        return Any
    if get_origin(returns) not in _GENERATORS:
        raise TypeError(f"{name}: a generator returns AsyncIterator[T] or Iterator[T], not {returns}")
    return get_args(returns)[0]


def _field(parameter: inspect.Parameter, hint: Any) -> tuple[str, Any] | tuple[str, Any, Any]:
    default = parameter.default
    if default is parameter.empty:
        return parameter.name, hint
    if isinstance(default, list | dict | set):
        return parameter.name, hint, msgspec.field(default_factory=default.copy)
    return parameter.name, hint, default


def first_paragraph(text: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())
