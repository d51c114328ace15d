"""Damaged bags of every kind: nothing but typed errors, no hang, bounded memory.

The seeds decide everything: a number that fails can be run again by itself with ``survive(number)``.
"""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import struct
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")

from vjepa_ac_planner.bags import mcap_file
from vjepa_ac_planner.bags.info import describe
from vjepa_ac_planner.bags.reader import Bag
from vjepa_ac_planner.bags.record import RunInfo, RunRecorder
from vjepa_ac_planner.control.mpc import Step
from vjepa_ac_planner.errors import PlannerError
from vjepa_ac_planner.types import Command, Frame, Goal, Observation, RobotState

SECONDS = 10
"""Longest that one small bag may take; a healthy one takes a hundredth of that."""
MEGABYTES = 700
"""Most that the process may grow: one chunk of 256 MiB, packed and unpacked, and room."""
INTERESTING = [0, 1, 2, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
T0 = 1_700_000_000_000_000_000


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, make_franka):
    """Small whole bags: (name, the files of one bag)."""
    make, folder = make_franka, tmp_path_factory.mktemp("seeds")
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    plain, packed = [], []
    for i in range(12):
        stamp = T0 + i * 100_000_000
        plain += [
            ("/camera", make.image(stamp, picture), stamp),
            ("/ee", make.pose(stamp), stamp + 1),
            ("/gripper", make.fingers(stamp, 0.04), stamp + 2),
        ]
        packed += [
            ("/camera/compressed", make.compressed(stamp, jpeg), stamp),
            ("/state", make.franka(stamp, (0.5, 0, 0.4)), stamp + 1),
        ]
    made = [
        make.write(folder / "mcap", plain, "mcap"),
        make.write(folder / "sqlite", plain, "sqlite3"),
        make.write(folder / "franka_mcap", packed, "mcap"),
        make.write(folder / "franka_sqlite", packed, "sqlite3"),
        make.write(folder / "chunks", packed, "mcap", "STORAGE"),
        make.write(folder / "messages", plain, "sqlite3", "MESSAGE"),
        make.write(folder / "files", plain, "mcap", "FILE"),
    ]
    seen = Observation(Frame(picture, 1.0), RobotState(np.array([0.5, 0, 0.4, 3, 0, 0, 0]), 1.0))
    goal = Goal(seen.frame)
    with RunRecorder(folder / "run" / "run.mcap", RunInfo("m", "", {}, 0, 0.25)) as recorder:
        recorder.goals([goal])
        for i in range(6):
            now = Observation(Frame(picture, 1 + i / 4), RobotState(seen.state.vector, 1 + i / 4))
            recorder.on_step(
                Step(i, now, goal, None, Command("hold", now.state.vector, 0.25), (), "x", "", {})
            )
    made.append(folder / "run")
    source = shutil.copytree(folder / "sqlite", folder / "recorder")
    database = sqlite3.connect(source / "sqlite.db3")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("UPDATE messages SET data = data WHERE id > 10")
    database.commit()
    made.append(shutil.copytree(source, folder / "log"))
    (folder / "log" / "sqlite.db3-shm").unlink()
    database.close()
    lz4 = folder / "lz4"
    lz4.mkdir()
    write_lz4(lz4 / "lz4.mcap", folder / "mcap" / "mcap.mcap")
    made.append(lz4)
    return [(path.name, {p.name: p.read_bytes() for p in sorted(path.iterdir())}) for path in made]


def write_lz4(path: Path, source: Path) -> None:
    """The same messages as another library writes them: LZ4, checksums, several chunks."""
    from mcap.reader import make_reader
    from mcap.writer import CompressionType, Writer

    with source.open("rb") as file, path.open("wb") as out:
        reader, writer = make_reader(file), Writer(out, chunk_size=2000, compression=CompressionType.LZ4)
        writer.start("ros2", "test")
        ids: dict[str, int] = {}
        for schema, channel, message in reader.iter_messages():
            if channel.topic not in ids:
                number = writer.register_schema(schema.name, schema.encoding, schema.data)
                ids[channel.topic] = writer.register_channel(channel.topic, "cdr", number)
            writer.add_message(ids[channel.topic], message.log_time, message.data, message.publish_time)
        writer.finish()


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three kinds of damage."""
    out = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        if len(out) < 16:
            break
        kind = int(rng.integers(0, 9))
        # Half of all damage goes where the structure is: the beginning and the end.
        edge = int(rng.integers(0, 3))
        span = (0, min(512, len(out))) if edge == 0 else (max(0, len(out) - 1500), len(out))
        low, high = span if edge < 2 else (0, len(out))
        at = int(rng.integers(low, high))
        if kind == 0:  # bits
            for _ in range(int(rng.integers(1, 17))):
                out[int(rng.integers(low, high))] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:  # bytes
            for _ in range(int(rng.integers(1, 9))):
                out[int(rng.integers(low, high))] = int(rng.integers(0, 256))
        elif kind == 2:  # cut
            del out[at:]
        elif kind == 3:  # a length
            form = ("<H", "<I", "<Q", ">I")[int(rng.integers(0, 4))]
            size = struct.calcsize(form)
            value = INTERESTING[int(rng.integers(0, len(INTERESTING)))] % (1 << (8 * size))
            at = min(at, len(out) - size)
            out[at : at + size] = struct.pack(form, value)
        elif kind == 4:  # a hole
            out[at : at + int(rng.integers(1, 600))] = b""
        elif kind == 5:  # zeros
            size = min(int(rng.integers(1, 600)), len(out) - at)
            out[at : at + size] = bytes(size)
        elif kind == 6:  # two pieces swapped
            size = int(rng.integers(1, max(2, len(out) // 4)))
            other = int(rng.integers(0, max(1, len(out) - size)))
            at = min(at, max(0, len(out) - size))
            one, two = bytes(out[at : at + size]), bytes(out[other : other + size])
            out[at : at + size], out[other : other + size] = two, one
        elif kind == 7:  # a piece twice
            size = int(rng.integers(1, 3000))
            out[at:at] = out[at : at + size]
        else:  # noise
            out[at:at] = rng.integers(0, 256, int(rng.integers(1, 100)), dtype=np.uint8).tobytes()
    return bytes(out)


def survive(number: int, seeds, folder: Path) -> str:
    """Read one damaged bag to its end by every way there is; what came of it."""
    rng = np.random.default_rng(number)
    name, files = seeds[number % len(seeds)]
    bag = folder / "bag"
    bag.mkdir(exist_ok=True)
    for old in bag.iterdir():
        old.unlink()
    storages = [file for file in files if file != "metadata.yaml"]
    for file, data in files.items():
        hit = file in storages or rng.uniform() < 0.15
        (bag / file).write_bytes(mutate(data, rng) if hit else data)
    path = bag if rng.uniform() < 0.5 else bag / storages[0]
    try:
        with Bag.open(path) as opened:
            total = 0
            for step in (
                lambda: sum(1 for _ in opened.samples(0.25)),
                lambda: sum(1 for _ in opened.plans()),
                lambda: len(opened.goals()),
                lambda: opened.last_frame() is not None,
                lambda: opened.frame_at(T0 / 1e9 + 0.5) is not None,
            ):
                try:
                    total += int(step())
                except PlannerError as error:
                    assert str(error)
            if number % 10 == 0:
                describe(path, 0.25)
            return "damage seen" if opened.skipped else "read" if total else "nothing of use"
    except PlannerError as error:
        assert str(error) and error.exit_code == 2, repr(error)
        return "refused"
    finally:
        del name


def peak(forget: bool = False) -> float:
    """Most memory that this process has held [MiB]; ``forget`` what it was before now.

    Not ``ru_maxrss``, which an earlier test may have raised to where this one's growth does not show.
    """
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024


def fuzz(numbers: range, seeds, folder: Path) -> Counter[str]:
    """Run many; a hang, an error without type and grown memory all fail with the number they belong to."""
    current = -1

    def hang(*_) -> None:
        raise TimeoutError(f"bag {current} takes longer than {SECONDS} s")

    before = peak(forget=True)
    old = signal.signal(signal.SIGALRM, hang)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    try:
        for current in numbers:
            signal.alarm(SECONDS)
            begin = time.perf_counter()
            try:
                outcomes[survive(current, seeds, folder)] += 1
            except Exception as error:
                raise AssertionError(
                    f"bag {current} ({seeds[current % len(seeds)][0]}): {error!r}"
                ) from error
            slowest = max(slowest, time.perf_counter() - begin)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    grown = peak() - before
    assert grown < MEGABYTES, f"memory grew by {grown:.0f} MiB"
    sys.stdout.write(
        f"{len(numbers)} bags: {dict(outcomes)}, slowest {slowest:.2f} s, memory grown by {grown:.0f} MiB\n"
    )
    return outcomes


def test_the_harness_sees_what_it_must(seeds, tmp_path, monkeypatch):
    """It would be worth nothing if it could not fail."""
    untouched = fuzz(range(len(seeds)), [(n, f) for n, f in seeds], tmp_path)
    assert sum(untouched.values()) == len(seeds)
    monkeypatch.setattr(Bag, "plans", lambda self: struct.unpack("<I", b""))
    with pytest.raises(AssertionError, match=r"bag 0 .*unpack requires"):
        fuzz(range(40), seeds, tmp_path)
    np.ones(120 << 17)  # more than what follows, and given back
    monkeypatch.setattr(Bag, "plans", lambda self: [np.ones(100 << 17)])
    monkeypatch.setitem(globals(), "MEGABYTES", 50)
    with pytest.raises(AssertionError, match="memory grew by"):
        fuzz(range(1), seeds, tmp_path)


def test_whole_bags_are_read_in_full(seeds, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "mutate", lambda data, rng: data)
    assert set(fuzz(range(4 * len(seeds)), seeds, tmp_path)) == {"read"}


def test_some_hundred_damaged_bags(seeds, tmp_path):
    outcomes = fuzz(range(600), seeds, tmp_path)
    # The damage must be of all degrees, or the harness tests one path only.
    assert min(outcomes["read"], outcomes["damage seen"], outcomes["refused"]) > 20, outcomes


def test_chunks_that_overlap_take_bounded_memory(overlapping, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "MEGABYTES", 100)
    monkeypatch.setattr(mcap_file, "_OPEN_BYTES", 32 << 20)
    overlapping(tmp_path / "x.mcap", 24, 8 << 20, "/planner/plan_record")
    seed = ("overlapping", {"x.mcap": (tmp_path / "x.mcap").read_bytes()})
    assert len(seed[1]["x.mcap"]) < 20_000
    fuzz(range(6), [seed], tmp_path)


@pytest.mark.slow
def test_ten_thousand_damaged_bags(seeds, tmp_path):
    assert sum(fuzz(range(10_000, 22_000), seeds, tmp_path).values()) == 12_000
