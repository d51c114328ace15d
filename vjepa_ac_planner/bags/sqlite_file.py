"""rosbag2's SQLite storage (``.db3``), read row by row and without trust in the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from vjepa_ac_planner.bags.storage import MAX_MESSAGE, RawMessage, Skipped, TopicInfo, plain, type_name
from vjepa_ac_planner.errors import BagError

_TICK = 10_000
"""Steps of SQLite's machine between two looks at the budget."""


class SqliteFile:
    """One ``.db3`` file; implements :class:`~vjepa_ac_planner.bags.storage.Storage`.

    Rows are read in the order in which they were written, so nothing is sorted and memory stays small
    also where the index on time is missing. The file is opened read-only. A write-ahead log that a killed
    recorder left beside it is read too; rows that were not committed are not seen.

    Args:
        path: the file.
        skipped: where damaged rows are counted.

    Raises:
        BagError: not a rosbag2 database, or too damaged to list its topics.
    """

    def __init__(self, path: Path, skipped: Skipped) -> None:
        # Named without its folder: one that was unpacked is somewhere else each time.
        self._path, self._name, self._skipped = path, path.name, skipped
        self._budget = 0
        # A damaged tree of pages can send SQLite round in circles: its work is bounded by the file's size.
        self._allowance = 2000 + path.stat().st_size // 16
        log = path.with_name(path.name + "-wal")
        logged = log.exists() and log.stat().st_size > 0
        try:
            if not (logged and self._opened("mode=ro")):
                if logged:  # damaged, or its index cannot be made in a folder that is not ours to write to
                    skipped.once("write-ahead log that cannot be read", self._name)
                self._opened("mode=ro&immutable=1", check=False)
            self._refill()
            self._list()
        except (sqlite3.Error, ValueError, TypeError, OverflowError, MemoryError) as error:
            self.close()
            raise BagError(f"{path}: is not a readable rosbag2 database ({error})") from error
        except BagError:
            self.close()
            raise

    def _opened(self, how: str, check: bool = True) -> bool:
        """Open the file; False if it was to be checked and cannot be read this way."""
        uri = f"file:{quote(str(self._path.resolve()))}?{how}"
        self._db = sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=0.5)
        self._db.set_progress_handler(self._tick, _TICK)
        self._refill()
        try:
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute("PRAGMA cell_size_check = ON")
            if check:
                self._db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.Error:
            if not check:
                raise
            self._db.close()
            return False
        return True

    def _tick(self) -> int:
        self._budget -= _TICK
        return int(self._budget < 0)  # anything but 0 interrupts the statement

    def _refill(self) -> None:
        self._budget = 200 * self._allowance

    def _list(self) -> None:
        tables = {
            str(name) for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if not {"topics", "messages"} <= tables:
            raise BagError(
                f"{self._path}: is an SQLite database without rosbag2's tables 'topics' and 'messages'; "
                f"it has {', '.join(sorted(tables)) or 'none'}"
            )
        definitions: dict[str, tuple[str, str]] = {}
        if "message_definitions" in tables:  # since schema 4 (Iron)
            rows = self._db.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            )
            definitions = {str(name): (str(kind), str(text)) for name, kind, text in rows}
        counts = dict(self._db.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
        self.topics: dict[str, TopicInfo] = {}
        self._ids: dict[int, str] = {}
        for number, name, kind, form in self._db.execute(
            "SELECT id, name, type, serialization_format FROM topics"
        ):
            if not (isinstance(number, int) and isinstance(name, str) and isinstance(kind, str)):
                self._skipped.once("damaged topic row", self._name, repr(number)[:40])
                continue
            if form != "cdr":
                self._skipped.once(f"topic in unknown serialization {form!r:.40}", number)
                continue
            encoding, text = definitions.get(kind, ("", ""))
            count = counts.get(number, 0)
            self._ids[number] = name
            before = self.topics.get(name)
            total = (count if isinstance(count, int) else 0) + (before.count if before else 0)
            self.topics[name] = TopicInfo(name, type_name(kind), total, text, encoding)
        first, last = self._db.execute("SELECT MIN(timestamp), MAX(timestamp) FROM messages").fetchone()
        self.start = first if isinstance(first, int) else None
        self.end = last if isinstance(last, int) else None
        if self.start is None or self.end is None:
            self.start = self.end = None

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[RawMessage]:
        """See :class:`~vjepa_ac_planner.bags.storage.Storage`."""
        wanted = {number: name for number, name in self._ids.items() if name in topics}
        if not wanted:
            return
        marks = ", ".join("?" * len(wanted))
        clauses, values = [f"topic_id IN ({marks})"], [*wanted]
        if start is not None:
            clauses.append("timestamp >= ?")
            values.append(max(start, -(2**63)))
        if stop is not None:
            clauses.append("timestamp < ?")
            values.append(min(stop, 2**63 - 1))
        query = f"SELECT id, topic_id, timestamp, data FROM messages WHERE {' AND '.join(clauses)}"
        last = None
        try:
            cursor = self._db.execute(query + " ORDER BY id", values)
            while True:
                self._refill()
                row = cursor.fetchone()
                if row is None:
                    return
                number, topic, received, data = row
                if last is not None and not number > last:
                    raise sqlite3.DatabaseError("rows come in circles")
                last = number
                if not isinstance(received, int) or not isinstance(data, bytes):
                    self._skipped.once("damaged row", self._name, number)
                elif len(data) > MAX_MESSAGE:
                    self._skipped.once("message beyond 256 MiB", self._name, number)
                elif (message := plain(memoryview(data))) is None:
                    self._skipped.once("message that cannot be decompressed", self._name, number)
                else:
                    yield RawMessage(wanted[topic], received, message)
        except (sqlite3.Error, ValueError, TypeError, KeyError, OverflowError, MemoryError):
            # What follows cannot be reached any more: the pages are linked.
            self._skipped.once("database damaged: rest not read", self._name)

    def close(self) -> None:
        """Free the file; safe to call twice."""
        with suppress(sqlite3.Error, AttributeError):  # also before it was opened
            self._db.close()
