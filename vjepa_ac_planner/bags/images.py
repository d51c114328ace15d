"""Pixels of camera messages, from plain buffers: no ROS, no message classes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from vjepa_ac_planner.errors import InputError

_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
_CONVERSIONS = {
    "bgr8": "COLOR_BGR2RGB",
    "rgba8": "COLOR_RGBA2RGB",
    "bgra8": "COLOR_BGRA2RGB",
    "mono8": "COLOR_GRAY2RGB",
}
ENCODINGS = tuple(_CHANNELS)
"""Raw encodings that are understood, the same as by the live node: a ``8UC3`` does not say its colours."""
MAX_PIXELS = 1 << 26
"""Largest image that is decoded: a damaged header must not take all memory."""

Image = npt.NDArray[np.uint8]


def decode_image(encoding: str, height: int, width: int, step: int, data: Any) -> Image:
    """Pixels of a ``sensor_msgs/Image``.

    Args:
        encoding: one of ``ENCODINGS``.
        height: rows [pixels].
        width: columns [pixels].
        step: bytes from one row to the next; more than a row needs is padding.
        data: buffer of ``height * step`` bytes.

    Returns:
        [H, W, 3] uint8 RGB; a view of ``data`` where that is possible.

    Raises:
        InputError: another encoding, or sizes that do not fit together.
    """
    if encoding not in _CHANNELS:
        raise InputError(
            f"image: received encoding {encoding!r}, allowed {', '.join(ENCODINGS)}; convert it before "
            "recording (image_proc debayers, depth images cannot be used)"
        )
    channels = _CHANNELS[encoding]
    row = width * channels
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise InputError(f"image: received {width}x{height} pixels, allowed 1 .. {MAX_PIXELS} in all")
    if step < row:
        raise InputError(
            f"image: step of {step} bytes is less than a row of {width} {encoding} pixels, {row}"
        )
    flat = np.frombuffer(data, dtype=np.uint8)
    if flat.size != height * step:
        raise InputError(f"image: {height} rows of {step} bytes are {height * step}, received {flat.size}")
    pixels = flat.reshape(height, step)[:, :row].reshape(height, width, channels)
    if encoding == "rgb8":
        return np.ascontiguousarray(pixels)
    import cv2

    return np.asarray(cv2.cvtColor(pixels, getattr(cv2, _CONVERSIONS[encoding])), dtype=np.uint8)


def decode_compressed(data: Any, name: str = "") -> Image:
    """Pixels of a ``sensor_msgs/CompressedImage`` holding JPEG or PNG.

    Args:
        data: the file's bytes.
        name: the message's ``format``, for errors: the kind is taken from the bytes.

    Returns:
        [H, W, 3] uint8 RGB; grey images are repeated, alpha is dropped.

    Raises:
        InputError: another kind, cut short, damaged, 16 bits deep, or too large.
    """
    import cv2

    flat = np.frombuffer(data, dtype=np.uint8)
    buffer = flat.data
    size = _png_size(buffer) or _jpeg_size(buffer)
    if size is None:
        raise InputError(
            f"image: compressed data of {flat.size} bytes (format {name!r}) are neither whole JPEG nor "
            "whole PNG; other codecs and compressedDepth are not understood"
        )
    if not 1 <= size[0] * size[1] <= MAX_PIXELS:
        raise InputError(f"image: received {size[1]}x{size[0]} pixels, allowed 1 .. {MAX_PIXELS} in all")
    try:
        image = cv2.imdecode(flat, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except (cv2.error, MemoryError) as error:
        raise InputError(f"image: compressed data cannot be decoded ({error})") from error
    if image is None or image.shape[:2] != size:
        raise InputError(f"image: compressed data of {flat.size} bytes cannot be decoded; damaged?")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _png_size(data: Any) -> tuple[int, int] | None:
    """Height and width of a whole PNG; None for anything else."""
    if len(data) < 45 or bytes(data[:8]) != b"\x89PNG\r\n\x1a\n" or b"IEND" not in bytes(data[-64:]):
        return None
    width, height, depth = struct.unpack_from(">IIB", data, 16)
    if depth > 8:
        raise InputError(f"image: PNG has {depth} bits per channel, allowed 8; is it a depth image?")
    return height, width


def _jpeg_size(data: Any) -> tuple[int, int] | None:
    """Height and width of a whole JPEG; None for anything else.

    Decoders fill what is missing of a cut file with grey and say nothing, so the end is looked for.
    """
    if len(data) < 20 or bytes(data[:2]) != b"\xff\xd8":
        return None
    if not bytes(data[-64:]).rstrip(b"\0").endswith(b"\xff\xd9"):  # padding does no harm
        return None
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        (length,) = struct.unpack_from(">H", data, at + 2)
        if length < 2:
            return None
        at += 2 + length
    return None
