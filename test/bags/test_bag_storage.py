from __future__ import annotations

import shutil
import sqlite3
import struct
import tempfile
import tracemalloc
from types import SimpleNamespace

import pytest

pytest.importorskip("rosbags")
from rosbags.rosbag2 import Reader

from vjepa_ac_planner.bags import library, mcap_file, storage
from vjepa_ac_planner.bags.storage import Skipped, open_storage
from vjepa_ac_planner.errors import BagError

STORAGES = ("mcap", "sqlite3")


def read(path, topics=None, **limits):
    skipped = Skipped()
    storage = open_storage(path, skipped)
    try:
        found = [
            (m.topic, m.received, bytes(m.data))
            for m in storage.messages(set(storage.topics) if topics is None else topics, **limits)
        ]
        return found, storage, skipped
    finally:
        storage.close()


def reference(path):
    with Reader(path) as reader:
        return [(c.topic, t, bytes(data)) for c, t, data in reader.messages()]


@pytest.fixture(params=STORAGES)
def bag(request, make, drive, tmp_path):
    return make.write(tmp_path / "bag", drive(), request.param)


def test_messages_are_those_that_rosbags_reads(bag):
    found, storage, skipped = read(bag)
    expected = reference(bag)
    assert sorted(found) == sorted(expected) and len(found) == 375
    assert [item[1] for item in found] == sorted(item[1] for item in expected)
    assert {name: info.count for name, info in storage.topics.items()} == {
        "/camera/image_raw": 45,
        "/ee_pose": 300,
        "/franka_gripper/joint_states": 30,
    }
    assert (storage.start, storage.end) == (expected[0][1], expected[-1][1])
    assert not skipped


def test_a_bare_file_reads_like_its_folder(bag):
    (file,) = (p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    assert read(file)[0] == read(bag)[0]


def test_a_folder_without_metadata_reads_all_the_same(bag):
    expected = read(bag)[0]
    (bag / "metadata.yaml").unlink()
    assert read(bag)[0] == expected


def test_damaged_metadata_is_counted_and_read_around(bag):
    expected = read(bag)[0]
    (bag / "metadata.yaml").write_bytes(b"rosbag2: [\xff")
    found, _, skipped = read(bag)
    assert found == expected and skipped == {"damaged metadata.yaml": 1}


def test_topics_and_times_are_chosen_at_the_source(bag):
    everything = read(bag)[0]
    middle = everything[len(everything) // 2][1]
    found = read(bag, {"/ee_pose"}, start=middle, stop=middle + 500_000_000)[0]
    assert found == [
        item for item in everything if item[0] == "/ee_pose" and middle <= item[1] < middle + 500_000_000
    ]
    assert len(found) == 50


@pytest.mark.parametrize(
    ("storage", "mode"),
    [
        ("mcap", "STORAGE"),
        ("mcap", "MESSAGE"),
        ("sqlite3", "MESSAGE"),
        ("mcap", "FILE"),
        ("sqlite3", "FILE"),
    ],
)
def test_compressed_bags(make, drive, tmp_path, storage, mode):
    plain = make.write(tmp_path / "plain", drive(), storage)
    packed = make.write(tmp_path / "packed", drive(), storage, mode)
    assert read(packed)[0] == read(plain)[0]
    if mode == "FILE":
        (file,) = packed.glob("*.zstd")
        assert read(file)[0] == read(plain)[0]


def test_a_file_that_unpacks_to_more_than_the_disk_holds_is_refused(tmp_path, monkeypatch):
    zstd = library.need("zstd")
    file = tmp_path / "bomb.mcap.zstd"
    file.write_bytes(zstd.compress(bytes(16 << 20)))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    used = iter(range(100))
    usage = lambda folder: SimpleNamespace(free=storage._KEPT_FREE + (5 - next(used) << 20))  # noqa: E731
    monkeypatch.setattr(storage.shutil, "disk_usage", usage)
    with pytest.raises(BagError, match=r"bomb.mcap.zstd: unpacks to more than 6 MiB.*set TMPDIR"):
        read(file)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("storage", STORAGES)
def test_split_bags_in_one_folder_and_as_a_list(make, drive, tmp_path, storage):
    messages = drive(6.0)
    whole = read(make.write(tmp_path / "whole", messages, storage))[0]
    folder = tmp_path / "split"
    folder.mkdir()
    files = []
    for number, part in enumerate((messages[:100], messages[100:500], messages[500:])):
        piece = make.write(tmp_path / f"part{number}", part, storage)
        (file,) = (p for p in piece.iterdir() if p.suffix in (".mcap", ".db3"))
        # Numbers that sort wrongly as text: 8, 9, 10.
        files.append(folder / f"split_{number + 8}{file.suffix}")
        shutil.copy(file, files[-1])
    assert read(folder)[0] == whole
    assert read(files)[0] == whole
    found, opened, _ = read([files[2], files[0], files[1]])  # their times decide
    assert found == whole and opened.topics["/ee_pose"].count == 600


@pytest.mark.parametrize("storage", STORAGES)
def test_a_lost_part_is_counted(make, drive, tmp_path, storage):
    bag = make.write(tmp_path / "bag", drive(), storage)
    (file,) = (p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    text = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(text.replace(f"- {file.name}", f"- {file.name}\n  - lost_1.mcap"))
    (bag / "broken_2.mcap").write_bytes(b"\x89MCAP0\r\n")
    found, _, skipped = read(bag)
    assert len(found) == 375 and skipped == {"missing file lost_1.mcap": 1}
    (bag / "metadata.yaml").unlink()
    found, _, skipped = read(bag)
    assert len(found) == 375 and sum(skipped.values()) >= 1


def test_paths_in_metadata_do_not_leave_the_folder(make, drive, tmp_path):
    bag = make.write(tmp_path / "bag", drive(), "mcap")
    secret = make.write(tmp_path / "other", drive(1.0), "mcap")
    text = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(text.replace("bag.mcap", str(secret / "other.mcap")))
    with pytest.raises(BagError, match="none is there"):
        read(bag)


@pytest.mark.parametrize(("topics", "count"), [({"/small"}, 80), ({"/small", "/large"}, 120)])
def test_chunks_that_overlap_are_held_in_bounded_memory(overlapping, tmp_path, monkeypatch, topics, count):
    monkeypatch.setattr(mcap_file, "_OPEN_BYTES", 16 << 20)
    overlapping(tmp_path / "x.mcap", 40, 4 << 20)
    assert (tmp_path / "x.mcap").stat().st_size < 20_000
    opened = open_storage(tmp_path / "x.mcap", Skipped())
    tracemalloc.start()
    try:
        assert sum(1 for _ in opened.messages(topics)) == count
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()
        opened.close()


class TestCutMcap:
    """What a recorder leaves that was killed, or a disk that was full."""

    @pytest.fixture
    def file(self, make, picture, tmp_path):
        messages = [("/camera", make.image(i + 1, picture(i, 200, 200)), i + 1) for i in range(40)]
        return make.write(tmp_path / "bag", messages, "mcap") / "bag.mcap"

    def test_everything_before_the_cut_is_read(self, file):
        whole = read(file)[0]
        data = file.read_bytes()
        chunks = records(data, 6)
        assert len(chunks) >= 4
        for cut in (chunks[-1][1] - 1, chunks[-1][0] + 1000, chunks[1][0] + 9, chunks[1][1]):
            file.write_bytes(data[:cut])
            found, storage, skipped = read(file)
            complete = sum(end <= cut for _, end in chunks)
            per_chunk = len(read_chunks(data, chunks[:complete]))
            assert found == whole[:per_chunk] and 0 < per_chunk < len(whole)
            assert skipped == {"file cut short: read up to the cut": 1}
            assert storage.topics["/camera"].count == len(found)

    def test_a_lost_footer_costs_nothing(self, file):
        whole = read(file)[0]
        file.write_bytes(file.read_bytes()[:-20])
        found, _, skipped = read(file)
        assert found == whole and not skipped  # the end of the data is marked: all is there

    @pytest.mark.parametrize("indexed", [True, False])
    def test_a_damaged_chunk_costs_that_chunk_alone(self, file, indexed):
        whole = read(file)[0]
        data = bytearray(file.read_bytes())
        start, end = records(data, 6)[1]
        lost = len(read_chunks(data, [(start, end)]))
        data[start + 9 + 40 + 1 : start + 9 + 40 + 9] = struct.pack("<Q", 1 << 60)  # a record's length
        file.write_bytes(data if indexed else data[:-20])
        found, _, skipped = read(file)
        assert skipped["damaged chunk"] == 1
        assert [item for item in whole if item in found] == found and len(whole) - len(found) == lost > 0

    def test_an_index_that_lies_is_not_believed(self, file):
        whole = read(file)[0]
        data = bytearray(file.read_bytes())
        start, _ = records(data, 8)[1]
        data[start + 9 + 16 : start + 9 + 24] = struct.pack("<Q", 1 << 50)
        file.write_bytes(data)
        found, _, skipped = read(file)
        assert found == whole and skipped == {"damaged index": 1}

    def test_a_chunk_that_unpacks_to_more_than_it_says_is_not_believed(self, make, picture, tmp_path):
        messages = [("/camera", make.image(i + 1, picture(0, 200, 200)), i + 1) for i in range(10)]
        file = make.write(tmp_path / "bag", messages, "mcap", "STORAGE") / "bag.mcap"
        data = bytearray(file.read_bytes())
        start, _ = records(data, 6)[0]
        data[start + 9 + 16 : start + 9 + 24] = struct.pack("<Q", 1000)
        file.write_bytes(data)
        found, _, skipped = read(file)
        assert found == [] or skipped["damaged chunk"] == 1


def records(data, operation: int) -> list[tuple[int, int]]:
    """Where the records of one kind begin and end."""
    found, at = [], 8
    while at + 9 < len(data) - 8:
        length = struct.unpack_from("<Q", data, at + 1)[0]
        if data[at] == operation:
            found.append((at, at + 9 + length))
        at += 9 + length
    return found


def read_chunks(data, chunks) -> list[int]:
    """Where the messages in uncompressed chunks begin."""
    found = []
    for start, end in chunks:
        at = start + 9 + 40
        while at < end:
            length = struct.unpack_from("<Q", data, at + 1)[0]
            found += [at] if data[at] == 5 else []
            at += 9 + length
    return found


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"not a bag at all", "neither an MCAP"),
        (b"#ROSBAG V2.0\n....", "ROS 1 bag"),
        (b"\x89MCAP0\r\n", None),
        (b"SQLite format 3\0", "not a readable rosbag2 database"),
    ],
)
def test_files_that_are_no_bags(tmp_path, content, text):
    (tmp_path / "x.mcap").write_bytes(content)
    if text is None:
        assert read(tmp_path / "x.mcap")[0] == []
        return
    with pytest.raises(BagError, match=text):
        read(tmp_path / "x.mcap")


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(BagError, match="no such file"):
        read(tmp_path / "missing")
    with pytest.raises(BagError, match=r"neither metadata.yaml nor"):
        read(tmp_path)


def test_another_database_is_named_as_such(tmp_path):
    with sqlite3.connect(tmp_path / "x.db3") as database:
        database.execute("CREATE TABLE songs (name TEXT)")
    with pytest.raises(BagError, match="it has songs"):
        read(tmp_path / "x.db3")


def test_rows_of_the_wrong_kind_are_counted(make, drive, tmp_path):
    bag = make.write(tmp_path / "bag", drive(1.0), "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE messages SET data = 'text' WHERE id = 3")
        database.execute("UPDATE messages SET timestamp = 'then' WHERE id = 4")
    found, _, skipped = read(bag)
    assert len(found) == 123 and skipped == {"damaged row": 2}


def test_a_view_that_never_ends_is_no_table(tmp_path):
    with sqlite3.connect(tmp_path / "x.db3") as database:
        database.execute("CREATE TABLE topics (id, name, type, serialization_format)")
        database.execute(
            "CREATE VIEW messages AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) "
            "SELECT id, 1 AS topic_id, id AS timestamp, x'00' AS data FROM n"
        )
    with pytest.raises(BagError, match="without rosbag2's tables"):
        read(tmp_path / "x.db3")


def test_topics_that_changed_type_are_not_one_recording(make, picture, tmp_path):
    one = make.write(tmp_path / "one", [("/a", make.image(1, picture(0)), 1)])
    two = make.write(tmp_path / "two", [("/a", make.pose(2), 2)])
    with pytest.raises(BagError, match="not one recording"):
        read([one, two])


def test_type_names_of_the_oldest_bags(make, drive, tmp_path):
    bag = make.write(tmp_path / "bag", drive(1.0), "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
    _, storage, _ = read(bag)
    assert storage.topics["/ee_pose"].type == "geometry_msgs/msg/PoseStamped"


def test_damage_is_counted_once_however_often_it_is_read(make, drive, tmp_path):
    bag = make.write(tmp_path / "bag", drive(1.0), "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE messages SET data = 'text' WHERE id = 3")
    skipped = Skipped()
    storage = open_storage(bag, skipped)
    for _ in range(3):
        assert sum(1 for _ in storage.messages(set(storage.topics))) == 124
    assert skipped == {"damaged row": 1}
    storage.close()


def test_a_write_ahead_log_left_by_a_killed_recorder_is_read(make, drive, tmp_path):
    bag = make.write(tmp_path / "bag", drive(1.0), "sqlite3")
    database = sqlite3.connect(bag / "bag.db3")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(
        "INSERT INTO messages (topic_id, timestamp, data) SELECT 1, timestamp + 5e9, data FROM messages"
    )
    database.commit()
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("bag.db3", "bag.db3-wal"):
        shutil.copy(bag / name, killed / name)
    database.close()
    found, _, skipped = read(killed)
    assert len(found) == 250 and not skipped
