"""Arguments that several commands share, and values read from the command line: images, states, choices."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vjepa_ac_planner.errors import InputError
from vjepa_ac_planner.outputs import require_file, require_folder

if TYPE_CHECKING:
    import numpy as np


DEFAULT_MODEL = "panda-sim"
INTERRUPTED = 130
"""Exit code after an interrupt from the terminal."""


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, details: str = ""
) -> argparse.ArgumentParser:
    """Add one (sub)command; ``details`` is shown under its options, examples as they stand."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=run)
    return parser


def group(commands: Any, name: str, summary: str, details: str = "") -> Any:
    """Add a command that only holds subcommands, and return where they are added."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.add_subparsers(title="commands", dest="subcommand", metavar="COMMAND", required=True)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Options that choose the world model and where it runs."""
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="NAME",
        help="a model that `vjepa-ac models list` shows, or a model folder (default: %(default)s)",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float8"),
        help="precision of the model (default: %(default)s, what suits the device; float8 needs torchao "
        "0.13 and a GPU that has it, and has no gradients)",
    )


def add_preset(parser: argparse.ArgumentParser) -> None:
    """The planner preset; the model's own unless given."""
    parser.add_argument("--preset", metavar="NAME", help="planner preset (default: the model's own)")


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Where to write the machine-readable result."""
    parser.add_argument("--json", type=output_file, metavar="FILE", help=f"write {what} to FILE as JSON")


def add_set(parser: argparse.ArgumentParser, what: str) -> None:
    """``--set OPTION=VALUE ...`` in ``args.options``, for :func:`set_options`."""
    parser.add_argument(
        "--set", dest="options", nargs="+", default=[], metavar="OPTION=VALUE", help=f"replace {what}"
    )


def set_options(words: Sequence[str]) -> dict[str, Any]:
    """What ``--set`` was given, ``cem.samples=96``, as nested options.

    Raises:
        InputError: not OPTION=VALUE, a value that is not YAML, or options within one that has a value.
    """
    import yaml

    options: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"--set: expected OPTION=VALUE, received {word!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set: {word!r} has no usable value ({error})") from error
        *folders, leaf = name.split(".")
        place = options
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise InputError(f"--set: {word!r} goes into {folder!r}, which was given a value before")
        place[leaf] = value
    return options


def at_least(low: int) -> Callable[[str], int]:
    """An integer of at least ``low``, for argparse."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a whole number, received {text!r}") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"received {value}, allowed {low} and above")
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """A number within ``low .. high``, for argparse."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, received {text!r}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"received {text}, allowed {low:g} .. {high:g}")
        return value

    return parse


def output_file(text: str) -> Path:
    """A file to write, for argparse: refused before the work, not after it."""
    try:
        return require_file(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def output_folder(text: str) -> Path:
    """A folder to write into, for argparse: refused before the work, not after it."""
    try:
        return require_folder(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def state_vector(text: str) -> np.ndarray:
    """Seven numbers ``x,y,z,rx,ry,rz,g`` as a state [7], checked by RobotState.

    Raises:
        InputError: not seven numbers, or values outside their range.
    """
    import numpy as np

    from vjepa_ac_planner.types import RobotState

    parts = text.replace(",", " ").split()
    try:
        values = [float(part) for part in parts]
    except ValueError:
        raise InputError(f'--state: expected numbers "x,y,z,rx,ry,rz,g", received {text!r}') from None
    if len(values) != 7:
        raise InputError(
            f"--state: expected 7 numbers x,y,z [m], rx,ry,rz [rad], gripper closedness 0..1; "
            f"received {len(values)} in {text!r}"
        )
    return np.array(RobotState(np.array(values)).vector)
