"""Results of an agent on their way to the node."""

from __future__ import annotations

from edgenode.api.task.v1 import task_service_pb2 as pb
from edgenode.link.protocol.overtaking import Overtaking

MAX_FRAME_BYTES = 256 * 1024
MAX_FRAME_COUNT = 256  # the node stores what is in a frame together
_OVERHEAD = 64  # bytes a result takes beside its output, roughly


class _Frame:
    """A frame that is forming."""

    __slots__ = ("add", "count", "request", "size")

    def __init__(self) -> None:
        self.request = pb.WorkTasksRequest()
        self.add = self.request.results.add
        self.count = 0
        self.size = 0


class Results:
    """Frames that were not sent on this stream. Prompt results have frames of their own, which overtake the others."""

    def __init__(self) -> None:
        self._frames: Overtaking[_Frame] = Overtaking()

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, size: int, *, prompt: bool) -> pb.AttemptResult:
        """An empty result in the frame that is forming; its output will have `size` bytes."""
        frames = self._frames.prompt if prompt else self._frames.others
        frame = frames[-1] if frames else None
        if frame is None or frame.size + size > MAX_FRAME_BYTES or frame.count >= MAX_FRAME_COUNT:
            frame = _Frame()
            frames.append(frame)
        frame.count += 1
        frame.size += size + _OVERHEAD
        return frame.add()

    def next_frame(self) -> pb.WorkTasksRequest:
        """The next frame, an empty one if there is none."""
        frame = self._frames.pop()
        return pb.WorkTasksRequest() if frame is None else frame.request

    def clear(self) -> None:
        """The stream is gone."""
        self._frames.clear()
