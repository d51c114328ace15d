from __future__ import annotations

import argparse
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
