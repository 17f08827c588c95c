"""An agent without the SDK: generated stubs and grpc, nothing else, as one would write it in any language.

It registers, attaches, takes tasks of the skill `upper` as far as its credits go, says how far it is, sends results, and
publishes one message for each task done. When the node goes away it tries again; results that were not confirmed go again.

    python examples/raw_stub_agent.py --socket DIR/edgenode.sock --name raw --count 3
    edgenode submit upper '"make me loud"' --wait --state DIR
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import time
import uuid
from collections.abc import Iterator

import grpc

from edgenode.api.message.v1 import message_pb2, message_service_pb2, message_service_pb2_grpc
from edgenode.api.problem.v1 import problem_pb2
from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc

SKILL = "upper"
CREDITS = 4
Key = tuple[str, int, int]


class RawAgent:
    """Everything an agent has to remember between two streams."""

    def __init__(self, channel: grpc.Channel, name: str, count: int) -> None:
        self.registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self.tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        self.messages = message_service_pb2_grpc.MessageServiceStub(channel)
        self.name = name
        self.left = count or -1
        self.instance_id = uuid.uuid4().hex
        self.incarnation = int(time.time() * 1000)
        self.unconfirmed: dict[Key, task_service_pb2.AttemptResult] = {}
        self.producer_id = uuid.uuid4().hex
        self.published = 0

    def register(self) -> None:
        """Tells the node who we are. Harmless to repeat."""
        skill = registry_pb2.Skill(
            id=SKILL, name="Upper case", description="Makes text upper case.", input_schema='{"type":"string"}'
        )
        request = registry_service_pb2.RegisterAgentRequest(
            request_id=uuid.uuid4().hex,
            card=registry_pb2.AgentCard(name=self.name, description="Raw stubs only", skills=[skill]),
            instance_id=self.instance_id,
            incarnation=self.incarnation,
            capacity_count=CREDITS,
        )
        self.registry.RegisterAgent(request, timeout=10)

    def work(self) -> None:
        """One WorkTasks stream, from attaching to its end; returns when enough tasks are done and confirmed."""
        outgoing: queue.SimpleQueue[task_service_pb2.WorkTasksRequest | None] = queue.SimpleQueue()
        attach = task_service_pb2.WorkAttach(agent=self.name, instance_id=self.instance_id)
        attach.attempts.extend(result.key for result in self.unconfirmed.values())
        outgoing.put(task_service_pb2.WorkTasksRequest(attach=attach))
        stream = self.tasks.WorkTasks(iter(outgoing.get, None))
        try:
            for frame in stream:
                if frame.HasField("attached"):
                    print(f"attached to {frame.attached.node}", flush=True)
                    again = list(self.unconfirmed.values())
                    outgoing.put(task_service_pb2.WorkTasksRequest(credit_count=CREDITS, results=again))
                for assignment in frame.assignments:
                    self.run(assignment, outgoing)
                for key in [*frame.confirmations, *frame.cancels, *(refused.key for refused in frame.result_problems)]:
                    self.confirmed(key)
                if self.left == 0 and not self.unconfirmed:
                    return
        finally:
            outgoing.put(None)  # closes our side
            stream.cancel()

    def run(
        self,
        assignment: task_service_pb2.Assignment,
        outgoing: queue.SimpleQueue[task_service_pb2.WorkTasksRequest | None],
    ) -> None:
        """Does one task and hands in its result together with the credit for another one."""
        key = assignment.key
        progress = task_pb2.TaskProgress(fraction=0.5, message="half way")
        update = task_service_pb2.AttemptUpdate(key=key, progress=progress)
        outgoing.put(task_service_pb2.WorkTasksRequest(updates=[update]))
        result = task_service_pb2.AttemptResult(key=key)
        try:
            text = json.loads(assignment.spec.input)
            result.output.data = json.dumps(text.upper()).encode()
            result.state = task_pb2.TASK_STATE_COMPLETED
        except (ValueError, AttributeError) as error:
            result.state = task_pb2.TASK_STATE_REJECTED
            result.problem.CopyFrom(
                problem_pb2.Problem(code=3, reason="BAD_INPUT", message=f"not a JSON string: {error}")
            )
        self.unconfirmed[key_of(key)] = result
        outgoing.put(task_service_pb2.WorkTasksRequest(results=[result], credit_count=1))

    def confirmed(self, key: task_service_pb2.AttemptKey) -> None:
        """The node has committed a result (or does not want it any more): the task is done."""
        if key_of(key) not in self.unconfirmed:
            return
        self.publish("raw.done", key.task_id.encode())
        del self.unconfirmed[key_of(key)]
        self.left -= self.left > 0
        print(f"done {key.task_id}", flush=True)

    def publish(self, topic: str, payload: bytes) -> None:
        """Publishes one message and waits until it is durable on the node. A stream a message is simple, not fast."""
        message = message_pb2.Message(topic=topic, payload=payload, content_type="text/plain")
        request = message_service_pb2.PublishRequest(
            producer_id=self.producer_id,
            first_sequence=self.published + 1,
            batch=message_pb2.MessageBatch(messages=[message]),
        )
        for response in self.messages.Publish(iter([request]), timeout=10):
            for rejection in response.rejections:
                print(f"message refused: {rejection.problem.reason}", flush=True)
            if response.durable_local_sequence > self.published:
                self.published += 1
                return

    def leave(self) -> None:
        """Takes our name off the node."""
        request = registry_service_pb2.DeregisterAgentRequest(
            request_id=uuid.uuid4().hex, agent=self.name, instance_id=self.instance_id
        )
        self.registry.DeregisterAgent(request, timeout=10)


def key_of(key: task_service_pb2.AttemptKey) -> Key:
    """A key that can be looked up."""
    return key.task_id, key.attempt_number, key.fence


def pauses() -> Iterator[float]:
    """Seconds between attempts to come back: full jitter, up to 2 s."""
    longest = 0.1
    while True:
        yield random.uniform(0, longest)
        longest = min(2.0, longest * 2)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="An agent made of generated stubs only.")
    parser.add_argument("--socket", required=True, help="the node's Unix socket")
    parser.add_argument("--name", default="raw", help="the agent's name")
    parser.add_argument("--count", type=int, default=0, help="end after this many tasks; 0: never")
    options = parser.parse_args()
    with grpc.insecure_channel(f"unix:{options.socket}") as channel:
        agent = RawAgent(channel, options.name, options.count)
        wait = pauses()
        while True:
            try:
                agent.register()
                agent.work()
                if agent.left == 0:
                    agent.leave()
                    return
                wait = pauses()
            except grpc.RpcError as error:
                if error.code() not in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.CANCELLED,
                    grpc.StatusCode.NOT_FOUND,
                ):
                    raise SystemExit(f"{error.code().name}: {error.details()}") from error
                print(f"node away: {error.details()}", flush=True)
            time.sleep(next(wait))


if __name__ == "__main__":
    main()
