"""Video files frame by frame, with their times; one frame in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vjepa_ac_planner.bags.images import MAX_PIXELS, Image
from vjepa_ac_planner.bags.library import need
from vjepa_ac_planner.errors import BagError


def video_frames(path: Path, start: float = 0.0) -> Iterator[tuple[float, Image]]:
    """Frames from a time on, as they are shown.

    Args:
        path: any video that FFmpeg reads; decoded with PyAV, whose wheels bring AV1 and H.264 along and
            which knows every frame's own time, so that nothing depends on the file's nominal rate.
        start: time of the first frame that is wanted [s]; the file is entered at the keyframe before it.

    Yields:
        Time in the file [s] and [H, W, 3] uint8 RGB.

    Raises:
        BagError: the file cannot be read or decoded.
        MissingDependencyError: the ``convert`` extra is not installed.
    """
    av = need("av")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BagError(f"{path}: has no video stream")
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise BagError(
                    f"{path}: {stream.width}x{stream.height} pixels, allowed {MAX_PIXELS} in all"
                )
            if start > 0:
                container.seek(int(start / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                # Half a microsecond is more than any rounding of time bases, and less than any frame.
                if frame.time is not None and frame.time >= start - 5e-7:
                    yield float(frame.time), np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    except (OSError, ValueError, av.FFmpegError) as error:
        raise BagError(f"{path}: cannot be decoded ({error})") from error
