"""Pixels of camera messages, from plain buffers, recorded or live: no ROS, no message classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.errors import InputError

CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
"""Raw encodings that are understood, and their bytes per pixel; a ``8UC3`` does not say its colours."""
MAX_PIXELS = 1 << 26
"""Largest image [pixels]: no camera is larger, and a damaged or hostile header could ask for any amount of
memory."""

_CONVERSIONS = {
    "bgr8": "COLOR_BGR2RGB",
    "rgba8": "COLOR_RGBA2RGB",
    "bgra8": "COLOR_BGRA2RGB",
    "mono8": "COLOR_GRAY2RGB",
}

Image = npt.NDArray[np.uint8]


def decode_image(encoding: str, height: int, width: int, step: int, data: Any) -> Image:
    """Pixels of a ``sensor_msgs/Image``.

    Args:
        encoding: one of :data:`CHANNELS`.
        height: rows [pixels].
        width: columns [pixels].
        step: bytes from one row to the next; more than a row needs is padding.
        data: buffer of ``height * step`` bytes.

    Returns:
        [H, W, 3] uint8 RGB, read-only. Of ``rgb8`` it is a view of ``data``, with the padding of the rows
        in its strides; of every other encoding an array of its own.

    Raises:
        InputError: another encoding, sizes that contradict each other or exceed :data:`MAX_PIXELS`, or
            data that is no buffer.
    """
    check_encoding(encoding)
    check_size(width, height)
    channels = CHANNELS[encoding]
    row = width * channels
    if step < row:
        raise InputError(f"image: a row of {width} {encoding} pixels takes {row} bytes, but step is {step}")
    flat = _bytes(data)
    if flat.size != height * step:
        raise InputError(
            f"image: {height} rows of step {step} take {height * step} bytes, but data has {flat.size}"
        )
    pixels = flat.reshape(height, step)[:, :row].reshape(height, width, channels)
    if encoding == "rgb8":
        return pixels
    import cv2

    try:
        rgb = np.asarray(cv2.cvtColor(pixels, getattr(cv2, _CONVERSIONS[encoding])), dtype=np.uint8)
    except (cv2.error, MemoryError) as error:
        raise InputError(f"image: {width}x{height} {encoding} cannot be converted ({error})") from error
    rgb.setflags(write=False)
    return rgb


def decode_compressed(data: Any, name: str = "") -> Image:
    """Pixels of a ``sensor_msgs/CompressedImage`` holding JPEG or PNG.

    Args:
        data: the file's bytes; NULs may follow.
        name: the message's ``format``, for errors: the kind is taken from the bytes.

    Returns:
        [H, W, 3] uint8 RGB, read-only; grey images are repeated, alpha is dropped.

    Raises:
        InputError: another kind, truncated, damaged, 16 bits deep, larger than :data:`MAX_PIXELS`, or data
            that is no buffer.
    """
    import cv2

    flat = _bytes(data)
    width, height = _claimed_size(flat.tobytes(), name)
    check_size(width, height)
    corrupt = f"image: {flat.size} bytes of format {name!r} cannot be decoded; the data is corrupt"
    try:
        # An orientation note (EXIF) would turn the picture against what the camera was placed by.
        bgr = cv2.imdecode(flat, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if bgr is None or bgr.shape[:2] != (height, width):
            raise InputError(corrupt)
        rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    except (cv2.error, MemoryError) as error:
        raise InputError(f"{corrupt} ({error})") from error
    rgb.setflags(write=False)
    return rgb


def check_encoding(encoding: str) -> None:
    """Refuse a raw encoding that is not one of :data:`CHANNELS`.

    Raises:
        InputError: it is not.
    """
    if encoding not in CHANNELS:
        raise InputError(
            f"image: received encoding {encoding!r}, allowed {', '.join(CHANNELS)}; let the driver publish "
            "one of these, or convert before (image_proc debayers; depth images cannot be used)"
        )


def check_size(width: int, height: int) -> None:
    """Refuse an empty image, and one that is larger than :data:`MAX_PIXELS`.

    Raises:
        InputError: it is.
    """
    if not (width > 0 and height > 0 and width * height <= MAX_PIXELS):
        raise InputError(
            f"image: received {width}x{height} pixels, allowed 1x1 .. {MAX_PIXELS >> 20} megapixels"
        )


def _bytes(data: Any) -> Image:
    """The buffer's own memory, flat; nobody can write through it."""
    try:
        view = memoryview(data).toreadonly()
        flat = np.frombuffer(view, dtype=np.uint8)
    except (TypeError, ValueError, BufferError) as error:  # no buffer, or one with gaps
        kind = type(data).__name__
        raise InputError(f"image: data must be bytes in one piece, received {kind}") from error
    if view.itemsize != 1:
        raise InputError(f"image: data must be bytes, received items of {view.itemsize} bytes")
    return flat


def _claimed_size(data: bytes, name: str) -> tuple[int, int]:
    """Width and height that a whole file claims, read before anything is decoded."""
    for kind, (begin, end, size_of) in _FILES.items():
        if data.startswith(begin):
            # Decoders make a truncated JPEG a picture that is grey below some row; padding is harmless.
            if not data.rstrip(b"\0").endswith(end):
                raise InputError(f"image: the {kind} of {len(data)} bytes is truncated")
            size = size_of(data)
            if size is None:
                raise InputError(
                    f"image: the {kind} of {len(data)} bytes names no size; the data is corrupt"
                )
            return size
    raise InputError(
        f"image: received {len(data)} bytes of format {name!r} that begin with {data[:8]!r}, allowed "
        f"{', '.join(_FILES)}; let the driver publish one of these (compressedDepth cannot be used)"
    )


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the start-of-frame segment."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(
                data[at + 5 : at + 7], "big"
            )
        if marker == 0xFF:  # a fill byte, any number of which may precede a marker
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # stand alone
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _png_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the header, which comes first."""
    if data[12:16] != b"IHDR" or len(data) < 33:
        return None
    if data[24] > 8:
        raise InputError(
            f"image: received a PNG of {data[24]} bits a channel, allowed are 8 bits; is it a depth image?"
        )
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


_FILES = {
    "JPEG": (b"\xff\xd8", b"\xff\xd9", _jpeg_size),
    "PNG": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82", _png_size),
}
"""How a file of each kind begins and ends, and where its size is found."""
