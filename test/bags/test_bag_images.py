from __future__ import annotations

import cv2
import numpy as np
import pytest

from vjepa_ac_planner.bags.images import decode_compressed, decode_image
from vjepa_ac_planner.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
ALPHA = np.full((5, 7, 1), 9, dtype=np.uint8)
LAYOUTS = {
    "rgb8": RGB,
    "bgr8": RGB[..., ::-1],
    "rgba8": np.concatenate([RGB, ALPHA], axis=2),
    "bgra8": np.concatenate([RGB[..., ::-1], ALPHA], axis=2),
}


@pytest.mark.parametrize("padding", [0, 1, 13])
@pytest.mark.parametrize("encoding", LAYOUTS)
def test_every_encoding_gives_the_same_pixels(encoding, padding):
    pixels = LAYOUTS[encoding]
    row = pixels.shape[1] * pixels.shape[2]
    data = np.full((5, row + padding), 255, dtype=np.uint8)
    data[:, :row] = pixels.reshape(5, row)
    image = decode_image(encoding, 5, 7, row + padding, data.tobytes())
    np.testing.assert_array_equal(image, RGB)
    assert image.dtype == np.uint8


def test_a_buffer_of_another_size_is_refused():
    data = np.zeros((5, 30), dtype=np.uint8).tobytes()
    decode_image("rgb8", 5, 7, 30, data)
    for wrong in (data[:-1], data + b"0"):
        with pytest.raises(InputError, match="5 rows of 30 bytes are 150"):
            decode_image("rgb8", 5, 7, 30, wrong)


def test_grey_is_repeated():
    image = decode_image("mono8", 5, 7, 7, RGB[..., 0].tobytes())
    np.testing.assert_array_equal(image, np.repeat(RGB[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("16UC1", 5, 7, 14, bytes(70)), "encoding '16UC1'"),
        (("8UC3", 5, 7, 21, bytes(105)), "encoding '8UC3'"),
        (("rgb8", 5, 7, 20, bytes(200)), "step of 20"),
        (("rgb8", 0, 7, 21, b""), "7x0"),
        (("rgb8", 1 << 20, 1 << 20, 3 << 20, bytes(10)), "allowed"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        decode_image(*arguments)


def encode(kind: str, image: np.ndarray) -> bytes:
    done, data = cv2.imencode(kind, image)
    assert done
    return data.tobytes()


def test_png_is_lossless_and_rgb():
    big = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = encode(".png", big[..., ::-1])
    np.testing.assert_array_equal(decode_compressed(data, "png"), big)


def test_jpeg_is_rgb():
    red = np.zeros((32, 32, 3), dtype=np.uint8)
    red[..., 0] = 250
    image = decode_compressed(np.frombuffer(encode(".jpg", red[..., ::-1]), dtype=np.uint8))
    assert np.abs(image.astype(int) - red).max() < 8


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_a_cut_file_is_refused_and_not_filled_with_grey(kind):
    data = encode(kind, np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    decode_compressed(data)
    for length in (0, 1, 10, len(data) // 2, len(data) - 20):
        with pytest.raises(InputError):
            decode_compressed(data[:length])


def test_a_header_that_claims_a_gigantic_image_is_refused_before_decoding():
    data = bytearray(encode(".png", RGB))
    data[16:24] = b"\x00\x00\xff\xff\x00\x00\xff\xff"
    with pytest.raises(InputError, match="65535x65535"):
        decode_compressed(bytes(data))


def test_depth_in_a_png_is_refused():
    with pytest.raises(InputError, match="16 bits"):
        decode_compressed(encode(".png", RGB.astype(np.uint16) * 256))
