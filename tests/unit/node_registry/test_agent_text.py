import pytest

from edgenode.link.errors import InvalidArgument
from edgenode.node.agent_text import AgentText
from tests.unit.node_registry.house import House, house, request


async def describe(h: House, name: str, description: str, skill: str = "a", tags: tuple[str, ...] = ()) -> None:
    held = h.registry.get(name)
    message = request(name, incarnation=held.incarnation + 1 if held else 1, skills=(skill,))
    message.card.description = description
    message.card.skills[0].tags.extend(tags)
    await h.registry.register(message)


def names(scores: dict[str, float]) -> list[str]:
    return [name.rpartition("/")[2] for name in sorted(scores, key=lambda name: -scores[name])]


async def test_words_match_by_stem_and_beginning_and_the_title_counts_more() -> None:
    async with house() as h:
        text = AgentText(h.database, h.registry)
        await describe(h, "camera", "Takes pictures")
        await describe(h, "lint", "Reads source files, never a camera")
        await describe(h, "other", "Does something else")
        scores = await text.scores("cameras")
        assert names(scores) == ["camera", "lint"]
        assert scores["nodes/north/agents/camera"] == 1.0
        assert 0 < scores["nodes/north/agents/lint"] < 1
        assert names(await text.scores("pict")) == ["camera"]
        assert names(await text.scores("nothing-like-it")) == []


async def test_the_index_follows_changes_and_survives_a_new_connection() -> None:
    async with house() as h:
        text = AgentText(h.database, h.registry)
        await describe(h, "one", "apples")
        assert names(await text.scores("apple")) == ["one"]
        await describe(h, "two", "apples", tags=("apple",))
        await describe(h, "one", "pears")
        assert names(await text.scores("apple")) == ["two"]
        await h.registry.deregister("two")
        assert names(await text.scores("apple pear")) == ["one"]
        await h.database.read(lambda connection: connection.execute("DROP TABLE temp.agent_text").fetchall())
        assert names(await text.scores("pear")) == ["one"]


@pytest.mark.parametrize("query", ["!!!", '"', "* - ()"])
async def test_a_text_without_words_is_refused(query: str) -> None:
    async with house() as h:
        with pytest.raises(InvalidArgument) as refused:
            await AgentText(h.database, h.registry).scores(query)
        assert refused.value.reason == "BAD_QUERY"


@pytest.mark.parametrize("query", ['a" OR "b', "name:x", "NEAR(a b)", "a* AND", "x; DROP TABLE agent", "AND OR NOT"])
async def test_search_syntax_is_only_words(query: str) -> None:
    async with house() as h:
        await describe(h, "one", "apples")
        assert await AgentText(h.database, h.registry).scores(query) is not None
