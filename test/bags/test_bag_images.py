"""Pixels from buffers: every encoding and layout that is taken, and everything that is refused."""

from __future__ import annotations

import contextlib
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vjepa_ac_planner.bags.images import CHANNELS, decode_compressed, decode_image
from vjepa_ac_planner.errors import InputError

ORDER = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2, 3], "bgra8": [2, 1, 0, 3]}
"""Place of red, green, blue (and alpha) in a pixel."""


def picture(height=48, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height=48, width=64):
    """Different in every channel and corner, and kind to JPEG."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = (rows * 255 / height, columns * 255 / width, np.full((height, width), 30))
    return np.stack(channels, axis=2).astype(np.uint8)


def raw(rgb, layout="rgb8", padding=0, **fields):
    """What ``decode_image`` takes, laid out by hand, byte by byte."""
    height, width = rgb.shape[:2]
    if layout == "mono8":
        pixels = rgb[:, :, :1]
    else:
        pixels = np.empty((height, width, CHANNELS[layout]), np.uint8)
        for channel, place in enumerate(ORDER[layout]):
            pixels[:, :, place] = 200 if channel == 3 else rgb[:, :, channel]
    rows = pixels.reshape(height, -1)
    rows = np.hstack((rows, np.full((height, padding), 99, np.uint8)))
    values = {"encoding": layout, "height": height, "width": width, "step": rows.shape[1]}
    return {**values, "data": rows.tobytes(), **fields}


def encode(kind, rgb, *options):
    done, data = cv2.imencode(kind, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    assert done
    return data.tobytes()


@given(
    encoding=st.sampled_from(sorted(CHANNELS)),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    padding=st.integers(0, 9),
)
def test_every_encoding_with_any_padding_shows_the_picture(encoding, height, width, padding):
    rgb = picture(height, width, seed=height)
    shown = decode_image(**raw(rgb, encoding, padding))
    expected = np.repeat(rgb[:, :, :1], 3, axis=2) if encoding == "mono8" else rgb
    np.testing.assert_array_equal(shown, expected)
    assert (shown.dtype, shown.flags.writeable) == (np.uint8, False)


@pytest.mark.parametrize("padding", [0, 7])
def test_rgb8_is_not_copied_and_cannot_be_written_to(padding):
    data = np.frombuffer(raw(picture(), padding=padding)["data"], np.uint8).copy()
    shown = decode_image(**raw(picture(), padding=padding, data=data))
    assert np.shares_memory(shown, data)
    with pytest.raises(ValueError, match="WRITEABLE"):
        shown.setflags(write=True)


@pytest.mark.parametrize(
    "buffer", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)]
)
def test_any_buffer_does(buffer):
    fields = raw(picture(), "bgr8")
    np.testing.assert_array_equal(decode_image(**{**fields, "data": buffer(fields["data"])}), picture())
    png = encode(".png", picture())
    np.testing.assert_array_equal(decode_compressed(buffer(png)), picture())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("text", "bytes in one piece, received str"),
        ([1, 2, 3], "bytes in one piece, received list"),
        (None, "bytes in one piece, received NoneType"),
        (np.zeros(6, np.uint8)[::2], "bytes in one piece, received ndarray"),
        (np.zeros(3), "received items of 8 bytes"),
        (np.zeros(3, object), "received items of 8 bytes"),
    ],
)
def test_data_that_is_not_bytes_is_refused(data, text):
    with pytest.raises(InputError, match=f"image: data must be .*{text}"):
        decode_image("rgb8", 1, 1, 3, data)
    with pytest.raises(InputError, match=f"image: data must be .*{text}"):
        decode_compressed(data)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"encoding": "rgb16"},
            "received encoding 'rgb16', allowed rgb8, bgr8, rgba8, bgra8, mono8; let the",
        ),
        ({"encoding": ""}, "received encoding ''"),
        ({"encoding": "16UC1"}, "received encoding '16UC1'.*depth images cannot be used"),
        ({"encoding": "8UC3"}, "received encoding '8UC3'"),
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
        decode_image(**raw(picture(), **fields))


def test_png_is_exact_and_jpeg_close():
    np.testing.assert_array_equal(decode_compressed(encode(".png", picture())), picture())
    shown = decode_compressed(encode(".jpg", smooth()))
    assert np.abs(shown.astype(int) - smooth()).max() < 12
    assert (shown.dtype, shown.flags.writeable) == (np.uint8, False)


@pytest.mark.parametrize("name", ["", "jpeg", "bgr8; jpeg compressed bgr8", "rgb8; png compressed bgr8"])
def test_what_the_data_is_counts_not_what_the_format_says(name):
    for kind in (".png", ".jpg"):
        assert np.abs(decode_compressed(encode(kind, smooth()), name).astype(int) - smooth()).max() < 12


def test_grey_and_transparent_files_become_rgb():
    rgb = smooth()
    for pixels, expected in (
        (rgb[:, :, 0], np.repeat(rgb[:, :, :1], 3, axis=2)),
        (cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA), rgb),
    ):
        data = cv2.imencode(".png", pixels)[1].tobytes()
        np.testing.assert_array_equal(decode_compressed(data), expected)


def png(width, height, bits=8):
    """A PNG whose header promises a picture of this size, and whose data has next to nothing."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


JPEG = encode(".jpg", smooth())
PNG = encode(".png", picture())
TABLE = JPEG[JPEG.index(b"\xff\xc4") : JPEG.index(b"\xff\xda")]
"""The Huffman tables; their marker is among those of frames, and is none."""


def after_start(segment):
    return JPEG[:2] + segment + JPEG[2:]


def jpeg_of_size(width, height):
    at = JPEG.index(b"\xff\xc0")
    return JPEG[: at + 5] + struct.pack(">HH", height, width) + JPEG[at + 9 :]


def test_a_turned_camera_note_does_not_turn_the_picture():
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = after_start(b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (64, 48, 3)
    assert decode_compressed(turned).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (JPEG + b"\0" * 500, JPEG),
        (PNG + b"\0" * 500, PNG),
        (after_start(b"\xff\xff\xff\xfe\0\4hi"), JPEG),
        (after_start(b"\xff\x01"), JPEG),
        (after_start(TABLE), JPEG),
        # 0xC0 as the content of a comment is no start of a frame.
        (after_start(b"\xff\xfe\0\x0b\xff\xc0\0\7\0\1\0\1\0"), JPEG),
    ],
)
def test_padding_and_segments_without_pixels_are_harmless(data, plain):
    np.testing.assert_array_equal(decode_compressed(data), decode_compressed(plain))


@pytest.mark.parametrize(("kind", "data"), [("JPEG", JPEG), ("PNG", PNG)])
def test_a_truncated_file_is_refused_and_not_filled_with_grey(kind, data):
    for length in (8, 20, len(data) // 2, len(data) - 20, len(data) - 1):
        for padding in (b"", b"\0" * 30):
            with pytest.raises(
                InputError, match=f"the {kind} of {length + len(padding)} bytes is truncated"
            ):
                decode_compressed(data[:length] + padding)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "received 0 bytes of format 'some' that begin with b'', allowed JPEG, PNG; let the driver"),
        (b"GIF89a....", "begin with b'GIF89a..', allowed JPEG, PNG"),
        (b"\0" * 12 + PNG, "allowed JPEG, PNG.*compressedDepth cannot be used"),
        (JPEG[:2] + JPEG[-2:], "the JPEG of 4 bytes names no size; the data is corrupt"),
        (JPEG[:2] + b"\0" * 40 + JPEG[-2:], "names no size"),
        (PNG[:8] + PNG[-8:], "the PNG of 16 bytes names no size"),
        (PNG[:16] + PNG[-8:], "the PNG of 24 bytes names no size"),
        (png(60000, 60000), "received 60000x60000 pixels, allowed 1x1 .. 64 megapixels"),
        (jpeg_of_size(60000, 60000), "received 60000x60000 pixels"),
        (jpeg_of_size(0, 48), "received 0x48 pixels"),
        (png(64, 48, bits=16), "a PNG of 16 bits a channel, allowed are 8 bits"),
        (png(64, 48), r"\d+ bytes of format 'some' cannot be decoded; the data is corrupt"),
    ],
)
def test_compressed_data_that_cannot_be_trusted_is_refused(data, text):
    with pytest.raises(InputError, match=text):
        decode_compressed(data, "some")


def test_a_bomb_is_not_decoded(monkeypatch):
    def decode(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    for data in (png(60000, 60000), jpeg_of_size(65000, 65000)):
        with pytest.raises(InputError, match="allowed 1x1"):
            decode_compressed(data)


def test_pixels_that_are_not_what_the_header_said_are_refused(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *args: picture(64, 48))
    with pytest.raises(InputError, match="cannot be decoded; the data is corrupt"):
        decode_compressed(PNG)


@pytest.mark.parametrize("error", [cv2.error("-215"), MemoryError("no room")])
def test_what_opencv_raises_is_an_input_error(monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(cv2, "cvtColor", fail)
    with pytest.raises(InputError, match=f"64x48 bgr8 cannot be converted \\({error}"):
        decode_image(**raw(picture(), "bgr8"))
    with pytest.raises(InputError, match=f"cannot be decoded.*{error}"):
        decode_compressed(PNG)


@given(data=st.binary(max_size=300), kind=st.sampled_from([b"", JPEG[:40], PNG[:40], JPEG[:-2], PNG[:60]]))
def test_rubbish_is_an_input_error_and_nothing_else(data, kind):
    for end in (b"", JPEG[-2:], PNG[-8:]):
        with contextlib.suppress(InputError):
            decode_compressed(kind + data + end)
