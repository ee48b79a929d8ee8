"""Settings: a dataclass's defaults < a YAML file < `a.b=value` on the command line, checked key by key."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from speechformer.errors import ConfigError

Config = TypeVar("Config")


def load_config(cls: type[Config], path: Path | str | None = None, overrides: Sequence[str] = ()) -> Config:
    """Build the dataclass `cls` from a YAML file and overrides such as `training.n_steps=100`.

    Raises ConfigError that names an unknown key (with the nearest known one) or a value of a wrong type.
    """
    values = _read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign:
            raise ConfigError(f"{override}: an override is written key=value, such as training.n_steps=100")
        _set(values, key.strip().split("."), _parse(value, override))
    return build(cls, values)


def build(cls: type[Config], values: dict[str, Any], where: str = "") -> Config:
    """Build the dataclass `cls` from nested plain values, converting each by its field's type."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"known keys are {', '.join(fields)}"
            raise ConfigError(f'"{where}{key}" is not a setting; {hint}')
    return cls(**{key: _convert(value, fields[key], f"{where}{key}") for key, value in values.items()})


def check_within(
    config: Any, group: str, names: str, low: float, high: float = math.inf, exclusive: bool = False
) -> None:
    """Raise ConfigError where a setting among these, or one of its numbers, is not finite or not within low…high.

    `names` are the dataclass's fields, with spaces between; one that is None is not set; `exclusive`: the ends are not
    within.
    """
    if exclusive:
        what = f"more than {low:g}" + f" and less than {high:g}" * math.isfinite(high)
    else:
        what = f"between {low:g} and {high:g}" if math.isfinite(high) else f"{low:g} or more"
    for name in names.split():
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            inside = low < number < high if exclusive else low <= number <= high
            if not (inside and math.isfinite(number)):
                raise ConfigError(f"{group}{name} is {what}, not {number}")


def check_ascending(config: Any, group: str, names: str) -> None:
    """Raise ConfigError where a setting among these is no range: a finite number and one that is not less."""
    for name in names.split():
        low, high = getattr(config, name)
        if not (low <= high and math.isfinite(low) and math.isfinite(high)):
            raise ConfigError(f"{group}{name} is a range, the lower end first, not [{low}, {high}]")


def to_dict(config: Any) -> dict[str, Any]:
    """Return the dataclass as plain values that YAML and JSON can hold."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(config))
    return plain


def write_yaml(config: Any, path: Path) -> None:
    """Write every value of the dataclass, defaults too."""
    path.write_text(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True), "utf-8")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the settings cannot be read; check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: the settings are not YAML; correct the file") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: settings are written as key: value; correct the file")
    return values


def _parse(text: str, override: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override}: the value cannot be read; quote it") from error


def _set(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for i, key in enumerate(keys[:-1]):
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f'"{".".join(keys[: i + 1])}" is a single value and has no "{keys[i + 1]}"')
        values = inner
    values[keys[-1]] = value


def _convert(value: Any, kind: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise ConfigError(f'"{where}" is a group of settings, not {value!r}')
        return build(kind, value, f"{where}.")
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None else _convert(value, inner, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f'"{where}" is one of {", ".join(map(str, args))}, not {value!r}')
        return value
    if origin is tuple:
        return _convert_tuple(value, args, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f'"{where}" is a mapping, not {value!r}')
        return {_convert(k, args[0], where): _convert(v, args[1], f"{where}.{k}") for k, v in value.items()}
    return _convert_scalar(value, kind, where)


def _convert_tuple(value: Any, args: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f'"{where}" is a list such as [a, b], not {value!r}')
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(value):
        raise ConfigError(f'"{where}" has {len(kinds)} values, not {len(value)}')
    return tuple(_convert(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(value, kinds, strict=True)))


def _convert_scalar(value: Any, kind: Any, where: str) -> Any:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    ok = isinstance(value, bool) == (kind is bool) and value is not None
    try:
        if ok and kind is int and isinstance(value, float | str):
            ok = float(value).is_integer()
            return int(float(value)) if ok else _refuse(value, words[kind], where)
        # PyYAML reads 3e-4 as text, so text that is a number is taken as one.
        return kind(value) if ok else _refuse(value, words.get(kind, str(kind)), where)
    except (TypeError, ValueError):
        return _refuse(value, words.get(kind, str(kind)), where)


def _refuse(value: Any, what: str, where: str) -> Any:
    raise ConfigError(f'"{where}" is {what}, not {value!r}')


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
