"""Configuration: frozen objects, YAML in, unknown keys refused with the valid ones listed.

A configuration class is a frozen dataclass. A number's allowed range stands beside its default
(:func:`ranged`) and is checked by ``__post_init__`` through :func:`check_ranges`, which raises
:class:`ConfigError`; the sentence under each field is its description (:func:`descriptions`).
:func:`from_mapping` builds it (and nested ones) from plain data; types are checked, nothing is coerced
silently but int -> float and list -> tuple.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import math
import textwrap
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from vjepa_ac_planner.errors import ConfigError

T = TypeVar("T")


def check_range(name: str, value: float, low: float, high: float, unit: str = "") -> None:
    """Raise ConfigError unless ``low <= value <= high`` (NaN fails)."""
    if not low <= value <= high:
        unit = f" {unit}" if unit else ""
        raise ConfigError(f"{name}: received {value}{unit}, allowed {low} .. {high}{unit}")


def ranged(default: Any = dataclasses.MISSING, *, low: float, high: float, unit: str = "") -> Any:
    """A dataclass field that holds a number (or None, or a tuple of numbers) within ``low .. high``.

    The range can be read by others, such as a parameter description; :func:`check_ranges` enforces it.
    """
    return dataclasses.field(default=default, metadata={"range": (low, high, unit)})


def check_ranges(config: Any) -> None:
    """Check every :func:`ranged` field of a dataclass instance; None is allowed where it is the type.

    Raises:
        ConfigError: a value, or one of a tuple's, lies outside its range.
    """
    for field in dataclasses.fields(config):
        bounds, value = field.metadata.get("range"), getattr(config, field.name)
        if bounds is not None and value is not None:
            for number in value if isinstance(value, tuple) else (value,):
                check_range(field.name, number, *bounds)


def descriptions(cls: type) -> dict[str, str]:
    """Field name -> the sentence that stands under it in the source, on one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[node.target.id] = " ".join(after.value.value.split())
    return found


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or its top level is not a mapping.
    """
    import yaml

    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: expected a mapping of options at the top level, received {type(data).__name__}"
        )
    return data


def from_mapping(cls: type[T], data: Mapping[str, Any], where: str = "config") -> T:
    """Build the configuration dataclass ``cls`` from plain data.

    Args:
        cls: a dataclass type; fields without default are required.
        data: option name -> value, as read from YAML.
        where: what to call this mapping in errors, usually the file name.

    Raises:
        ConfigError: unknown or missing keys (the valid ones are listed), a value of the wrong type,
            or one that the class's own range checks refuse.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected a mapping of options, received {data!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    unknown = [str(key) for key in data if key not in fields]
    if unknown:
        hint = difflib.get_close_matches(unknown[0], fields, n=1)
        maybe = f" (did you mean {hint[0]!r}?)" if hint else ""
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}{maybe}; valid: {', '.join(fields)}")
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in data]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    values = {key: _coerce(hints[key], value, f"{where}: {key}") for key, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` in it; nested mappings are merged, everything else is replaced."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            value = merged(old, value)
        result[key] = value
    return result


def to_mapping(config: Any) -> dict[str, Any]:
    """The inverse of :func:`from_mapping`: plain data, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        return str(value) if isinstance(value, Path) else value

    return plain(config)


def json_data(value: Any) -> Any:
    """Arrays, NumPy scalars, tuples and paths as JSON's own types; numbers that it lacks (NaN) as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): json_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_data(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Check ``value`` against a field's type hint; build nested configuration objects."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        problems = []
        for option in args:
            try:
                return _coerce(option, value, where)
            except ConfigError as error:
                problems.append(str(error))
        raise ConfigError(problems[0])
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where}: received {value!r}, allowed {', '.join(map(repr, args))}")
        return value
    if origin in (tuple, list):
        return _coerce_sequence(origin, args, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: expected a mapping, received {value!r}")
        return {_coerce(args[0], k, where): _coerce(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_mapping(hint, value, where)  # type: ignore[arg-type]
    if hint is type(None):
        if value is not None:
            raise ConfigError(f"{where}: expected null, received {value!r}")
        return None
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and not (hint is not bool and isinstance(value, bool))):
        return value
    raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, received {value!r}")


def _coerce_sequence(origin: type, args: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, received {value!r}")
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        if len(args) != len(value):
            raise ConfigError(f"{where}: expected {len(args)} values, received {len(value)}")
        hints: tuple[Any, ...] = args
    else:
        hints = (args[0],) * len(value)
    return origin(_coerce(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))
