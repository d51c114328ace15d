from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vjepa_ac_planner import __version__, errors
from vjepa_ac_planner.cli import doctor
from vjepa_ac_planner.cli.main import build_parser, main


def leaves(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group, as it is typed."""
    yield path
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from leaves(child, (*path, name))


COMMANDS = list(leaves(build_parser()))


def test_the_commands_that_others_rely_on_exist():
    assert {("demo",), ("plan",), ("doctor",), ("bench",), ("sim", "eval"), ("sim", "oracle")} <= set(
        COMMANDS
    )
    assert {("models", name) for name in ("list", "info", "convert", "verify")} <= set(COMMANDS)
    stages = ("collect", "encoder", "alignment", "predictor", "evaluate", "export")
    assert {("train", name) for name in stages} <= set(COMMANDS)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_explains_every_option(path, command):
    code, out, err = command(*path, "--help")
    assert code == 0 and not err
    assert out.startswith("usage: vjepa-ac")
    parser = build_parser()
    for name in path:
        choices = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices
        parser = choices[name]
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert action.help, f"{' '.join(path)}: {action.option_strings or action.dest} has no help"


def test_the_version_is_the_package_s(command):
    code, out, _ = command("--version")
    assert code == 0 and __version__ in out


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("sim",),
        ("sim", "eval", "--trials", "0"),
        ("sim", "eval", "--trials", "many"),
        ("sim", "eval", "--task", "juggle"),
        ("plan", "--image", "a.png"),
        ("demo", "--seed", "-1"),
        ("doctor", "--only", "weather"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_2(arguments, command):
    code, out, err = command(*arguments)
    assert code == 2 and not out
    assert "error: " in err and "usage: " in err


STATE = "0.5,0,0.4,3.14,0,0,0"
FILES = [
    ("sim", "eval", "--json"),
    ("sim", "oracle", "--json"),
    ("sim", "table", "none.json", "--into"),
    ("plan", "--image", "a", "--goal", "b", "--state", STATE, "--json"),
    ("bag", "info", "none", "--json"),
    ("bench", "--json"),
    ("bench", "--plot"),
    ("doctor", "--json"),
    ("models", "list", "--json"),
    ("problems", "curve", "--json"),
    ("problems", "curve", "--plot"),
    ("problems", "make", "--out"),
    ("demo", "--gif"),
]
FOLDERS = [
    ("demo", "--out"),
    ("replay", "none", "--out"),
    ("sim", "eval", "--out"),
    ("sim", "eval", "--record"),
    ("bag", "convert", "droid", "none", "--out"),
    ("train", "import", "none", "--out"),
    ("train", "collect", "--out"),
    ("train", "export", "--out"),
    ("train", "finetune", "--data", "none", "--out"),
    ("train", "realign", "--data", "none", "--out", "x", "--run"),
    ("train", "probe", "--data", "none", "--test", "none", "--out"),
]


@pytest.mark.parametrize("arguments", FILES, ids=" ".join)
@pytest.mark.parametrize("place", ["folder", "below a file", "/proc/x/y.json"])
def test_an_output_file_is_refused_before_the_work(arguments, place, command, tmp_path):
    (tmp_path / "file").write_text("")
    path = {"folder": tmp_path, "below a file": tmp_path / "file" / "x.json"}.get(place, place)
    code, out, err = command(*arguments, path)
    assert (code, out) == (2, "")
    assert f"argument {arguments[-1]}: {path}: cannot be written (" in err
    assert place != "folder" or "it is a folder, not a file" in err
    assert place != "below a file" or f"{tmp_path / 'file'} is a file, not a folder" in err
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("arguments", FOLDERS, ids=" ".join)
@pytest.mark.parametrize("place", ["file", "/proc/x"])
def test_an_output_folder_is_refused_before_the_work(arguments, place, command, tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" if place == "file" else place
    code, out, err = command(*arguments, path)
    assert (code, out) == (2, "")
    assert f"argument {arguments[-1]}: {path}: cannot be written (" in err
    assert place != "file" or "is a file, not a folder" in err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("doctor", "--only", "python"), ("models", "list")])
def test_a_full_disk_behind_standard_output_is_said(arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vjepa_ac_planner", *arguments], stdout=full, stderr=-1, text=True
        )
    assert done.returncode == 2
    assert done.stderr == "vjepa-ac: error: standard output cannot be written (No space left on device)\n"


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "vjepa_ac_planner", "doctor", "--only", "python"]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=write, stderr=-1, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


FAMILY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_an_error_of_ours_is_one_line_and_its_exit_code(kind, monkeypatch, capsys):
    def fail() -> doctor.Check:
        raise kind("the first line\n  and the second")

    monkeypatch.setitem(doctor.CHECKS, "python", fail)
    assert main(["doctor", "--only", "python"]) == kind.exit_code
    captured = capsys.readouterr()
    assert captured.err == "vjepa-ac: error: the first line and the second\n"


def test_a_defect_keeps_its_traceback(monkeypatch):
    def fail() -> doctor.Check:
        raise ZeroDivisionError

    monkeypatch.setitem(doctor.CHECKS, "python", fail)
    with pytest.raises(ZeroDivisionError):
        main(["doctor", "--only", "python"])


def test_an_interrupt_is_130(monkeypatch, capsys):
    def fail() -> doctor.Check:
        raise KeyboardInterrupt

    monkeypatch.setitem(doctor.CHECKS, "python", fail)
    assert main(["doctor", "--only", "python"]) == 130
    assert capsys.readouterr().err == "vjepa-ac: interrupted\n"
