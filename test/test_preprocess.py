"""The camera transform against reference numbers, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.preprocess import as_seen, centre_crop, frames_to_pixels, preprocess
from vjepa_ac_planner.types import Frame

GOLDEN = np.load(Path(__file__).parent / "data" / "golden.npz")
CPU = torch.device("cpu")


def camera_image(height: int, width: int) -> torch.Tensor:
    """The image that the reference numbers were computed from."""
    coarse = np.random.default_rng(height).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    tensor = torch.from_numpy(coarse.astype(np.float32)).permute(2, 0, 1)[None]
    image = F.interpolate(tensor, (height, width), mode="bilinear", align_corners=False)
    return image.round().to(torch.uint8).permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", ["droid", "vga", "square", "tall"])
def test_matches_the_reference(name: str) -> None:
    height, width = GOLDEN[f"prep_{name}_seed"]
    frame = preprocess(camera_image(int(height), int(width)), 256)
    assert frame.shape == (1, 3, 256, 256)
    assert frame.dtype == torch.float32
    np.testing.assert_allclose(frame[0, :, ::16, ::16].numpy(), GOLDEN[f"prep_{name}_out"], atol=1e-5)
    np.testing.assert_allclose(frame[0].mean((1, 2)).numpy(), GOLDEN[f"prep_{name}_mean"], atol=1e-5)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (720, 1280, (0, 154, 720, 972)),
        (480, 640, (0, 0, 480, 640)),
        (640, 360, (80, 0, 480, 360)),
        (100, 135, (0, 0, 100, 135)),
    ],
)
def test_crop_is_central_and_no_larger_than_needed(height: int, width: int, expected: tuple) -> None:
    assert centre_crop(height, width) == expected


def test_frames_arrays_and_tensors_give_the_same() -> None:
    images = torch.cat([camera_image(48, 64), camera_image(48, 64).flip(1)])
    expected = preprocess(images, 32)
    array = images.numpy()
    assert torch.equal(frames_to_pixels(array, 32, CPU), expected)
    assert torch.equal(frames_to_pixels(images, 32, CPU), expected)
    assert torch.equal(frames_to_pixels([Frame(array[0]), Frame(array[1])], 32, CPU), expected)
    # A flipped view, as OpenCV code makes by [::-1], is read correctly.
    assert torch.equal(frames_to_pixels(array[:, ::-1], 32, CPU), preprocess(images.flip(1), 32))


def test_frames_of_different_sizes_become_one_batch() -> None:
    small, large = camera_image(48, 64).numpy()[0], camera_image(90, 120).numpy()[0]
    pixels = frames_to_pixels([Frame(small), Frame(large)], 32, CPU)
    assert torch.equal(pixels[1:], frames_to_pixels([Frame(large)], 32, CPU))


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (np.zeros((1, 32, 32, 3), np.float32), "expected dtype uint8"),
        (np.full((1, 32, 32, 3), np.nan), "expected dtype uint8"),
        (np.zeros((1, 3, 32, 32), np.uint8), "channels last"),
        (np.zeros((32, 32, 3), np.uint8), r"expected \[batch, height, width, 3\]"),
        (np.zeros((1, 8, 32, 3), np.uint8), "at least 16x16"),
        ([], "non-empty sequence of Frame"),
        ([np.zeros((32, 32, 3), np.uint8)], "received list of .'ndarray'."),
    ],
)
def test_what_is_not_an_image_is_refused(images: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        frames_to_pixels(images, 32, CPU)  # type: ignore[arg-type]


def test_what_the_model_sees_can_be_shown_to_people() -> None:
    """An image of the model's own size comes back as it was, to the last level."""
    image = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(as_seen(Frame(image), 32), image)
    wide = as_seen(Frame(np.repeat(image, 2, axis=1)), 16)
    assert (wide.shape, wide.dtype, wide.flags.c_contiguous) == ((16, 16, 3), np.uint8, True)
