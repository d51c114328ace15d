"""Image messages, written and read; the rules for pixels themselves are tested in ``test/bags``."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage

from vjepa_ac_planner.bags.images import CHANNELS
from vjepa_ac_planner.bags.messages import COMPRESSED_IMAGE, IMAGE, Decoder
from vjepa_ac_planner.bags.storage import TopicInfo
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.ros.images import compress, from_rgb, to_rgb

STAMP = Time(sec=7, nanosec=5)


def picture(height=48, width=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def padded(layout="rgb8", padding=7, **fields):
    """A message whose rows are longer than their pixels, and whatever else ``fields`` say."""
    message = from_rgb(picture(), STAMP, "camera", layout)
    rows = np.pad(np.frombuffer(message.data, np.uint8).reshape(48, -1), ((0, 0), (0, padding)))
    message.step, message.data = rows.shape[1], rows.tobytes()
    for name, value in fields.items():
        setattr(message, name, value)
    return message


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
def test_rgb8_is_not_copied(padding):
    message = padded(padding=padding)
    shown = to_rgb(message)
    np.testing.assert_array_equal(shown, picture())
    assert np.shares_memory(shown, np.frombuffer(message.data, np.uint8))


def test_any_object_with_the_fields_does():
    plain = SimpleNamespace(height=48, width=64, step=192, encoding="rgb8", data=picture().tobytes())
    np.testing.assert_array_equal(to_rgb(plain), picture())


def test_files_carry_stamp_frame_and_kind():
    for kind in ("jpeg", "png"):
        message = compress(picture(), STAMP, "camera", kind)
        assert (message.header.stamp, message.header.frame_id, message.format) == (STAMP, "camera", kind)
    np.testing.assert_array_equal(to_rgb(message), picture())


@pytest.mark.parametrize("rgb", [picture().astype(float), picture()[:, :, 0], picture()[:, :, :2], [[1]]])
def test_only_rgb_is_written(rgb):
    for write in (from_rgb, compress):
        with pytest.raises(InputError, match=r"expected uint8 \[H, W, 3\] RGB, received"):
            write(rgb, STAMP, "")


def test_nothing_is_written_that_could_not_be_read():
    with pytest.raises(InputError, match="received encoding '8UC3', allowed rgb8"):
        from_rgb(picture(), STAMP, "", "8UC3")
    with pytest.raises(InputError, match="received kind 'gif', allowed jpeg, png"):
        compress(picture(), STAMP, "", "gif")
    with pytest.raises(InputError, match="received 64x0 pixels"):
        from_rgb(picture()[:0], STAMP, "")


def outcome(read, *arguments):
    """Pixels as a nested list, or the text of the refusal."""
    try:
        return read(*arguments).tolist()
    except InputError as error:
        return str(error)


@pytest.mark.skipif(find_spec("rosbags") is None, reason="needs the bags extra")
@pytest.mark.parametrize(
    "message",
    [
        *(padded(layout) for layout in sorted(CHANNELS)),
        padded(encoding="16UC1"),
        padded(width=100),
        padded(height=49),
        compress(picture(), STAMP, "camera", "png"),
        compress(picture(), STAMP, "camera", "jpeg"),
        CompressedImage(format="jpeg", data=bytes(compress(picture(), STAMP, "").data)[:-2]),
        CompressedImage(format="gif", data=b"GIF89a"),
    ],
)
def test_live_and_recorded_the_same_pixels_and_the_same_refusals(message):
    kind = COMPRESSED_IMAGE if isinstance(message, CompressedImage) else IMAGE
    decoder = Decoder({"camera": TopicInfo("camera", kind, 1)})
    recorded = outcome(
        lambda data: decoder.image("camera", data)[0], memoryview(serialize_message(message))
    )
    assert recorded == outcome(to_rgb, message)
