"""Results of an agent on their way to the node."""

from __future__ import annotations

from edgenode.api.task.v1 import task_service_pb2 as pb
from edgenode.link.protocol.overtaking import Overtaking

MAX_FRAME_BYTES = 256 * 1024
MAX_FRAME_COUNT = 256  # the node stores what is in a frame together
_OVERHEAD = 64  # bytes a result takes beside its output, roughly


class Results:
    """Frames that were not sent on this stream. Prompt results have frames of their own, which overtake the others."""

    def __init__(self) -> None:
        self._frames: Overtaking[pb.WorkTasksRequest] = Overtaking()
        self._sizes = {True: 0, False: 0}  # of the forming frames, by whether they are prompt

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, size: int, *, prompt: bool) -> pb.AttemptResult:
        """An empty result in the frame that is forming; its output will have `size` bytes."""
        frames = self._frames.prompt if prompt else self._frames.others
        if not frames or self._sizes[prompt] + size > MAX_FRAME_BYTES or len(frames[-1].results) >= MAX_FRAME_COUNT:
            frames.append(pb.WorkTasksRequest())
            self._sizes[prompt] = 0
        self._sizes[prompt] += size + _OVERHEAD
        return frames[-1].results.add()

    def next_frame(self) -> pb.WorkTasksRequest:
        """The next frame, an empty one if there is none."""
        return self._frames.pop() or pb.WorkTasksRequest()

    def clear(self) -> None:
        """The stream is gone."""
        self._frames.clear()
