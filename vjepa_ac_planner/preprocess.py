"""Camera images to the normalised frames that the encoder was trained on.

Training, replay and the live robot all come through :func:`preprocess`, so that the model never sees
an image made another way. (V-JEPA 2-AC's evaluation transform on DROID.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.types import Frame

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ASPECT_RANGE = (0.75, 1.35)
"""Width / height that is squashed to a square; beyond it the longer side is cropped."""


def centre_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """The part of an image that is used: the middle, cropped no further than :data:`ASPECT_RANGE` asks.

    Returns:
        (top, left, height, width) in pixels; 1280x720 gives the central 972x720, 640x480 all of it.
    """
    crop_height, crop_width = height, width
    if width < ASPECT_RANGE[0] * height:
        crop_height = round(width / ASPECT_RANGE[0])
    elif width > ASPECT_RANGE[1] * height:
        crop_width = round(height * ASPECT_RANGE[1])
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def preprocess(images: Tensor, size: int) -> Tensor:
    """Crop, resize and normalise a batch of camera images, on their device.

    The resize is bilinear without antialiasing and does not keep the aspect: that is how the published
    weights were trained.

    Args:
        images: [B, H, W, 3] uint8, RGB.
        size: side S of the model's square frame [pixels].

    Returns:
        [B, 3, S, S] float32, normalised with ImageNet mean and standard deviation.

    Raises:
        InputError: not a batch of uint8 RGB images of at least 16x16 pixels.
    """
    if images.dtype != torch.uint8:
        raise InputError(f"images: expected dtype uint8 (0..255), received {images.dtype}")
    if images.ndim != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < 16:
        raise InputError(
            f"images: expected [batch, height, width, 3] (RGB, channels last, at least 16x16 pixels), "
            f"received {tuple(images.shape)}"
        )
    small = _square(images, size)
    mean, std = (small.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((small / 255 - mean) / std).contiguous()


def shrink(images: Tensor, size: int) -> Tensor:
    """Crop and resize frames as :func:`preprocess` does, to whole numbers: how training data are stored.

    Args:
        images: [B, H, W, 3] uint8.
        size: side of the result [pixels].

    Returns:
        [B, size, size, 3] uint8; rounding moves a pixel by at most half a grey level.
    """
    small = _square(images, size)
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _square(images: Tensor, size: int) -> Tensor:
    """[B, 3, size, size] float32, 0 .. 255, of images [B, H, W, 3] uint8: cropped and resized."""
    top, left, height, width = centre_crop(images.shape[1], images.shape[2])
    crop = images[:, top : top + height, left : left + width].permute(0, 3, 1, 2).float()
    if crop.shape[2:] == (size, size):
        return crop
    return F.interpolate(crop, (size, size), mode="bilinear", align_corners=False, antialias=False)


def frames_to_pixels(
    images: Sequence[Frame] | npt.NDArray[np.uint8] | Tensor, size: int, device: torch.device
) -> Tensor:
    """Whatever images the caller has, as one batch of preprocessed frames on ``device``.

    Args:
        images: frames (of any sizes), or an array or tensor [B, H, W, 3] uint8 RGB.
        size: side S of the model's square frame [pixels].
        device: where to compute; images travel there as bytes.

    Returns:
        [B, 3, S, S] float32.

    Raises:
        InputError: no images, or something that is not an RGB image.
    """
    if isinstance(images, Tensor):
        return preprocess(images.to(device), size)
    if isinstance(images, np.ndarray):
        return preprocess(_from_numpy(images).to(device), size)
    arrays = [frame.image for frame in images if isinstance(frame, Frame)]
    if not arrays or len(arrays) != len(images):
        raise InputError(
            "images: expected a non-empty sequence of Frame, or one uint8 array [B, H, W, 3], "
            f"received {type(images).__name__} of {[type(image).__name__ for image in images][:3]}"
        )
    if len({array.shape for array in arrays}) == 1:
        return preprocess(_from_numpy(np.stack(arrays)).to(device), size)
    return torch.cat([preprocess(_from_numpy(array[None]).to(device), size) for array in arrays])


def as_seen(frame: Frame, size: int) -> npt.NDArray[np.uint8]:
    """The picture as the model receives it, for people: preprocessed, with the normalisation taken back.

    Args:
        frame: a camera image.
        size: side S of the model's square frame [pixels].

    Returns:
        [S, S, 3] uint8, RGB.
    """
    pixels = frames_to_pixels([frame], size, torch.device("cpu"))[0]  # [3, S, S]
    levels = pixels.permute(1, 2, 0).numpy() * IMAGENET_STD + IMAGENET_MEAN
    return np.rint(255 * np.clip(levels, 0, 1)).astype(np.uint8, order="C")


def _from_numpy(array: npt.NDArray[np.uint8]) -> Tensor:
    """A tensor over the array's bytes; copied where torch could not otherwise read or must not write."""
    if array.dtype != np.uint8:
        raise InputError(
            f"images: expected dtype uint8 (0..255), received {array.dtype}; "
            "scale and convert it, NaN and float images are refused"
        )
    return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())


def read_image(path: str | Path) -> Frame:
    """An image file as a frame.

    Raises:
        InputError: no such file, not an image, or not 8-bit colour.
    """
    path = Path(path)
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if data.size == 0:
        raise InputError(f"{path}: is empty; expected a PNG or JPEG image")
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(f"{path}: is not an image, or is cut short; expected PNG, JPEG or the like")
    if image.dtype != np.uint8:
        raise InputError(f"{path}: expected 8 bits per channel, received {image.dtype}; convert it first")
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels != 3:
        raise InputError(
            f"{path}: expected 3 colour channels (RGB), received {channels}; "
            "convert grey images, and drop an alpha channel, first"
        )
    try:
        return Frame(np.ascontiguousarray(image[..., ::-1]), frame_id=path.name)  # OpenCV reads BGR
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
