"""Lists in pages: how long one is, and where the next begins."""

from __future__ import annotations

import base64

from edgenode.link.errors import InvalidArgument
from edgenode.link.wire import checks

MAX_PAGE = 1000
DEFAULT_PAGE = 100


def page_size(asked: int) -> int:
    """The size of a page. Raises InvalidArgument (OUT_OF_RANGE)."""
    checks.in_range(asked, 0, MAX_PAGE, "page_size")
    return asked or DEFAULT_PAGE


def make_token(last: str) -> str:
    """A page token: where the page ended."""
    return base64.urlsafe_b64encode(last.encode()).decode()


def read_token(token: str) -> str:
    """What `make_token` was given, empty for an empty token. Raises InvalidArgument (BAD_PAGE_TOKEN)."""
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except ValueError:
        raise InvalidArgument(
            "BAD_PAGE_TOKEN",
            "the page token cannot be read",
            hint="use the one of the previous page",
            field="page_token",
        ) from None
