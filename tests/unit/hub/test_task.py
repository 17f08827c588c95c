from __future__ import annotations

from edgenode.api.task.v1 import task_pb2
from edgenode.link.protocol.scheduler import Demand
from hub.services.task import _Changes
from hub.store.records import TaskRecord


async def test_a_watcher_that_is_slow_misses_progress_and_no_change() -> None:
    changes = _Changes()
    task = TaskRecord("t", "south", Demand("code.metrics"), 5, submit_time=1.0)
    notices = [task_pb2.Task(progress=task_pb2.TaskProgress(message=str(number))) for number in range(3)]
    changes.put(task, notices[0])
    changes.put(task, notices[1])
    changes.put(task, None)
    changes.put(task, notices[2])
    assert [(await changes.take())[1] for _ in range(3)] == [notices[1], None, notices[2]]
