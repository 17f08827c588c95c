"""When pages that are free are given back, and how many at once."""

from __future__ import annotations

import asyncio

import pytest

from edgenode.link.store import free_pages
from edgenode.link.store.free_pages import FREE_PAGES, FreePages


async def looked(pages: FreePages, count: int) -> bool:
    """Whether any are to be given back after a commit that left so many."""
    pages.look(count)
    pages.looked()
    return pages.due


async def test_those_left_by_an_earlier_run_go_at_once() -> None:
    pages = FreePages(lambda: None)
    assert await looked(pages, 100 * FREE_PAGES)


async def test_what_becomes_free_fast_rests_until_it_has_been_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_pages, "CALM_SECONDS", 3600.0)
    calm = asyncio.Event()
    pages = FreePages(calm.set)
    assert not await looked(pages, 0)
    assert not await looked(pages, FREE_PAGES), "few enough to keep"
    for more in range(2, 6):
        assert not await looked(pages, more * FREE_PAGES)
    monkeypatch.setattr(free_pages, "CALM_SECONDS", 0.0)
    assert not await looked(pages, 7 * FREE_PAGES)
    await calm.wait()
    assert pages.due
    assert await looked(pages, 7 * FREE_PAGES + 10), "a few more are no reason to wait again"
    assert await looked(pages, 6 * FREE_PAGES), "nor are those that were taken and come back"
    assert await looked(pages, 7 * FREE_PAGES)
    pages.stop()


async def test_all_but_a_few_go() -> None:
    pages = FreePages(lambda: None)
    assert await looked(pages, 2 * FREE_PAGES)
    pages.look(FREE_PAGES // 2, given_back=True)
    assert pages.due
    pages.look(FREE_PAGES // 4, given_back=True)
    assert not pages.due
    assert not await looked(pages, FREE_PAGES)


async def test_a_step_is_smaller_the_longer_the_list() -> None:
    pages = FreePages(lambda: None)
    steps = []
    for count in (0, 1000, 20_000, 60_000, 10_000_000):
        pages.look(count)
        steps.append(pages.step)
    assert steps == [64, 64, 30, 10, 4]
