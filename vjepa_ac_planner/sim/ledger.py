"""The file in which the trials of an evaluation are written down, one JSON line each, as they end."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from vjepa_ac_planner.config import from_mapping
from vjepa_ac_planner.errors import ConfigError, InputError
from vjepa_ac_planner.sim.evaluate import TrialResult


class Ledger:
    """Opens a ledger, or begins one; a context manager.

    The first line holds the settings, and every other one a :class:`TrialResult`. A line is on the disk
    when :meth:`add` returns: a process that is killed loses the trial under way. A last line that was cut
    short is dropped.

    Args:
        path: the file; its folder is made.
        settings: everything that decides how trials end, ready for JSON.

    Raises:
        ConfigError: the file was made with other settings, which are listed.
        InputError: it is no ledger, is damaged, cannot be written, or another process writes it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self.results: dict[tuple[str, int], TrialResult] = {}
        """Trials that were found, by task and seed."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
        try:
            self._lock()
            self._read(json.loads(json.dumps(settings)))
        except BaseException:
            self._file.close()
            raise

    def add(self, result: TrialResult) -> None:
        """Write one trial down."""
        self.results[result.task, result.seed] = result
        self._write(asdict(result))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{self._path}: another process is writing it; wait, or choose another folder"
            ) from error

    def _read(self, settings: dict[str, Any]) -> None:
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        rest = lines.pop()  # what follows the last newline was cut short
        if rest:
            self._file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self._write({"settings": settings})
            return
        header, *trials = (self._parsed(number, line) for number, line in enumerate(lines, 1))
        self._compare(header.get("settings"), settings)
        for number, trial in enumerate(trials, 2):
            result = from_mapping(TrialResult, trial, f"{self._path}, line {number}")
            self.results[result.task, result.seed] = result

    def _parsed(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{self._path}, line {number}: is damaged ({error}); move the file away"
            ) from error
        if not isinstance(record, dict):
            raise InputError(f"{self._path}, line {number}: expected an object, received {record!r}")
        return record

    def _compare(self, found: Any, wanted: dict[str, Any]) -> None:
        if not isinstance(found, dict):
            raise InputError(f"{self._path}: is no ledger of trials; choose another folder")
        there, now = dict(_leaves(found)), dict(_leaves(wanted))
        differing = sorted(key for key in {*there, *now} if there.get(key) != now.get(key))
        if differing:
            listed = "; ".join(f"{key}: {there.get(key)} there, {now.get(key)} now" for key in differing)
            raise ConfigError(
                f"{self._path}: holds trials made with other settings ({listed}); choose another folder, "
                "or the same settings"
            )

    def _write(self, record: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror})") from error


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their dotted names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value
