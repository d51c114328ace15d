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
    also where the index on time is missing. The file is opened read-only and immutable; its journal, if a
    recorder was killed, is not replayed, and rows that were not committed are not seen.

    Args:
        path: the file.
        skipped: where damaged rows are counted.

    Raises:
        BagError: not a rosbag2 database, or too damaged to list its topics.
    """

    def __init__(self, path: Path, skipped: Skipped) -> None:
        self._path, self._skipped = path, skipped
        self._budget = 0
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            skipped["write-ahead log not read (open and close the file with sqlite3 to merge it)"] += 1
        # A damaged tree of pages can send SQLite round in circles: its work is bounded by the file's size.
        self._allowance = 2000 + path.stat().st_size // 16
        try:
            uri = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
            self._db = sqlite3.connect(uri, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            raise BagError(f"{path}: cannot be opened ({error})") from error
        self._db.set_progress_handler(self._tick, _TICK)
        try:
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute("PRAGMA cell_size_check = ON")
            self._refill()
            self._list()
        except (sqlite3.Error, ValueError, TypeError, OverflowError, MemoryError) as error:
            self.close()
            raise BagError(f"{path}: is not a readable rosbag2 database ({error})") from error
        except BagError:
            self.close()
            raise

    def _tick(self) -> int:
        self._budget -= _TICK
        return int(self._budget < 0)  # anything but 0 interrupts the statement

    def _refill(self) -> None:
        self._budget = 200 * self._allowance

    def _columns(self, table: str) -> set[str]:
        return {str(row[1]) for row in self._db.execute(f"PRAGMA table_info({table})")}

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
                self._skipped["damaged topic row"] += 1
                continue
            if form != "cdr":
                self._skipped[f"topic in unknown serialization {form!r}"] += 1
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
                    self._skipped["damaged row"] += 1
                elif len(data) > MAX_MESSAGE:
                    self._skipped["message beyond 256 MiB"] += 1
                elif (message := plain(memoryview(data))) is None:
                    self._skipped["message that cannot be decompressed"] += 1
                else:
                    yield RawMessage(wanted[topic], received, message)
        except (sqlite3.Error, ValueError, TypeError, KeyError, OverflowError, MemoryError):
            # What follows cannot be reached any more: the pages are linked.
            self._skipped["database damaged: rest not read"] += 1

    def close(self) -> None:
        """Free the file; safe to call twice."""
        with suppress(sqlite3.Error):
            self._db.close()
