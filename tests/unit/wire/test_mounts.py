"""What may be mounted, and what of a mount is told."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.link.wire.mounts import check_mount, without_secrets

STDIO = admin_pb2.McpStdioServer(arguments=["npx", "-y", "x"], environment={"KEY": "secret"})


def http(url: str, **fields: str) -> admin_pb2.Mount:
    return admin_pb2.Mount(name="m", mcp_http=admin_pb2.McpHttpServer(url=url, **fields))


def stdio(**fields: object) -> admin_pb2.Mount:
    server = admin_pb2.McpStdioServer(arguments=["x"])
    server.MergeFrom(admin_pb2.McpStdioServer(**fields))  # type: ignore[arg-type]
    return admin_pb2.Mount(name="m", mcp_stdio=server)


@pytest.mark.parametrize(
    "mount",
    [admin_pb2.Mount(name="m", mcp_stdio=STDIO), http("https://host:8443/mcp"), http("http://[::1]:80/mcp?x=1")],
)
def test_good_mounts_pass(mount: admin_pb2.Mount) -> None:
    check_mount(mount)


@pytest.mark.parametrize(
    ("mount", "reason", "field"),
    [
        (admin_pb2.Mount(name="M", mcp_stdio=STDIO), "BAD_NAME", "mount.name"),
        (admin_pb2.Mount(name="m"), "NO_SERVER", "mount.server"),
        (admin_pb2.Mount(name="m", mcp_stdio=admin_pb2.McpStdioServer()), "NO_PROGRAM", "mount.mcp_stdio.arguments"),
        (stdio(arguments=["y" * 70_000]), "TOO_LARGE", "mount.mcp_stdio.arguments"),
        (stdio(arguments=["a\0b"]), "BAD_TEXT", "mount.mcp_stdio"),
        (stdio(environment={"A B": "x"}), "BAD_VARIABLE", "mount.mcp_stdio.environment"),
        (stdio(working_directory="here"), "BAD_PATH", "mount.mcp_stdio.working_directory"),
        (http("ftp://host/x"), "BAD_URL", "mount.mcp_http.url"),
        (http("http://"), "BAD_URL", "mount.mcp_http.url"),
        (http("http://host:port/"), "BAD_URL", "mount.mcp_http.url"),
        (http("https://me:pass@host/mcp"), "SECRET_IN_URL", "mount.mcp_http.url"),
        (http("https://host/mcp", headers_file="here"), "BAD_PATH", "mount.mcp_http.headers_file"),
        (
            admin_pb2.Mount(name="m", mcp_stdio=STDIO, policy=admin_pb2.MountPolicy(concurrency_count=-1)),
            "OUT_OF_RANGE",
            "mount.policy.concurrency_count",
        ),
        (
            admin_pb2.Mount(
                name="m", mcp_stdio=STDIO, policy=admin_pb2.MountPolicy(start_timeout_duration=Duration(seconds=601))
            ),
            "OUT_OF_RANGE",
            "mount.policy.start_timeout_duration",
        ),
    ],
)
def test_bad_mounts_are_refused_with_the_field(mount: admin_pb2.Mount, reason: str, field: str) -> None:
    with pytest.raises(EdgenodeError) as caught:
        check_mount(mount)
    assert (caught.value.reason, caught.value.problem.metadata.get("field")) == (reason, field)


def test_lists_show_no_values_of_variables() -> None:
    mount = admin_pb2.Mount(name="m", mcp_stdio=STDIO)
    assert dict(without_secrets(mount).mcp_stdio.environment) == {"KEY": ""}
    assert mount.mcp_stdio.environment["KEY"] == "secret"
