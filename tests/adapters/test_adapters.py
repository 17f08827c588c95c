"""The adapters of examples/adapters, each against a node in memory; run by scripts/adapters, which installs what they need."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgenode.sdk import Agent, TaskState

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "adapters"
HINT = "is not installed here: scripts/adapters runs these tests"


def load(name: str, needs: str) -> ModuleType:
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{needs} {HINT}")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_langgraph() -> None:
    module = load("langgraph_agent", "langgraph")
    asked: list[str] = []
    library = Agent("library")

    @library.skill("facts.find")
    async def find(topic: str, part: str) -> str:
        """Knows things."""
        asked.append(part)
        return f"{part} of {topic} leak"

    async with module.agent.test() as bench:
        await bench.node.run(library)
        handle = await bench.client.submit("report.write", {"topic": "plant"})
        assert await handle.result(30) == "plant: pumps of plant leak; valves of plant leak"
        assert sorted(asked) == ["pumps", "valves"]
        parts = await bench.client.list_tasks(skill="facts.find")
        assert [TaskState(task.state) for task in parts] == [TaskState.COMPLETED] * 2
        assert {task.spec.parent_task_id for task in parts} == {handle.task_id}


async def test_openai_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("openai_agents_agent", "agents")
    import agents
    from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

    class Scripted(agents.Model):
        """Calls the weather tool, then says what it heard."""

        async def get_response(self, *, input: Any, tools: Any, **_: Any) -> Any:
            outputs = [item for item in input if isinstance(item, dict) and item.get("type") == "function_call_output"]
            if not outputs:
                assert [tool.name for tool in tools] == ["weather_now"]
                call = ResponseFunctionToolCall(
                    arguments='{"city": "Oslo"}', call_id="call-1", name="weather_now", type="function_call"
                )
                return agents.ModelResponse([call], agents.Usage(), None)
            text = ResponseOutputText(annotations=[], text=f"It is {outputs[-1]['output']}", type="output_text")
            message = ResponseOutputMessage(
                id="m", content=[text], role="assistant", status="completed", type="message"
            )
            return agents.ModelResponse([message], agents.Usage(), None)

        def stream_response(self, *_: Any, **__: Any) -> Any:
            raise NotImplementedError

    weather = Agent("weather")

    @weather.skill("weather.now")
    async def now(city: str) -> str:
        """The weather of a city."""
        return f"cold in {city}"

    agents.set_tracing_disabled(True)
    monkeypatch.setattr(module, "model", Scripted())
    async with module.agent.test() as bench:
        monkeypatch.setenv("EDGENODE_SOCKET", str(bench.node.socket))
        await bench.node.run(weather)
        handle = await bench.client.submit("assistant.ask", {"question": "How is Oslo?"})
        assert await handle.result(30) == 'It is "cold in Oslo"'
        (part,) = await bench.client.list_tasks(skill="weather.now")
        assert part.spec.parent_task_id == handle.task_id
        assert part.spec.idempotency_key.startswith(f"{handle.task_id}/weather.now/")


async def test_autogen() -> None:
    python = os.environ.get("EDGENODE_AUTOGEN_PYTHON")
    if python is None:
        pytest.skip(f"AutoGen {HINT}")
    model = {
        "provider": "autogen_ext.models.replay.ReplayChatCompletionClient",
        "config": {
            "chat_completions": [
                {
                    "finish_reason": "function_calls",
                    "content": [{"id": "call-1", "name": "weather__now", "arguments": '{"city": "Oslo"}'}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
                    "cached": False,
                },
                "It is cold.",
            ],
            "model_info": {
                "vision": False,
                "function_calling": True,
                "json_output": False,
                "structured_output": False,
                "family": "unknown",
            },
        },
    }
    weather = Agent("weather")
    asked: list[str] = []

    @weather.skill("weather.now")
    async def now(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return f"cold in {city}"

    edgenode = os.path.join(sysconfig.get_path("scripts"), "edgenode")
    async with weather.test() as bench:
        settings = {
            "AUTOGEN_MODEL": json.dumps(model),
            "EDGENODE_COMMAND": edgenode,
            "EDGENODE_STATE": str(bench.node.socket.parent),
            "EDGENODE_TOOLS": "weather__now",
        }
        where = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
        mounting = await asyncio.create_subprocess_exec(
            *(edgenode, "mcp", "add", "assistant", "--state", settings["EDGENODE_STATE"], *where),
            *("--", python, str(EXAMPLES / "autogen_server.py")),
        )
        assert await mounting.wait() == 0
        handle = await bench.client.submit("assistant.ask", {"question": "How is Oslo?"})
        assert await handle.result(60) == {"result": "It is cold."}
        assert asked == ["Oslo"]
