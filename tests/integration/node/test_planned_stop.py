"""A planned stop is no failure of anybody: what was running goes on after the start, with all its attempts."""

from typing import Any

from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.api.task.v1.task_service_pb2_grpc import TaskServiceStub
from tests.integration.node.house import House, Stream, house, short_directory, stream


def stub(h: House) -> Any:
    return TaskServiceStub(h.channel)


async def attach(worker: Stream) -> None:
    attach = task_service_pb2.WorkAttach(agent="device", instance_id="i1")
    await worker.send(task_service_pb2.WorkTasksRequest(attach=attach, credit_count=1))


async def assignment(worker: Stream) -> Any:
    frames = await worker.read_until(lambda frame: bool(frame.assignments))
    return frames[-1].assignments[0]


async def test_a_running_task_keeps_its_only_attempt_over_a_planned_stop() -> None:
    with short_directory() as directory:
        async with house(directory, drain_seconds=0.05) as h:
            await h.register()
            spec = task_pb2.TaskSpec(skill="code.metrics", retry_policy=task_pb2.RetryPolicy(max_attempt_count=1))
            submitted = await stub(h).SubmitTask(task_service_pb2.SubmitTaskRequest(spec=spec), timeout=10)
            async with stream(stub(h).WorkTasks) as worker:
                await attach(worker)
                first = await assignment(worker)
                assert first.key.task_id == submitted.task.task_id
                await h.node.stop()
        async with house(directory) as h, stream(stub(h).WorkTasks) as worker:
            task = await stub(h).GetTask(task_service_pb2.GetTaskRequest(task_id=submitted.task.task_id), timeout=10)
            assert task.task.state < task_pb2.TASK_STATE_COMPLETED
            await attach(worker)
            again = await assignment(worker)
            assert again.key.task_id == submitted.task.task_id
            result = task_service_pb2.AttemptResult(key=again.key, state=task_pb2.TASK_STATE_COMPLETED)
            await worker.send(task_service_pb2.WorkTasksRequest(results=[result]))
            await worker.read_until(lambda frame: bool(frame.confirmations))
