"""What the command line writes: plain lines, aligned tables, and JSON files that are never half-written."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from vjepa_ac_planner.config import json_data
from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.outputs import make_folder, require_file

READER_GONE = 141
"""Exit code when the reader of standard output has gone: what shells give for SIGPIPE."""
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """Wrap ``text`` in a terminal style where ``stream`` is a terminal and NO_COLOR is unset."""
    stream = sys.stdout if stream is None else stream
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def say(text: str = "") -> None:
    """Write one line to standard output at once, so that piped progress is seen as it happens.

    Raises:
        InputError: it cannot be written, as on a full disk.
        SystemExit: who read it has gone, as `head` does.
    """
    with _standard_output():
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def flush() -> None:
    """Write what others than :func:`say` have left for standard output; it raises the same."""
    with _standard_output():
        sys.stdout.flush()


@contextmanager
def _standard_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # What is still buffered would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(READER_GONE) from error
        raise InputError(f"standard output cannot be written ({error.strerror})") from error


def complain(text: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None, indent: str = "  ") -> str:
    """Columns aligned to their widest cell; on a terminal the last column is wrapped to its width."""
    cells = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = []
    for number, row in enumerate(cells):
        start = indent + "".join(
            f"{cell:<{width}}  " for cell, width in zip(row[:-1], widths, strict=False)
        )
        room = shutil.get_terminal_size().columns - len(start) if sys.stdout.isatty() else 0
        last = textwrap.wrap(row[-1], room) if room > 20 else [row[-1]]
        line = start + ("\n" + " " * len(start)).join(last)
        lines.append(styled(line.rstrip(), "dim") if header and number == 0 else line.rstrip())
    return "\n".join(lines)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it over ``path`` when the block succeeds.

    Raises:
        InputError: the folder cannot be made or written into, or ``path`` is itself a folder.
    """
    path = require_file(path)
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        try:
            # mkstemp makes private files; a report is as open as any other
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, record: Any) -> None:
    """Write ``record`` as JSON; numbers that JSON does not know (NaN, infinity) become null."""
    text = json.dumps(json_data(record), indent=2, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
