"""Configuration: a frozen dataclass, filled once from flags, environment, a TOML file and defaults, in that order.

A configuration class lists its keys with `setting(...)`, which holds what a person needs (help, bounds) beside the type.
`load` turns the sources into one instance and remembers for each key where its value came from. Nothing deeper reads the
environment or the file again. Every mistake is InvalidArgument (BAD_CONFIG) that names file, line, key, what was found and
what was expected; a key nobody knows is a mistake too, as a misspelt limit would otherwise silently not hold.

Numbers may carry a unit where the key's name has one: `*_bytes = "64 MiB"`, `*_seconds = "7 d"`. Unknown environment
variables are left alone: they may belong to others.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import os
import re
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, NoReturn, TypeVar

from edgenode.link.errors import InvalidArgument
from edgenode.link.model.names import check_name

REASON: Final = "BAD_CONFIG"
# sockaddr_un holds 108 bytes and wants a zero at the end.
MAX_SOCKET_PATH_BYTES: Final = 107
# What lanes may have of a store together; see edgenode.link.store.budget.
MOST_SHARES: Final = 0.9
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
EVENT_LOOPS: Final = ("asyncio", "uvloop")

_BYTE_UNITS: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SECOND_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_QUANTITY: Final = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_TOML_LINE: Final = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)")
_TRUTH: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_TYPE_NAMES: Final = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}

T = TypeVar("T")
Check = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for one key beside its type. `check` gives what was expected instead, or an empty text."""

    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    check: Check | None = None
    in_file: bool = True
    flag: str = ""


def setting(
    help: str,
    *,
    default: Any = dataclasses.MISSING,
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
    check: Check | None = None,
    in_file: bool = True,
    flag: str = "",
) -> Any:
    """A dataclass field that `load` can fill. `in_file=False`: the key cannot stand in the file.

    `flag` is the flag's name where it is not made of the key's.
    """
    rule = Rule(help, low, high, choices, check, in_file, flag)
    return dataclasses.field(default=default, metadata={"help": help, "rule": rule})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: `flag --listen`, `environment EDGENODE_LISTEN`, `/x/edgenode.toml:3` or `default`."""

    kind: str  # flag, environment, file or default
    place: str = ""
    line: int = 0

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.place}:{self.line}"
        return f"{self.kind} {self.place}".strip()


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """A configuration and where each of its values came from."""

    config: T
    origins: Mapping[str, Origin]

    def origin(self, key: str) -> Origin:
        """Where `key` came from. Raises InvalidArgument (BAD_CONFIG) for a key there is not."""
        if key not in self.origins:
            raise InvalidArgument(REASON, f"there is no key {key!r}", hint=_closest(key, self.origins), key=key)
        return self.origins[key]

    def rows(self) -> list[tuple[str, object, str, str]]:
        """(key, value, origin, help) of every key, in the order of the class."""
        return [
            (key, getattr(self.config, key), str(self.origins[key]), rule.help)
            for key, (rule, _) in _rules(type(self.config)).items()
        ]


def load(
    cls: type[T],
    *,
    file: Path | None = None,
    prefix: str = "",
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Loaded[T]:
    """A `cls` from flags > environment (`prefix` + upper-case key) > TOML file > defaults.

    A flag that is None was not given; a file that does not exist is empty. If `cls` has `conflicts()`, it yields
    (key, expected) for values that do not go together. Raises InvalidArgument (BAD_CONFIG).
    """
    rules = _rules(cls)
    found: dict[str, tuple[object, Origin]] = {}
    if file is not None:
        found.update(_read_file(file, {key for key, (rule, _) in rules.items() if rule.in_file}))
    for key in rules:
        name = prefix + key.upper()
        if environ is not None and prefix and name in environ:
            found[key] = environ[name], Origin("environment", name)
    for key, value in (flags or {}).items():
        if value is not None:
            found[key] = value, Origin("flag", rules[key][0].flag or "--" + key.replace("_", "-"))
    values = {key: _convert(key, *rules[key], value, origin) for key, (value, origin) in found.items()}
    missing = [key for key in _required(cls) if key not in values]
    if missing:
        raise InvalidArgument(REASON, f"{missing[0]} is not set", hint=rules[missing[0]][0].help, key=missing[0])
    config = cls(**values)
    origins = {key: found[key][1] if key in found else Origin("default") for key in rules}
    conflicts: Callable[[], Iterable[tuple[str, str]]] = getattr(config, "conflicts", lambda: ())
    for key, expected in conflicts():
        _refuse(key, getattr(config, key), expected, origins[key])
    return Loaded(config, origins)


def parse_bytes(text: str) -> int:
    """Bytes in `text`, e.g. `65536`, `64 MiB`. Raises ValueError, whose text is what was expected."""
    number = _quantity(text, _BYTE_UNITS)
    if number is None or number != int(number):
        raise ValueError("a number of bytes, e.g. 65536, 64 KiB, 1 GiB")
    return int(number)


def parse_seconds(text: str) -> float:
    """Seconds in `text`, e.g. `90`, `500ms`, `5 min`, `1h`, `7d`. Raises ValueError, whose text is what was expected."""
    number = _quantity(text, _SECOND_UNITS)
    if number is None:
        raise ValueError("a time, e.g. 90, 500ms, 5min, 1h, 7d")
    return number


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of `HOST:PORT` or `[IPV6]:PORT`. Raises ValueError, whose text is what was expected."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("HOST:PORT, an IPv6 address in brackets: [::1]:7443")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError("HOST:PORT, e.g. 127.0.0.1:7443")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether `host` can only be this machine; a name other than `localhost` may be any."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address(value: str) -> str:
    """A `check` for `HOST:PORT`; empty text is let through."""
    if value:
        try:
            parse_address(value)
        except ValueError as error:
            return str(error)
    return ""


def loopback_address(value: str) -> str:
    """A `check` for an address of this machine only; empty text is let through."""
    if wrong := address(value):
        return wrong
    if value and not is_loopback(parse_address(value)[0]):
        return "an address of this machine (127.0.0.1:PORT, [::1]:PORT), as this listener is not encrypted"
    return ""


def valid_name(value: str) -> str:
    """A `check` for names of nodes; empty text is let through."""
    if value:
        try:
            check_name(value, "name")
        except InvalidArgument as error:
            return error.problem.hint.removeprefix("expected ")
    return ""


def given(check: Check) -> Check:
    """`check`, but empty text is refused as well."""
    return lambda value: check(value) or ("" if value else "a value")


def socket_path_problem(path: Path) -> str:
    """What is expected instead of `path` where it is too long for a Unix socket, else empty."""
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return ""
    return f"a path of at most {MAX_SOCKET_PATH_BYTES} bytes instead of {path}"


def _quantity(text: str, units: Mapping[str, float]) -> float | None:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        return None
    return float(match[1].replace("_", "")) * units[match[2]]


def _rules(cls: type[Any]) -> dict[str, tuple[Rule, type]]:
    types = typing.get_type_hints(cls)
    return {field.name: (field.metadata["rule"], types[field.name]) for field in dataclasses.fields(cls)}


def _required(cls: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]


def _read_file(file: Path, keys: set[str]) -> dict[str, tuple[object, Origin]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _file_error(file, line, "", "bytes that are not UTF-8", "a TOML file in UTF-8") from error
    except OSError as error:
        raise _file_error(file, 0, "", error.strerror or str(error), "a file that can be read") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(file, text, str(error)) from error
    found: dict[str, tuple[object, Origin]] = {}
    for key, value in table.items():
        line = _line_of(text, key)
        if key not in keys:
            raise _file_error(file, line, key, f"unknown key {key!r}", _closest(key, keys))
        found[key] = value, Origin("file", str(file), line)
    return found


def _line_of(text: str, key: str) -> int:
    """Line on which `key` (or the table of that name) begins."""
    name = f"""["']?{re.escape(key)}["']?"""
    match = re.search(rf"^[ \t]*(?:{name}[ \t]*[=.]|\[+[ \t]*{name}[ \t]*[\].])", text, re.MULTILINE)
    return 1 if match is None else text.count("\n", 0, match.start()) + 1


def _syntax_error(file: Path, text: str, message: str) -> InvalidArgument:
    match = _TOML_LINE.search(message)
    line = int(match[1]) if match and match[1] else max(1, text.count("\n") + (not text.endswith("\n")))
    what = _TOML_LINE.sub("", message)
    return _file_error(file, line, "", f"not TOML: {what[:1].lower()}{what[1:]}", "key = value")


def _file_error(file: Path, line: int, key: str, found: str, expected: str) -> InvalidArgument:
    place = f"{file}:{line}" if line else str(file)
    return InvalidArgument(
        REASON,
        f"{place}: {found}",
        hint=f"expected {expected}" if not expected.startswith("did you mean") else expected,
        file=file,
        line=line,
        key=key,
        found=found,
        expected=expected,
    )


def _closest(key: str, keys: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(keys), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "one of " + ", ".join(sorted(keys))


def _convert(key: str, rule: Rule, kind: type, value: object, origin: Origin) -> object:
    """`value` as `kind`, within the rule."""
    expected = _TYPE_NAMES[kind]
    if isinstance(value, str) and kind is not str:
        try:
            value = _from_text(key, kind, value)
        except ValueError as error:
            _refuse(key, value, str(error) or expected, origin)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        _refuse(key, value, expected, origin)
    if isinstance(value, int | float) and not rule.low <= value <= rule.high:
        _refuse(key, value, _range(rule), origin)
    if rule.choices and value not in rule.choices:
        _refuse(key, value, "one of " + ", ".join(rule.choices), origin)
    if rule.check is not None and (wrong := rule.check(value)):
        _refuse(key, value, wrong, origin)
    return value


def _from_text(key: str, kind: type, text: str) -> object:
    if kind is Path:
        return Path(text)
    if key.endswith("_bytes"):
        return parse_bytes(text)
    if key.endswith("_seconds"):
        seconds = parse_seconds(text)
        return int(seconds) if kind is int and seconds.is_integer() else seconds
    if kind is bool:
        if text.lower() not in _TRUTH:
            raise ValueError
        return _TRUTH[text.lower()]
    try:
        return kind(text)
    except ValueError:
        raise ValueError from None


def _range(rule: Rule) -> str:
    if rule.high == math.inf:
        return f"at least {rule.low:,.15g}"
    return f"{rule.low:,.15g} to {rule.high:,.15g}"


def _refuse(key: str, value: object, expected: str, origin: Origin) -> NoReturn:
    shown = str(value) if isinstance(value, Path) else repr(value)
    raise InvalidArgument(
        REASON,
        f"{origin}: {key} is {shown}" if origin.kind != "default" else f"{key} is {shown}",
        hint=f"expected {expected}",
        file=origin.place if origin.kind == "file" else "",
        line=origin.line,
        key=key,
        found=shown,
        expected=expected,
    )
