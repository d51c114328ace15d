"""Image messages as RGB arrays, and back; what cannot be trusted is refused by name."""

from __future__ import annotations

import array
from typing import Any, Literal

import cv2
import numpy as np

from vjepa_ac_planner.bags.images import (
    CHANNELS,
    check_encoding,
    check_size,
    decode_compressed,
    decode_image,
)
from vjepa_ac_planner.bags.images import Image as Pixels
from vjepa_ac_planner.errors import InputError

_FROM_RGB = {
    "bgr8": cv2.COLOR_RGB2BGR,
    "rgba8": cv2.COLOR_RGB2RGBA,
    "bgra8": cv2.COLOR_RGB2BGRA,
    "mono8": cv2.COLOR_RGB2GRAY,
}


def to_rgb(message: Any) -> Pixels:
    """The picture of a ``sensor_msgs/Image`` or ``CompressedImage``, by the rules for recorded ones.

    Args:
        message: any object with the fields of one of the two messages; a ``format`` makes it compressed.

    Returns:
        [H, W, 3] uint8, RGB, read-only; of ``rgb8`` a view of the message's bytes.

    Raises:
        InputError: what :func:`~vjepa_ac_planner.bags.images.decode_image` and
            :func:`~vjepa_ac_planner.bags.images.decode_compressed` refuse.
    """
    if hasattr(message, "format"):
        return decode_compressed(message.data, message.format)
    return decode_image(message.encoding, message.height, message.width, message.step, message.data)


def from_rgb(rgb: Pixels, stamp: Any, frame_id: str, encoding: str = "rgb8") -> Any:
    """A ``sensor_msgs/Image`` that shows ``rgb``.

    Args:
        rgb: [H, W, 3] uint8.
        stamp: ``builtin_interfaces/Time`` of exposure.
        frame_id: name of the optical frame.
        encoding: one of :data:`~vjepa_ac_planner.bags.images.CHANNELS`; alpha is opaque.

    Raises:
        InputError: not such an array, or an unknown encoding.
    """
    from sensor_msgs.msg import Image

    _check_rgb(rgb)
    check_encoding(encoding)
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


def _check_rgb(rgb: Any) -> None:
    if not (isinstance(rgb, np.ndarray) and rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3):
        what = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise InputError(f"image: expected uint8 [H, W, 3] RGB, received {what}")
    check_size(rgb.shape[1], rgb.shape[0])
