"""Image messages as RGB arrays, and back; what cannot be trusted is refused by name."""

from __future__ import annotations

import array
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.errors import InputError

Pixels = npt.NDArray[np.uint8]

CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
"""Encodings that are read and written, and their bytes per pixel."""
MAX_PIXELS = 64 * 2**20
"""Largest image, [pixels]: no camera is larger, and a hostile or broken header could ask for any amount
of memory."""

_TO_RGB = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "rgba8": cv2.COLOR_RGBA2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB,
}
_FROM_RGB = {
    "bgr8": cv2.COLOR_RGB2BGR,
    "rgba8": cv2.COLOR_RGB2RGBA,
    "bgra8": cv2.COLOR_RGB2BGRA,
    "mono8": cv2.COLOR_RGB2GRAY,
}
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def to_rgb(message: Any) -> Pixels:
    """The picture of a ``sensor_msgs/Image`` or ``CompressedImage``.

    An ``rgb8`` message is not copied: the array is a read-only view of the message's bytes, with the
    message's row padding in its strides. Every other encoding gives an array of its own, read-only too.

    Args:
        message: any object with the fields of one of the two messages; a ``format`` makes it compressed.

    Returns:
        [H, W, 3] uint8, RGB.

    Raises:
        InputError: an encoding other than those of :data:`CHANNELS`, sizes that contradict each other
            or exceed :data:`MAX_PIXELS`, or compressed data that is truncated or no 8-bit JPEG or PNG.
    """
    rgb = _decoded(message) if hasattr(message, "format") else _raw(message)
    rgb.setflags(write=False)
    return rgb


def from_rgb(rgb: Pixels, stamp: Any, frame_id: str, encoding: str = "rgb8") -> Any:
    """A ``sensor_msgs/Image`` that shows ``rgb``.

    Args:
        rgb: [H, W, 3] uint8.
        stamp: ``builtin_interfaces/Time`` of exposure.
        frame_id: name of the optical frame.
        encoding: one of :data:`CHANNELS`; alpha is opaque.

    Raises:
        InputError: not such an array, or an unknown encoding.
    """
    from sensor_msgs.msg import Image

    _check_rgb(rgb)
    _check_encoding(encoding)
    height, width = rgb.shape[:2]
    pixels = rgb if encoding == "rgb8" else cv2.cvtColor(rgb, _FROM_RGB[encoding])
    message = Image(height=height, width=width, encoding=encoding, step=width * CHANNELS[encoding])
    message.header.stamp, message.header.frame_id = stamp, frame_id
    # An array.array is taken as it is; any other type is checked byte by byte, a second for a large image.
    message.data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    return message


def compress(
    rgb: Pixels, stamp: Any, frame_id: str, kind: Literal["jpeg", "png"] = "jpeg", quality: int = 90
) -> Any:
    """A ``sensor_msgs/CompressedImage`` that shows ``rgb``.

    Args:
        rgb: [H, W, 3] uint8.
        stamp: ``builtin_interfaces/Time`` of exposure.
        frame_id: name of the optical frame.
        kind: ``jpeg``, or ``png`` for the exact pixels.
        quality: of a JPEG, 1 .. 100.

    Raises:
        InputError: not such an array, or an unknown kind.
    """
    from sensor_msgs.msg import CompressedImage

    _check_rgb(rgb)
    if kind not in ("jpeg", "png"):
        raise InputError(f"image: received kind {kind!r}, allowed jpeg, png")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if kind == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    done, data = cv2.imencode(f".{kind}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise InputError(f"image: {rgb.shape[1]}x{rgb.shape[0]} pixels cannot be written as {kind}")
    message = CompressedImage(format=kind)
    message.header.stamp, message.header.frame_id = stamp, frame_id
    message.data = array.array("B", data.tobytes())
    return message


def _raw(message: Any) -> Pixels:
    encoding = message.encoding
    _check_encoding(encoding)
    height, width, step = int(message.height), int(message.width), int(message.step)
    _check_size(width, height)
    channels = CHANNELS[encoding]
    if step < width * channels:
        raise InputError(
            f"image: a row of {width} {encoding} pixels takes {width * channels} bytes, but step is {step}"
        )
    data = _bytes(message.data)
    if len(data) != step * height:
        raise InputError(
            f"image: {height} rows of step {step} take {step * height} bytes, but data has {len(data)}"
        )
    rows = data.reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    return rows if encoding == "rgb8" else np.asarray(cv2.cvtColor(rows, _TO_RGB[encoding]), np.uint8)


def _decoded(message: Any) -> Pixels:
    data = _bytes(message.data)
    width, height = _header(data.tobytes(), message.format)
    _check_size(width, height)
    # An orientation note (EXIF) would turn the picture against the pixels that the camera was placed by.
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None or bgr.shape[:2] != (height, width):
        raise InputError(
            f"image: {len(data)} bytes of format {message.format!r} cannot be decoded; the data is corrupt"
        )
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _header(data: bytes, given: str) -> tuple[int, int]:
    """Width and height that compressed data claims, read before anything is decoded."""
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) > 24:
        if data[24] > 8:
            raise InputError(f"image: received a PNG of {data[24]} bits a channel, allowed are 8 bits")
        if _PNG_END not in data[-64:]:
            raise InputError(f"image: the PNG of {len(data)} bytes is truncated")
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data.startswith(_JPEG):
        # Decoders make a truncated JPEG a picture that is grey below some row; padding is harmless.
        if not data.rstrip(b"\0").endswith(_JPEG_END):
            raise InputError(f"image: the JPEG of {len(data)} bytes is truncated")
        return _jpeg_size(data)
    raise InputError(
        f"image: received {len(data)} bytes of format {given!r} that begin with {data[:8]!r}, "
        "allowed JPEG, PNG"
    )


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height in the start-of-frame segment."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        # A marker may be preceded by fill bytes.
        at += 1 if marker == 0xFF else 2 + length
    raise InputError(f"image: the JPEG of {len(data)} bytes names no size; the data is corrupt")


def _bytes(data: Any) -> Pixels:
    """The message's bytes, memory shared where they have any to share; nobody can write through them."""
    try:
        return np.frombuffer(memoryview(data).toreadonly(), dtype=np.uint8)
    except (TypeError, ValueError):  # a list of a hand-made message, or nothing at all
        pass
    try:
        view = np.array(data, dtype=np.uint8).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"image: data must be bytes, received {type(data).__name__}") from error
    view.setflags(write=False)
    return view


def _check_encoding(encoding: Any) -> None:
    if encoding not in CHANNELS:
        raise InputError(f"image: received encoding {encoding!r}, allowed {', '.join(CHANNELS)}")


def _check_size(width: int, height: int) -> None:
    if not (width > 0 and height > 0 and width * height <= MAX_PIXELS):
        raise InputError(
            f"image: received {width}x{height} pixels, allowed 1x1 .. {MAX_PIXELS >> 20} megapixels"
        )


def _check_rgb(rgb: Any) -> None:
    if not (isinstance(rgb, np.ndarray) and rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3):
        what = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise InputError(f"image: expected uint8 [H, W, 3] RGB, received {what}")
    _check_size(rgb.shape[1], rgb.shape[0])
