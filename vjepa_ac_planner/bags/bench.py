"""How fast a recording is read: this reader beside ``rosbags`` and ``mcap`` on the same file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vjepa_ac_planner.bags.messages import COMPRESSED_IMAGE, Decoder
from vjepa_ac_planner.bags.reader import Bag, ResampleRules, TopicNames
from vjepa_ac_planner.errors import BagError

_ROUNDS = 3
_SECONDS = 10.0
"""Longest time for each way [s]; a way that does not get through is timed on what it read."""


def bench(
    path: str | Path,
    step_seconds: float,
    topics: TopicNames | None = None,
    rules: ResampleRules | None = None,
) -> dict[str, Any]:
    """Time several ways through the frames of a recording, by turns, with the file in the cache.

    Args:
        path: a folder or file, not compressed as a whole.
        step_seconds: the action period [s].
        topics: names that are known.
        rules: how messages become samples.

    Returns:
        ``frames``, ``topic``, ``type`` and ``rates``: frames per second by way. ``read`` ways only fetch
        the messages, ``decode`` ways make RGB of every one, ``samples`` passes over frames that no sample
        needs. ``rosbags`` and ``mcap`` are null where they cannot read the file.

    Raises:
        BagError: it cannot be read, or holds no camera.
    """
    with Bag.open(path, topics) as bag:
        topic = bag.topics.image
        if topic is None:
            raise BagError(f"{bag.name}: no camera to read")
        info = bag.infos[topic]
        decoder = Decoder(bag.infos)

        def read() -> Iterator[Any]:
            return (data for _, _, data in bag.messages([topic]))

        def decode() -> Iterator[Any]:
            return (decoder.image(topic, data) for data in read())

        ways: dict[str, Callable[[], Iterator[Any]]] = {
            "read": read,
            "read, rosbags": lambda: _rosbags(path, topic, decode=False),
            "read, mcap": lambda: _mcap(Path(path), topic),
            "decode": decode,
            "decode, rosbags": lambda: _rosbags(path, topic, decode=True),
        }
        _exhaust(read(), _SECONDS)  # into the cache
        # By turns, and the best of each: other work on the machine hits all alike.
        rates: dict[str, float | None] = dict.fromkeys(ways)
        for _ in range(_ROUNDS):
            for name, way in ways.items():
                rates[name] = max(filter(None, (rates[name], _rate(way, _SECONDS / _ROUNDS))), default=None)
        import torch  # noqa: F401 (its import is no part of reading)

        begin = time.perf_counter()
        samples = sum(1 for _ in bag.samples(step_seconds, rules))
        rates["samples"] = info.count / (time.perf_counter() - begin)
        return {
            "topic": topic,
            "type": info.type,
            "frames": info.count,
            "samples": samples,
            "rates": rates,
        }


def _rosbags(path: str | Path, topic: str, *, decode: bool) -> Iterator[Any]:
    """The same through ``rosbags`` alone; the pixels by the same functions."""
    from rosbags.rosbag2 import Reader

    from vjepa_ac_planner.bags.images import decode_compressed, decode_image
    from vjepa_ac_planner.bags.messages import standard_types

    store = standard_types()
    with Reader(path) as reader:
        wanted = [connection for connection in reader.connections if connection.topic == topic]
        for connection, _, data in reader.messages(wanted):
            if not decode:
                yield data
                continue
            message: Any = store.deserialize_cdr(data, connection.msgtype)
            if connection.msgtype == COMPRESSED_IMAGE:
                yield decode_compressed(message.data)
            else:
                yield decode_image(
                    message.encoding, message.height, message.width, message.step, message.data
                )


def _mcap(path: Path, topic: str) -> Iterator[Any]:
    """The same through the ``mcap`` library alone."""
    from mcap.reader import make_reader

    files = [path] if path.is_file() else sorted(path.glob("*.mcap"))
    if not files or any(file.suffix != ".mcap" for file in files):
        raise ValueError("not MCAP")
    for file in files:
        with file.open("rb") as stream:
            for _, _, message in make_reader(stream).iter_messages(topics=[topic]):
                yield message.data


def _rate(way: Callable[[], Iterator[Any]], seconds: float) -> float | None:
    begin = time.perf_counter()
    try:
        count = _exhaust(way(), seconds)
    except Exception:  # another library's own limits; ours has read the file
        return None
    return count / (time.perf_counter() - begin)


def _exhaust(items: Iterator[Any], seconds: float) -> int:
    end = time.perf_counter() + seconds
    count = 0
    for _ in items:
        count += 1
        if time.perf_counter() > end:
            break
    return count
