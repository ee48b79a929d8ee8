"""Settings are checked key by key, and a mistake is named with what was meant."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from speechformer.config import build, load_config, to_dict, write_yaml
from speechformer.errors import ConfigError
from speechformer.training import TrainConfig


@dataclass(frozen=True)
class Inner:
    """A group of settings."""

    lr: float = 1e-3
    n_steps: int = 10


@dataclass(frozen=True)
class Outer:
    """One setting of every kind."""

    inner: Inner = field(default_factory=Inner)
    path: Path = Path("data")
    name: str = "a"
    flag: bool = False
    kind: Literal["rotary", "sinusoidal"] = "rotary"
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    maybe: int | None = None


FULL = Outer(Inner(2.0, 3), Path("x/y"), "ü", True, "sinusoidal", (2.0, 3.0), (4, 5), {"a": 0.5}, 7)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, "utf-8")
    return path


def test_nothing_given_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(Outer) == Outer()
    assert load_config(Outer, written(tmp_path, "# nothing\n")) == Outer()


def test_an_override_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    path = written(tmp_path, "name: file\ninner: {lr: 0.5, n_steps: 20}\n")
    config = load_config(Outer, path, ["inner.n_steps=30", "pair=[1, 2]", "maybe=null", "weights.real=2"])
    assert config == Outer(Inner(0.5, 30), name="file", pair=(1.0, 2.0), weights={"real": 2.0})


@pytest.mark.parametrize("config", [Outer(), FULL, TrainConfig()], ids=["defaults", "full", "training"])
def test_what_is_written_is_read_back(tmp_path: Path, config: Outer | TrainConfig) -> None:
    write_yaml(config, tmp_path / "config.yaml")
    assert load_config(type(config), tmp_path / "config.yaml") == config
    assert build(type(config), to_dict(config)) == config


@pytest.mark.parametrize("text", ["inner: {lr: 3e-4}", "inner: {lr: '0.0003'}", "inner: {lr: 0.0003}"])
def test_every_way_to_write_a_number_is_a_number(tmp_path: Path, text: str) -> None:
    assert load_config(Outer, written(tmp_path, text)).inner.lr == 3e-4
    assert load_config(Outer, None, ["inner.lr=3e-4", "inner.n_steps=1e5"]).inner == Inner(3e-4, 100_000)


def test_an_integer_setting_is_an_integer() -> None:
    assert isinstance(load_config(Outer, None, ["inner.n_steps=1e3"]).inner.n_steps, int)
    assert isinstance(load_config(Outer, None, ["inner.lr=1"]).inner.lr, float)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.nsteps=3", '"inner.nsteps" is not a setting; did you mean "n_steps"'),
        ("iner.n_steps=3", 'did you mean "inner"'),
        ("zzz=3", "known keys are inner, path, name"),
        ("inner.lr=fast", "\"inner.lr\" is a number, not 'fast'"),
        ("inner.lr=true", '"inner.lr" is a number, not True'),
        ("inner.lr=null", '"inner.lr" is a number, not None'),
        ("inner.n_steps=1.5", '"inner.n_steps" is a whole number, not 1.5'),
        ("inner.n_steps=[1]", '"inner.n_steps" is a whole number'),
        ("inner=3", '"inner" is a group of settings, not 3'),
        ("flag=1", '"flag" is true or false, not 1'),
        ("kind=learnt", "\"kind\" is one of rotary, sinusoidal, not 'learnt'"),
        ("pair=3", '"pair" is a list such as'),
        ("pair=[1, 2, 3]", '"pair" has 2 values, not 3'),
        ("pair=[1, b]", r'"pair\[1\]" is a number'),
        ("weights=[1]", '"weights" is a mapping'),
        ("weights.real=often", '"weights.real" is a number'),
        ("maybe=x", '"maybe" is a whole number'),
        ("name", "an override is written key=value"),
        ("pair=[1,", "cannot be read; quote it"),
    ],
)
def test_a_wrong_setting_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, None, [override])


def test_a_value_that_stands_where_a_group_should_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='"inner" is a single value and has no "lr"'):
        load_config(Outer, written(tmp_path, "inner: 3"), ["inner.lr=1"])


@pytest.mark.parametrize(("text", "where"), [("name: a\nflag: [", "line 2"), ("- a\n- b", "key: value"), ("7", "key")])
def test_a_file_that_is_not_settings_is_named(tmp_path: Path, text: str, where: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.yaml.*{where}"):
        load_config(Outer, written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml.*check the path"):
        load_config(Outer, tmp_path / "missing.yaml")
