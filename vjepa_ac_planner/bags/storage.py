"""What every kind of recording offers to the reader, and the way to the right one for a path."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import yaml

from vjepa_ac_planner.bags.library import need
from vjepa_ac_planner.errors import BagError

SUFFIXES = (".mcap", ".db3")
COMPRESSED = (".zstd", ".zst")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAX_MESSAGE = 1 << 28
"""Largest message or chunk that is believed [bytes]; a damaged length must not take all memory."""

_KEPT_FREE = 1 << 28
"""What unpacking leaves free on the disk [bytes]: a small file may unpack to more than any disk holds."""


@dataclass(frozen=True)
class TopicInfo:
    """One topic of a recording."""

    name: str
    type: str
    """ROS name of the message type, such as ``sensor_msgs/msg/Image``."""
    count: int
    """Number of messages."""
    definition: str = ""
    """Message definition as stored in the recording; empty where there is none."""
    definition_format: str = ""
    """``ros2msg``, ``ros2idl`` or empty."""


class RawMessage(NamedTuple):
    """One message as it was stored."""

    topic: str
    received: int
    """When it was recorded [ns]."""
    data: memoryview
    """CDR, as ROS 2 sent it."""


class Storage(Protocol):
    """One recording: a file, or several that belong together."""

    topics: dict[str, TopicInfo]
    start: int | None
    """First receive time [ns]; None when there is no message."""
    end: int | None
    """Last receive time [ns]."""

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[RawMessage]:
        """Messages of these topics received in ``start <= t < stop`` [ns], in (nearly) that order."""
        ...

    def close(self) -> None:
        """Free the file; safe to call twice."""
        ...


class Skipped(Counter[str]):
    """Counts, by reason, of what could not be used."""

    _SEEN = 100_000

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[object, ...]] = set()

    def once(self, reason: str, *place: object) -> None:
        """Count damage at one place of a file once, however often it is read."""
        key = (reason, *place)
        if key not in self._seen:
            if len(self._seen) < self._SEEN:
                self._seen.add(key)
            self[reason] += 1


def open_storage(paths: str | Path | Sequence[str | Path], skipped: Skipped) -> Storage:
    """Open a recording.

    Args:
        paths: a folder (with or without metadata.yaml), a bare ``.mcap`` or ``.db3`` file, either of them
            compressed as a whole (``.zstd``), or several of these that follow one another.
        skipped: where damage that can be read around is counted.

    Raises:
        BagError: nothing there, nothing readable, or of an unknown kind.
        MissingDependencyError: the ``bags`` extra is not installed.
    """
    several = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = [file for path in several for file in _files(Path(path), skipped)]
    if not files:
        raise BagError("bag: received no path; give a folder, an .mcap file or a .db3 file")
    if len(files) == 1 and files[0].suffix not in COMPRESSED:
        return _open_file(files[0], skipped)
    return SplitStorage(files, skipped)


class SplitStorage:
    """Several files one after another; those compressed as a whole are unpacked one at a time.

    Args:
        files: in the order in which they were written.
        skipped: files that cannot be read are counted here, as long as one of them can.
    """

    def __init__(self, files: Sequence[Path], skipped: Skipped) -> None:
        self._skipped = skipped
        parts: list[tuple[int, int, Path]] = []
        self.topics: dict[str, TopicInfo] = {}
        problem: BagError | None = None
        for order, path in enumerate(files):
            try:
                with self._part(path) as part:
                    topics, start, end = part.topics, part.start, part.end
            except BagError as error:
                problem = problem or error
                skipped.once(f"unreadable file {path.name}", path)
                continue
            self._merge(topics)
            if start is not None and end is not None:
                parts.append((start, order, path))
                self.start = start if self.start is None else min(start, self.start)
                self.end = end if self.end is None else max(end, self.end)
        if not self.topics and problem is not None:
            raise problem
        self._paths = [path for _, _, path in sorted(parts)]

    start: int | None = None
    end: int | None = None

    def _merge(self, topics: dict[str, TopicInfo]) -> None:
        for name, topic in topics.items():
            known = self.topics.get(name)
            if known is None:
                self.topics[name] = topic
            elif known.type != topic.type:
                raise BagError(
                    f"{name}: is {known.type} in one file and {topic.type} in another; "
                    "these files are not one recording"
                )
            else:
                better = known if known.definition else topic
                self.topics[name] = replace(better, count=known.count + topic.count)

    @contextmanager
    def _part(self, path: Path) -> Iterator[Storage]:
        with unpacked(path) as plain:
            part = _open_file(plain, self._skipped)
            try:
                yield part
            finally:
                part.close()

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[RawMessage]:
        """See :class:`Storage`."""
        for path in self._paths:
            with self._part(path) as part:
                outside = (start is not None and part.end is not None and part.end < start) or (
                    stop is not None and part.start is not None and part.start >= stop
                )
                if not outside:
                    yield from part.messages(topics, start, stop)

    def close(self) -> None:
        """Nothing stays open between reads."""


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or, where it is compressed as a whole, a temporary plain copy of it.

    Raises:
        BagError: it is damaged, or there is no room for the copy.
    """
    if path.suffix not in COMPRESSED:
        yield path
        return
    zstd = need("zstd")
    with tempfile.TemporaryDirectory(prefix="bag-") as folder:
        plain = Path(folder) / path.stem
        try:
            with zstd.open(path, "rb") as packed, plain.open("wb") as out:
                while block := packed.read(1 << 20):
                    if shutil.disk_usage(folder).free < _KEPT_FREE:
                        raise BagError(
                            f"{path}: unpacks to more than {out.tell() >> 20} MiB, and "
                            f"{Path(folder).parent} has no room for it ({_KEPT_FREE >> 20} MiB are kept "
                            "free); set TMPDIR to a larger disk, unless the file is not what it should be"
                        )
                    out.write(block)
        except (OSError, EOFError, zstd.ZstdError) as error:
            raise BagError(f"{path}: cannot be decompressed ({error})") from error
        yield plain


def type_name(name: str) -> str:
    """ROS name of a type in full: the oldest bags left ``msg`` out, as ROS 1 does."""
    package, slash, kind = name.partition("/")
    return f"{package}/msg/{kind}" if slash and "/" not in kind else name


def plain(data: memoryview) -> memoryview | None:
    """A message, unpacked if it was compressed on its own (rosbag2's ``compression_mode: message``).

    CDR begins with a zero byte, so the two cannot be confused. None if it is damaged or beyond 256 MiB.
    """
    if data[:4] != ZSTD_MAGIC:
        return data
    zstd = need("zstd")
    decompressor = zstd.ZstdDecompressor()
    try:
        out: bytes = decompressor.decompress(data, max_length=MAX_MESSAGE)
    except (zstd.ZstdError, ValueError, EOFError, MemoryError):
        return None
    return memoryview(out) if decompressor.eof else None


def _files(path: Path, skipped: Skipped) -> list[Path]:
    """The storage files that a path stands for."""
    if not path.exists():
        raise BagError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    found = sorted((p for p in path.iterdir() if _is_storage(p)), key=_natural)
    listed = _listed(path / "metadata.yaml", skipped)
    if listed is None:
        if not found:
            raise BagError(f"{path}: holds neither metadata.yaml nor .mcap or .db3 files; is it a bag?")
        return found
    files = [path / name for name in listed]
    for file in files:
        if not file.exists():
            skipped.once(f"missing file {file.name}", file)
    there = [file for file in files if file.exists()]
    if not there:
        raise BagError(f"{path}: metadata.yaml names {', '.join(listed) or 'no file'}, none is there")
    return there


def _listed(metadata: Path, skipped: Skipped) -> list[str] | None:
    """File names in metadata.yaml; None where it is missing or damaged, and the folder must speak."""
    if not metadata.is_file():
        return None
    try:
        if metadata.stat().st_size > 1 << 26:
            raise ValueError("is larger than 64 MiB")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        data = yaml.load(metadata.read_bytes(), Loader=loader)  # noqa: S506 (both are safe loaders)
        names = data["rosbag2_bagfile_information"]["relative_file_paths"]
        # Old versions wrote paths with folders; never leave the bag's own.
        return [Path(str(name)).name for name in names]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError):
        skipped.once("damaged metadata.yaml", metadata)
        return None


def _is_storage(path: Path) -> bool:
    name = path.name
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return name.endswith(SUFFIXES) and not name.startswith(".") and path.is_file()


def _natural(path: Path) -> list[tuple[int, str]]:
    """``bag_10`` after ``bag_2``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _open_file(path: Path, skipped: Skipped) -> Storage:
    from vjepa_ac_planner.bags.mcap_file import McapFile
    from vjepa_ac_planner.bags.sqlite_file import SqliteFile

    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise BagError(f"{path}: cannot be read ({error.strerror})") from error
    if not head:
        raise BagError(f"{path}: is empty")
    # By content, not by name: a renamed file is still what it is.
    if head.startswith(b"\x89MCAP0\r\n"):
        return McapFile(path, skipped)
    if head.startswith(b"SQLite format 3"):
        return SqliteFile(path, skipped)
    if head.startswith(b"#ROSBAG V"):
        raise BagError(
            f"{path}: is a ROS 1 bag; convert it (`rosbags-convert --src {path.name} --dst OUT`)"
        )
    raise BagError(
        f"{path}: is neither an MCAP file nor an SQLite database (rosbag2); it begins with {head[:8]!r}"
    )
