"""The stubs, their generator and the declared dependencies agree."""

from __future__ import annotations

import re
import tomllib

from tests.architecture.source import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirement(requirements: list[str], name: str) -> str:
    (found,) = [text for text in requirements if re.match(rf"{re.escape(name)}(?![\w-])", text)]
    return found.removeprefix(name)


def floor(requirements: list[str], name: str) -> str:
    match = re.search(r"(?:>=|==)([\d.]+)", requirement(requirements, name))
    assert match is not None
    return match[1]


def test_the_generator_is_pinned_to_the_lowest_grpcio_supported() -> None:
    dependencies = PROJECT["project"]["dependencies"]
    lowest = floor(dependencies, "grpcio")
    assert requirement(PROJECT["dependency-groups"]["dev"], "grpcio-tools") == f"=={lowest}"
    for name in ("grpcio-health-checking", "grpcio-status"):
        assert floor(dependencies, name) == lowest
    versions = {
        match[1]
        for path in (ROOT / "edgenode/api").rglob("*_pb2_grpc.py")
        for match in re.finditer(r"GRPC_GENERATED_VERSION = '([\d.]+)'", path.read_text())
    }
    assert versions == {lowest}


def test_the_stubs_run_on_the_lowest_protobuf_supported() -> None:
    lowest = tuple(map(int, floor(PROJECT["project"]["dependencies"], "protobuf").split(".")))
    made_with = {
        tuple(map(int, match[1].split(".")))
        for path in (ROOT / "edgenode/api").rglob("*_pb2.py")
        for match in re.finditer(r"Protobuf Python Version: ([\d.]+)", path.read_text())
    }
    assert made_with
    assert max(made_with) <= lowest


def test_every_message_has_its_stub() -> None:
    protos = {path.relative_to(ROOT / "proto").with_suffix("") for path in (ROOT / "proto").rglob("*.proto")}
    stubs = {
        path.relative_to(ROOT).with_name(path.name.removesuffix("_pb2.py"))
        for path in (ROOT / "edgenode/api").rglob("*_pb2.py")
    }
    assert protos == stubs
