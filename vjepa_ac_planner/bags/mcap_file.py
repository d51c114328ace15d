"""MCAP files, read around damage: cut short by a kill, a chunk destroyed, an index missing.

Written here and not left to a library because a recording of a robot that went wrong is often one whose
recorder went wrong too. The readers of ``rosbags`` and ``mcap`` need an intact end of the file, or stop at
the first bad chunk; this one skips what is bad, counts it and goes on. It never believes a length beyond
the file or 256 MiB, decompresses into bounded buffers, hands out views of chunks that are mostly wanted
(copies of the rest), and passes over chunks that hold none of the wanted topics. Layout: https://mcap.dev/spec.
"""

from __future__ import annotations

import heapq
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vjepa_ac_planner.bags.library import need
from vjepa_ac_planner.bags.storage import MAX_MESSAGE, RawMessage, Skipped, TopicInfo, plain, type_name
from vjepa_ac_planner.errors import BagError

MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _CHUNK_INDEX = 2, 3, 4, 5, 6, 7, 8
_STATISTICS, _DATA_END = 0x0B, 0x0F
_HEAD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_CHUNK_HEAD = struct.Struct("<QQQI")
_OPEN_BYTES = 1 << 28
"""Chunks that overlap in time are merged while they take no more memory than this [bytes]."""


@dataclass
class _Chunk:
    """Where a chunk lies, and what is known of it without decompressing it."""

    offset: int
    """Of the content of its record."""
    length: int
    start: int
    end: int
    counts: dict[int, int] | None = field(default_factory=dict)
    """Messages by channel; None if unknown."""


@dataclass
class _Channel:
    topic: str
    schema: int
    encoding: str


class McapFile:
    """One ``.mcap`` file; implements :class:`~vjepa_ac_planner.bags.storage.Storage`.

    Args:
        path: the file.
        skipped: where damage is counted.

    Raises:
        BagError: not an MCAP file, or nothing in it can be read.
    """

    def __init__(self, path: Path, skipped: Skipped) -> None:
        # Named without its folder: one that was unpacked is somewhere else each time.
        self._path, self._name, self._skipped = path, path.name, skipped
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._channels: dict[int, _Channel] = {}
        self._chunks: list[_Chunk] = []
        self._counts: dict[int, int] = {}
        self._loose = False  # whether messages lie outside chunks
        self.start: int | None = None
        self.end: int | None = None
        try:
            self._size = path.stat().st_size
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise BagError(f"{path}: cannot be read ({error.strerror})") from error
        try:
            if not self._read_index():
                self._forget()
                self._scan()
        except OSError as error:
            self.close()
            raise BagError(f"{path}: cannot be read ({error})") from error
        except BaseException:
            self.close()
            raise
        self.topics = self._topics()

    def close(self) -> None:
        """Free the file; safe to call twice."""
        self._file.close()

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[RawMessage]:
        """See :class:`~vjepa_ac_planner.bags.storage.Storage`."""
        names = {number: c.topic for number, c in self._channels.items() if self._usable(c, topics)}
        low = -1 if start is None else start
        high = 1 << 64 if stop is None else stop
        source = self._in_file_order(names) if self._loose else self._by_time(names, low, high)
        for channel, received, data in source:
            if low <= received < high:
                message = plain(data)
                if message is None:
                    place = self._name, channel, received
                    self._skipped.once("message that cannot be decompressed", *place)
                else:
                    yield RawMessage(names[channel], received, message)

    # How the file is laid out.

    def _read_index(self) -> bool:
        """Learn the layout from the summary at the end; False if there is none that can be trusted."""
        if self._size < len(MAGIC) + 37:
            return False
        tail = self._read(self._size - 37, 37)
        if tail[-8:] != MAGIC or tail[:9] != _HEAD.pack(_FOOTER, 20):
            return False
        begin, _, crc = struct.unpack_from("<QQI", tail, 9)
        length = self._size - 37 - begin
        if begin < len(MAGIC) or not 0 <= length <= MAX_MESSAGE:
            return False
        summary = self._read(begin, length)
        if crc and zlib.crc32(tail[:25], zlib.crc32(summary)) != crc:
            self._skipped.once("damaged index", self._name)
            return False
        chunks = None
        try:
            for operation, content in _records(summary):
                if operation == _CHUNK_INDEX:
                    self._chunks.append(self._indexed(content))
                elif operation == _STATISTICS:
                    chunks = struct.unpack_from("<I", content, 22)[0]
                    messages, first, last = (
                        struct.unpack_from(f, content, at)[0]
                        for f, at in (("<Q", 0), ("<Q", 26), ("<Q", 34))
                    )
                    counts = struct.iter_unpack("<HQ", content[46:])
                    self._counts = dict(counts)
                else:
                    self._define(operation, content)
        except (BagError, struct.error, ValueError, KeyError):
            self._skipped.once("damaged index", self._name)
            return False
        # Without statistics it is not known whether messages lie outside the chunks.
        if chunks is None or chunks != len(self._chunks) or not self._channels:
            return False
        if messages and not chunks:
            self._loose = True
        if messages:
            self.start, self.end = first, last
        self._chunks.sort(key=lambda chunk: chunk.offset)
        return True

    def _indexed(self, content: memoryview) -> _Chunk:
        start, end, offset, length, size = struct.unpack_from("<QQQQI", content)
        # Which channels are inside; how many messages each has is not said.
        inside = dict.fromkeys((c for c, _ in struct.iter_unpack("<HQ", content[36 : 36 + size])), 0)
        if offset + length > self._size or length < 9 or start > end:
            raise BagError("chunk index points outside the file")
        return _Chunk(offset + 9, length - 9, start, end, inside or None)

    def _scan(self) -> None:
        """Learn the layout from the records themselves, up to where the file is cut or damaged."""
        chunk: _Chunk | None = None
        offset = len(MAGIC)
        ended = False
        while offset + 9 <= self._size:
            operation, length = _HEAD.unpack(self._read(offset, 9))
            offset += 9
            if operation == 0 or offset + length > self._size:
                break
            if operation == _MESSAGE_INDEX and chunk is not None and chunk.counts is not None:
                head = self._read(offset, min(length, 6))
                if len(head) == 6:
                    channel, size = struct.unpack("<HI", head)
                    chunk.counts[channel] = size // 16
                offset += length
                continue
            if chunk is not None:
                self._settle(chunk)
                chunk = None
            if operation in (_DATA_END, _FOOTER):
                ended = True
                break
            if operation == _CHUNK:
                head = self._read(offset, min(length, 28))
                if len(head) == 28:
                    start, end, _, _ = _CHUNK_HEAD.unpack(head)
                    chunk = _Chunk(offset, length, start, end)
                    self._chunks.append(chunk)
            elif operation == _MESSAGE and length >= _MESSAGE_HEAD.size:
                channel, _, received, _ = _MESSAGE_HEAD.unpack(self._read(offset, _MESSAGE_HEAD.size))
                self._note(channel, 1, received, received)
                self._loose = True
            elif operation in (_SCHEMA, _CHANNEL) and length <= MAX_MESSAGE:
                self._try_define(operation, memoryview(self._read(offset, length)))
            offset += length
        if chunk is not None:
            self._settle(chunk)
        if not ended:
            self._skipped.once("file cut short: read up to the cut", self._name)

    def _settle(self, chunk: _Chunk) -> None:
        """Count what is in a chunk; look inside only where its index does not tell."""
        counts = chunk.counts
        if counts and all(channel in self._channels for channel in counts):
            for channel, count in counts.items():
                self._note(channel, count, chunk.start, chunk.end)
            return
        chunk.counts = {}
        try:
            for operation, content in self._inside(chunk):
                if operation == _MESSAGE and len(content) >= _MESSAGE_HEAD.size:
                    channel, _, received, _ = _MESSAGE_HEAD.unpack_from(content)
                    chunk.counts[channel] = chunk.counts.get(channel, 0) + 1
                    self._note(channel, 1, received, received)
                else:
                    self._try_define(operation, content)
        except BagError:
            pass  # counted when it is read
        if not chunk.counts:
            chunk.counts = None

    def _note(self, channel: int, count: int, start: int, end: int) -> None:
        self._counts[channel] = self._counts.get(channel, 0) + count
        if count:
            self.start = start if self.start is None else min(start, self.start)
            self.end = end if self.end is None else max(end, self.end)

    def _forget(self) -> None:
        self._schemas, self._channels, self._chunks, self._counts = {}, {}, [], {}
        self._loose = False
        self.start = self.end = None

    def _try_define(self, operation: int, content: memoryview) -> None:
        try:
            self._define(operation, content)
        except (BagError, struct.error, ValueError):
            self._skipped.once("damaged schema or channel", self._name)

    def _define(self, operation: int, content: memoryview) -> None:
        """Take note of a schema or channel record; the first of a number holds."""
        if operation == _SCHEMA:
            (number,) = struct.unpack_from("<H", content)
            name, at = _text(content, 2)
            encoding, at = _text(content, at)
            text, _ = _text(content, at)
            self._schemas.setdefault(number, (name, encoding, text))
        elif operation == _CHANNEL:
            number, schema = struct.unpack_from("<HH", content)
            topic, at = _text(content, 4)
            encoding, _ = _text(content, at)
            self._channels.setdefault(number, _Channel(topic, schema, encoding))

    def _topics(self) -> dict[str, TopicInfo]:
        topics: dict[str, TopicInfo] = {}
        for number, channel in self._channels.items():
            name, encoding, text = self._schemas.get(channel.schema, ("", "", ""))
            if channel.encoding != "cdr":
                self._skipped.once(f"topic in unknown serialization {channel.encoding[:20]!r}", number)
                continue
            name = type_name(name)
            before = topics.get(channel.topic)
            if before is not None and before.type != name:
                self._skipped.once(f"second type on topic {channel.topic[:80]}", number)
                continue
            count = self._counts.get(number, 0) + (before.count if before else 0)
            topics[channel.topic] = TopicInfo(channel.topic, name, count, text, encoding)
        return topics

    def _usable(self, channel: _Channel, topics: Collection[str]) -> bool:
        if channel.topic not in topics or channel.encoding != "cdr":
            return False
        info = self.topics.get(channel.topic)
        return (
            info is not None and type_name(self._schemas.get(channel.schema, ("", "", ""))[0]) == info.type
        )

    # The messages themselves.

    def _by_time(self, names: dict[int, str], low: int, high: int) -> Iterator[tuple[int, int, memoryview]]:
        """Merge chunks in order of time; a chunk is opened when its first message may be next."""
        waiting = sorted(
            (
                chunk
                for chunk in self._chunks
                if chunk.end >= low
                and chunk.start < high
                and (chunk.counts is None or any(channel in names for channel in chunk.counts))
            ),
            key=lambda chunk: (chunk.start, chunk.offset),
            reverse=True,
        )
        active: list[tuple[int, int, int, list[tuple[int, int, memoryview]], int]] = []
        used = serial = 0
        while waiting or active:
            while waiting and (not active or (waiting[-1].start <= active[0][0] and used < _OPEN_BYTES)):
                chunk = waiting.pop()
                messages, size = self._sorted_messages(chunk, names)
                if messages:
                    serial += 1
                    used += size
                    heapq.heappush(active, (messages[0][1], serial, 0, messages, size))
            if not active:
                continue
            _, number, at, messages, size = active[0]
            yield messages[at]
            at += 1
            if at == len(messages):
                heapq.heappop(active)
                used -= size
            else:
                heapq.heapreplace(active, (messages[at][1], number, at, messages, size))

    def _sorted_messages(
        self, chunk: _Chunk, names: dict[int, str]
    ) -> tuple[list[tuple[int, int, memoryview]], int]:
        """The wanted messages of a chunk in order of time, and how many bytes they hold in memory."""
        messages = []
        size = whole = 0
        try:
            for operation, content in self._inside(chunk):
                if operation == _MESSAGE and len(content) >= _MESSAGE_HEAD.size:
                    channel, _, received, _ = _MESSAGE_HEAD.unpack_from(content)
                    if channel in names:
                        messages.append((channel, received, content[_MESSAGE_HEAD.size :]))
                        size += len(content)
                        whole = memoryview(content.obj).nbytes
        except BagError as error:
            known = str(error).startswith(("unknown", "chunk beyond"))
            self._skipped.once(str(error) if known else "damaged chunk", self._name, chunk.offset)
        messages.sort(key=lambda message: message[1])
        # A view keeps the whole chunk in memory: worth it only where the chunk is mostly wanted.
        if 2 * size < whole:
            return [(channel, time, memoryview(bytes(data))) for channel, time, data in messages], size
        return messages, whole

    def _in_file_order(self, names: dict[int, str]) -> Iterator[tuple[int, int, memoryview]]:
        """Walk through all records: messages outside chunks have no index that could be used."""
        offset = len(MAGIC)
        while offset + 9 <= self._size:
            operation, length = _HEAD.unpack(self._read(offset, 9))
            offset += 9
            if operation in (0, _DATA_END, _FOOTER) or offset + length > self._size:
                return
            if operation == _MESSAGE and _MESSAGE_HEAD.size <= length <= MAX_MESSAGE:
                channel, _, received, _ = _MESSAGE_HEAD.unpack(self._read(offset, _MESSAGE_HEAD.size))
                if channel in names:
                    data = self._read(offset + _MESSAGE_HEAD.size, length - _MESSAGE_HEAD.size)
                    yield channel, received, memoryview(data)
            elif operation == _CHUNK and length >= 28:
                yield from self._sorted_messages(_Chunk(offset, length, 0, 0), names)[0]
            offset += length

    def _inside(self, chunk: _Chunk) -> Iterator[tuple[int, memoryview]]:
        """The records of a chunk; BagError where it cannot be decompressed or is cut."""
        if chunk.length > MAX_MESSAGE:
            raise BagError("chunk beyond 256 MiB")
        record = memoryview(self._read(chunk.offset, chunk.length))
        try:
            _, _, size, crc = _CHUNK_HEAD.unpack_from(record)
            compression, at = _text(record, _CHUNK_HEAD.size)
            (packed,) = struct.unpack_from("<Q", record, at)
        except (struct.error, ValueError) as error:
            raise BagError("damaged chunk") from error
        at += 8
        if at + packed > len(record) or size > MAX_MESSAGE:
            raise BagError("damaged chunk")
        plain = _decompress(record[at : at + packed], compression, size)
        if len(plain) != size or (crc and zlib.crc32(plain) != crc):
            raise BagError("damaged chunk")
        yield from _records(plain)

    def _read(self, offset: int, length: int) -> bytes:
        # One call, and no shared position: several readers of one recording do not disturb each other.
        try:
            data = os.pread(self._file.fileno(), length, offset)
        except (OSError, OverflowError) as error:
            raise BagError(f"{self._path}: cannot be read at byte {offset} ({error})") from error
        if len(data) != length:
            raise BagError(f"{self._path}: ends at byte {offset + len(data)}, while it was being read")
        return data


def _records(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Records in a buffer; BagError where the last one is cut."""
    view, offset, size = memoryview(data), 0, len(data)
    while offset < size:
        if offset + 9 > size:
            raise BagError("record cut short")
        operation, length = _HEAD.unpack_from(view, offset)
        offset += 9
        if offset + length > size:
            raise BagError("record cut short")
        yield operation, view[offset : offset + length]
        offset += length


def _text(content: memoryview, offset: int) -> tuple[str, int]:
    """A string with its length before it, and where it ends."""
    (length,) = struct.unpack_from("<I", content, offset)
    end = offset + 4 + length
    if end > len(content):
        raise ValueError("text cut short")
    return str(content[offset + 4 : end], "utf-8"), end


def _decompress(data: memoryview, compression: str, size: int) -> bytes | memoryview:
    """At most ``size`` bytes of a compressed chunk, whatever its own header claims."""
    if compression == "":
        return data
    if compression not in ("lz4", "zstd"):
        raise BagError(f"unknown chunk compression {compression[:20]!r}")
    library: Any = need(compression)
    decompressor = library.LZ4FrameDecompressor() if compression == "lz4" else library.ZstdDecompressor()
    try:
        plain: bytes = decompressor.decompress(data, max_length=size)
        # A frame that is not at its end when all is out is either longer than it said or cut.
        if not decompressor.eof and decompressor.decompress(b"", max_length=1):
            raise BagError("chunk is larger than it says")
    except (RuntimeError, ValueError, EOFError, MemoryError) as error:
        raise BagError(f"chunk cannot be decompressed ({error})") from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise BagError(f"chunk cannot be decompressed ({error})") from error
        raise
    return plain
