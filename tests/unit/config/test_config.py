from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from edgenode.link import config
from edgenode.link.config import load, setting
from edgenode.link.errors import InvalidArgument
from edgenode.node.config import NodeConfig, load_node_config, name_from_host
from hub.config import HubConfig, load_hub_config


@dataclass(frozen=True)
class Sample:
    path: Path = setting("where", default=Path("/x"))
    word: str = setting("a word", default="a", choices=("a", "b"))
    count: int = setting("how many", default=1, low=0, high=10)
    room_bytes: int = setting("room", default=1024, low=1)
    wait_seconds: float = setting("wait", default=1.5, low=0)
    keep_seconds: int = setting("keep", default=60, low=0)
    on: bool = setting("switch", default=False)


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "sample.toml"
    file.write_text(text)
    return file


def refused(tmp_path: Path, text: str) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        load(Sample, file=write(tmp_path, text))
    assert caught.value.reason == "BAD_CONFIG"
    return caught.value


def test_precedence_is_flags_environment_file_default(tmp_path: Path) -> None:
    file = write(tmp_path, "# head\ncount = 2\nword = 'b'\non = true\n")
    loaded = load(
        Sample, file=file, prefix="S_", environ={"S_COUNT": "3", "S_ON": "no"}, flags={"count": 4, "word": None}
    )
    assert loaded.config == Sample(count=4, word="b", on=False)
    origins = {key: str(loaded.origin(key)) for key in ("count", "on", "word", "path")}
    assert origins == {"count": "flag --count", "on": "environment S_ON", "word": f"{file}:3", "path": "default"}
    assert [row[0] for row in loaded.rows()][:2] == ["path", "word"]


def test_origin_of_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no key 'cuont'") as caught:
        load(Sample).origin("cuont")
    assert caught.value.problem.hint == "did you mean count?"


def test_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert load(Sample, file=tmp_path / "none.toml").config == Sample()


def test_units(tmp_path: Path) -> None:
    file = write(tmp_path, 'room_bytes = "64 MiB"\nwait_seconds = "500ms"\nkeep_seconds = "7 d"\npath = "/y"\n')
    assert load(Sample, file=file).config == Sample(
        room_bytes=64 << 20, wait_seconds=0.5, keep_seconds=604_800, path=Path("/y")
    )


@pytest.mark.parametrize(
    ("text", "line", "key", "found", "expected"),
    [
        ("count = 1\ncuont = 2\n", 2, "cuont", "unknown key 'cuont'", "did you mean count?"),
        ("\nzzz = 2\n", 2, "zzz", "unknown key 'zzz'", "one of count, keep_seconds"),
        ("[zzz]\na = 1\n", 1, "zzz", "unknown key 'zzz'", "one of count"),
        ("zzz.a = 1\n", 1, "zzz", "unknown key 'zzz'", "one of count"),
        ("count = 'many'\n", 1, "count", "'many'", "a whole number"),
        ("count = 1.5\n", 1, "count", "1.5", "a whole number"),
        ("count = true\n", 1, "count", "True", "a whole number"),
        ("on = 1\n", 1, "on", "1", "true or false"),
        ("on = 'perhaps'\n", 1, "on", "'perhaps'", "true or false"),
        ("word = 1\n", 1, "word", "1", "text"),
        ("word = 'c'\n", 1, "word", "'c'", "one of a, b"),
        ("# x\n\n  count   = 11\n", 3, "count", "11", "0 to 10"),
        ("room_bytes = 0\n", 1, "room_bytes", "0", "at least 1"),
        ("room_bytes = '1 GB'\n", 1, "room_bytes", "'1 GB'", "a number of bytes"),
        ("wait_seconds = 'soon'\n", 1, "wait_seconds", "'soon'", "a time, e.g. 90"),
        ("wait_seconds = nan\n", 1, "wait_seconds", "nan", "at least 0"),
        ("keep_seconds = '1.5s'\n", 1, "keep_seconds", "1.5", "a whole number"),
        ("count = [1]\n", 1, "count", "[1]", "a whole number"),
        ("count = 1\ncount = = 2\n", 2, "", "not TOML", "key = value"),
        ("count = 1\nword = 'a", 2, "", "not TOML", "key = value"),
        ("count = 1\ncount = 2\n", 2, "", "not TOML: cannot overwrite", "key = value"),
    ],
)
def test_mistakes_name_file_line_key_found_and_expected(
    tmp_path: Path, text: str, line: int, key: str, found: str, expected: str
) -> None:
    problem = refused(tmp_path, text).problem
    assert problem.metadata["file"] == str(tmp_path / "sample.toml")
    assert problem.metadata["line"] == str(line)
    assert problem.metadata["key"] == key
    assert problem.metadata["found"].startswith(found)
    assert problem.metadata["expected"].startswith(expected)
    assert f"sample.toml:{line}:" in problem.message
    assert expected in problem.hint


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    file = tmp_path / "sample.toml"
    file.write_bytes(b"count = 1\nword = '\xff'\n")
    with pytest.raises(InvalidArgument, match=r"sample\.toml:2: bytes that are not UTF-8"):
        load(Sample, file=file)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="Is a directory"):
        load(Sample, file=tmp_path)


def test_a_required_key(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Needs:
        path: Path = setting("the place", in_file=False)

    with pytest.raises(InvalidArgument, match="path is not set"):
        load(Needs)
    with pytest.raises(InvalidArgument, match="unknown key 'path'"):
        load(Needs, file=write(tmp_path, "path = '/x'\n"))


def test_environment_and_flag_mistakes_name_their_source() -> None:
    with pytest.raises(InvalidArgument, match="environment S_COUNT: count is 'x'"):
        load(Sample, prefix="S_", environ={"S_COUNT": "x", "S_OTHER": "ignored"})
    with pytest.raises(InvalidArgument, match="flag --count: count is 11"):
        load(Sample, flags={"count": 11})


@pytest.mark.parametrize("text", ["1.2.3.4", ":1", "a:b", "a:70000", "::1:80", "a:", "a:-1", "a:²"])
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        config.parse_address(text)


def test_addresses() -> None:
    assert config.parse_address("127.0.0.1:0") == ("127.0.0.1", 0)
    assert config.parse_address("[::1]:7443") == ("::1", 7443)
    assert [config.is_loopback(host) for host in ("localhost", "127.9.9.9", "::1", "10.0.0.1", "host")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_node_defaults_and_file(tmp_path: Path) -> None:
    (tmp_path / "edgenode.toml").write_text("node = 'north'\nlisten = '127.0.0.1:7400'\n")
    loaded = load_node_config(tmp_path, environ={"EDGENODE_LEASE_SECONDS": "3s", "EDGENODE_STATE": "/elsewhere"})
    assert loaded.config == NodeConfig(state_dir=tmp_path, node="north", listen="127.0.0.1:7400", lease_seconds=3.0)
    assert loaded.config.socket_path == tmp_path / "edgenode.sock"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("listen = '0.0.0.0:80'", "listen"),
        ("listen = 'localhost'", "listen"),
        ("node = 'North'", "node"),
        ("hub = 'hub'", "hub"),
        ("state_dir = '/x'", "state_dir"),
        ("reconnect_min_seconds = 400", "reconnect_min_seconds"),
        ("message_retention_bytes = '2GiB'", "message_retention_bytes"),
        (f"socket = '/{'s' * 107}'", "socket"),
        ("log_level = 'loud'", "log_level"),
    ],
)
def test_node_refusals(tmp_path: Path, text: str, key: str) -> None:
    (tmp_path / "edgenode.toml").write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        load_node_config(tmp_path, environ={})
    assert caught.value.problem.metadata["key"] == key
    assert caught.value.problem.metadata["line"] == "1"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("listen = ''", "listen"),
        ("heartbeat_seconds = 20", "heartbeat_seconds"),
        ("enroll_listen = '127.0.0.1:7443'", "enroll_listen"),
        ("leaf_ttl_seconds = '1s'", "leaf_ttl_seconds"),
        ("message_retention_bytes = '20GiB'", "message_retention_bytes"),
        (f"socket = '/{'s' * 107}'", "socket"),
    ],
)
def test_hub_refusals(tmp_path: Path, text: str, key: str) -> None:
    (tmp_path / "edgehub.toml").write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        load_hub_config(tmp_path, environ={})
    assert caught.value.problem.metadata["key"] == key


def test_hub_ports_may_be_chosen_by_the_machine(tmp_path: Path) -> None:
    flags = {"listen": "127.0.0.1:0", "enroll_listen": "127.0.0.1:0"}
    loaded = load_hub_config(tmp_path, environ={}, flags=flags)
    assert loaded.config == HubConfig(tmp_path, listen="127.0.0.1:0", enroll_listen="127.0.0.1:0")
    assert loaded.config.socket_path == tmp_path / "edgehub.sock"


@pytest.mark.parametrize(
    ("host", "name"),
    [("North.example.org", "north"), ("my_host-1", "my-host-1"), ("---", "edge"), ("", "edge"), ("x" * 80, "x" * 63)],
)
def test_names_from_hosts(host: str, name: str) -> None:
    assert name_from_host(host) == name
