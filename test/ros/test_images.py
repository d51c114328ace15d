"""Image messages: every encoding and layout that is taken, and everything that is refused."""

from __future__ import annotations

import contextlib
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.ros.images import CHANNELS, compress, from_rgb, to_rgb

STAMP = Time(sec=7, nanosec=5)
ORDER = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2, 3], "bgra8": [2, 1, 0, 3]}
"""Place of red, green, blue (and alpha) in a pixel."""


def picture(height=48, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height=48, width=64):
    """Different in every channel and corner, and kind to JPEG."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = (rows * 255 / height, columns * 255 / width, np.full((height, width), 30))
    return np.stack(channels, axis=2).astype(np.uint8)


def raw(rgb, layout, padding=0, **fields):
    """A message laid out by hand, byte by byte."""
    height, width = rgb.shape[:2]
    if layout == "mono8":
        pixels = rgb[:, :, :1]
    else:
        pixels = np.empty((height, width, CHANNELS[layout]), np.uint8)
        for channel, place in enumerate(ORDER[layout]):
            pixels[:, :, place] = 200 if channel == 3 else rgb[:, :, channel]
    rows = pixels.reshape(height, -1)
    rows = np.hstack((rows, np.full((height, padding), 99, np.uint8)))
    values = {"height": height, "width": width, "step": rows.shape[1], "encoding": layout}
    return Image(**{**values, "data": rows.tobytes(), **fields})


@given(
    encoding=st.sampled_from(sorted(CHANNELS)),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    padding=st.integers(0, 9),
    endian=st.integers(0, 1),
)
def test_every_encoding_with_any_padding_shows_the_picture(encoding, height, width, padding, endian):
    rgb = picture(height, width, seed=height)
    shown = to_rgb(raw(rgb, encoding, padding, is_bigendian=endian))
    expected = np.repeat(rgb[:, :, :1], 3, axis=2) if encoding == "mono8" else rgb
    np.testing.assert_array_equal(shown, expected)
    assert (shown.dtype, shown.flags.writeable) == (np.uint8, False)


@pytest.mark.parametrize("encoding", sorted(CHANNELS))
def test_out_and_in_again_changes_nothing(encoding):
    rgb = picture()
    if encoding == "mono8":
        rgb = np.repeat(rgb[:, :, :1], 3, axis=2)
    message = from_rgb(rgb, STAMP, "camera", encoding)
    assert (message.header.stamp, message.header.frame_id) == (STAMP, "camera")
    assert (message.height, message.width, message.step) == (48, 64, 64 * CHANNELS[encoding])
    np.testing.assert_array_equal(to_rgb(message), rgb)


def test_a_cut_out_is_written_as_it_looks():
    rgb = picture()[5:25, 40:10:-1]
    for encoding in ("rgb8", "bgr8"):
        np.testing.assert_array_equal(to_rgb(from_rgb(rgb, STAMP, "", encoding)), rgb)


@pytest.mark.parametrize("padding", [0, 7])
def test_rgb8_is_not_copied_and_cannot_be_written_to(padding):
    message = raw(picture(), "rgb8", padding)
    shown = to_rgb(message)
    assert np.shares_memory(shown, np.frombuffer(message.data, np.uint8))
    with pytest.raises(ValueError, match="WRITEABLE"):
        shown.setflags(write=True)


def test_plain_objects_and_bytes_do():
    rgb = picture()
    message = raw(rgb, "bgr8")
    for data in (bytes(message.data), bytearray(message.data), np.array(message.data), list(message.data)):
        plain = SimpleNamespace(height=48, width=64, step=64 * 3, encoding="bgr8", data=data)
        np.testing.assert_array_equal(to_rgb(plain), rgb)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"encoding": "rgb16"}, "received encoding 'rgb16', allowed rgb8, bgr8, rgba8, bgra8, mono8"),
        ({"encoding": ""}, "received encoding ''"),
        ({"encoding": "16UC1"}, "received encoding '16UC1'"),
        ({"encoding": "bgra8"}, "a row of 64 bgra8 pixels takes 256 bytes, but step is 192"),
        ({"step": 191}, "a row of 64 rgb8 pixels takes 192 bytes, but step is 191"),
        ({"step": 0}, "but step is 0"),
        ({"step": 193}, "48 rows of step 193 take 9264 bytes, but data has 9216"),
        ({"height": 49}, "49 rows of step 192 take 9408 bytes, but data has 9216"),
        ({"height": 47}, "47 rows of step 192 take 9024 bytes, but data has 9216"),
        ({"data": b""}, "take 9216 bytes, but data has 0"),
        ({"height": 0}, "received 64x0 pixels, allowed 1x1 .. 64 megapixels"),
        ({"width": 0}, "received 0x48 pixels"),
        ({"height": 2**32 - 1, "width": 2**32 - 1, "step": 2**32 - 1}, "received 4294967295x4294967295"),
        ({"height": 2**13 + 1, "width": 2**13, "step": 3 * 2**13}, "received 8192x8193 pixels"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(fields, text):
    with pytest.raises(InputError, match=text):
        to_rgb(raw(picture(), "rgb8", **fields))


def test_data_that_is_not_bytes_is_refused():
    for data in ("text", [1, 2, 300], None):
        plain = SimpleNamespace(height=1, width=1, step=3, encoding="rgb8", data=data)
        with pytest.raises(InputError, match="image: data"):
            to_rgb(plain)


@pytest.mark.parametrize("rgb", [picture().astype(float), picture()[:, :, 0], picture()[:, :, :2], [[1]]])
def test_only_rgb_is_written(rgb):
    for write in (from_rgb, compress):
        with pytest.raises(InputError, match=r"expected uint8 \[H, W, 3\] RGB, received"):
            write(rgb, STAMP, "")


def test_png_is_exact_and_jpeg_close():
    rgb = smooth()
    np.testing.assert_array_equal(to_rgb(compress(rgb, STAMP, "camera", "png")), rgb)
    message = compress(rgb, STAMP, "camera")
    assert (message.header.stamp, message.header.frame_id, message.format) == (STAMP, "camera", "jpeg")
    shown = to_rgb(message)
    assert np.abs(shown.astype(int) - rgb).max() < 12
    assert not shown.flags.writeable


@pytest.mark.parametrize(
    "given_format", ["", "jpeg", "bgr8; jpeg compressed bgr8", "rgb8; png compressed bgr8"]
)
def test_what_the_data_is_counts_not_what_the_format_says(given_format):
    rgb = smooth()
    for kind in ("png", "jpeg"):
        message = CompressedImage(format=given_format, data=compress(rgb, STAMP, "", kind).data)
        assert np.abs(to_rgb(message).astype(int) - rgb).max() < 12


def test_grey_and_transparent_files_become_rgb():
    rgb = smooth()
    for pixels, expected in (
        (rgb[:, :, 0], np.repeat(rgb[:, :, :1], 3, axis=2)),
        (cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA), rgb),
    ):
        data = cv2.imencode(".png", pixels)[1].tobytes()
        np.testing.assert_array_equal(to_rgb(CompressedImage(format="png", data=data)), expected)


def test_a_turned_camera_note_does_not_turn_the_picture():
    jpeg = bytes(compress(smooth(), STAMP, "").data)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (64, 48, 3)
    assert to_rgb(CompressedImage(format="jpeg", data=turned)).shape == (48, 64, 3)


def png(width, height, bits=8):
    """A PNG whose header promises a picture of this size, and whose data has next to nothing."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


JPEG = bytes(compress(smooth(), STAMP, "").data)
PNG = bytes(compress(picture(), STAMP, "", "png").data)


def jpeg_of_size(width, height):
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", height, width) + JPEG[at + 9 :]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "received 0 bytes of format 'jpeg' that begin with b'', allowed JPEG, PNG"),
        (b"GIF89a....", "begin with b'GIF89a..', allowed JPEG, PNG"),
        (JPEG[: len(JPEG) // 2], "the JPEG of .* bytes is truncated"),
        (PNG[: len(PNG) // 2], "the PNG of .* bytes is truncated"),
        (PNG[:20], "allowed JPEG, PNG|truncated"),
        (JPEG[:2] + JPEG[-2:], "names no size"),
        (JPEG[:2] + b"\0" * 40 + JPEG[-2:], "names no size"),
        (png(60000, 60000), "received 60000x60000 pixels, allowed 1x1 .. 64 megapixels"),
        (jpeg_of_size(60000, 60000), "received 60000x60000 pixels"),
        (jpeg_of_size(0, 48), "received 0x48 pixels"),
        (png(64, 48, bits=16), "a PNG of 16 bits a channel, allowed are 8 bits"),
        (png(64, 48), "cannot be decoded; the data is corrupt"),
    ],
)
def test_compressed_data_that_cannot_be_trusted_is_refused(data, text):
    with pytest.raises(InputError, match=text):
        to_rgb(CompressedImage(format="jpeg", data=data))


def test_a_bomb_is_not_decoded(monkeypatch):
    def decode(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    for data in (png(60000, 60000), jpeg_of_size(65000, 65000)):
        with pytest.raises(InputError, match="allowed 1x1"):
            to_rgb(CompressedImage(format="", data=data))


@given(data=st.binary(max_size=300), kind=st.sampled_from([b"", JPEG[:40], PNG[:40], JPEG[:-2], PNG[:60]]))
def test_rubbish_is_an_input_error_and_nothing_else(data, kind):
    with contextlib.suppress(InputError):
        to_rgb(CompressedImage(format="", data=kind + data))
