"""What prepare.py draws to be synthesised: from a seed, without end, and only by engines that are there."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import import_recipe
from tests.test_synthesis import Echo


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return import_recipe("prepare")


@pytest.mark.parametrize(
    ("name", "networks", "path", "absent"),
    [
        ("synthetic8", {}, "", ["kokoro"]),
        ("synthetic8", {"kokoro": Echo()}, "", []),
        ("synthetic10", {}, "", ["pico"]),
        ("synthetic10", {}, "here", []),
        ("synthetic3", {}, "", []),
        ("synthetic13", {}, "", ["hibari", "pico", "piper"]),
        ("synthetic13", {"hibari": Echo()}, "here", ["piper"]),
    ],
)
def test_engines_that_not_everyone_can_have_are_asked_for(
    name: str, networks: dict[str, Echo], path: str, absent: list[str],
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    program = tmp_path / "here" / "pico2wave"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / path) if path else "")
    mix = recipe.MIXES[name]
    assert recipe.absent(mix, networks) == absent
    assert set(recipe.at_hand(mix, networks).engines) == set(mix.engines) - set(absent)


def test_a_mix_none_of_whose_engines_is_there_is_left_out(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.prepare_synthetic("synthetic8", ["turn on the light"], tmp_path, 10, 1, 1)
    assert "is left out: there is no kokoro" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.jsonl"))


def test_hibari_stands_in_where_there_is_no_kokoro(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mix, echoes = recipe.MIXES["synthetic12"], {"kokoro": Echo(), "hibari": Echo()}
    assert set(recipe.at_hand(mix, echoes).engines) == {"kokoro"}
    assert set(recipe.at_hand(mix, {"hibari": Echo()}).engines) == {"hibari"}
    assert not recipe.at_hand(mix, {}).engines
    recipe.prepare_synthetic("synthetic12", ["turn on the light"], tmp_path, 3, 1, 1, {"hibari": Echo()})
    assert "is by hibari: there is no kokoro" in capsys.readouterr().out
    assert (tmp_path / "train" / "synthetic12.jsonl").exists()


def test_a_plan_is_drawn_from_its_seed_and_goes_on(recipe: ModuleType, tmp_path: Path) -> None:
    lines, networks = ["turn on the light", "what time is it"], {"piper": Echo()}
    plans = [recipe.plan(recipe.MIXES["synthetic11"], lines, tmp_path, seed, networks) for seed in (1, 1, 2)]
    first, again, other = (list(islice(plan, 200)) for plan in plans)
    assert first == again != other
    assert {request.voice.engine for request in first} == {"piper"}
    assert {0.9 <= request.voice.speed <= 1.6 for request in first} == {True}
    assert 90 < sum(request.text in lines for request in first) < 150
    assert 60 < sum(request.reduced for request in first) < 140


def test_in_what_has_sentences_around_its_numbers_an_a_is_the_article(recipe: ModuleType, tmp_path: Path) -> None:
    plan = recipe.plan(recipe.MIXES["synthetic14"], [], tmp_path, 1)
    for request in islice(plan, 500):
        if " a timer" in request.text:
            assert not request.spelt, request.text
        if request.text.endswith(" a m") and " a " not in request.text.removesuffix(" a m"):
            assert request.spelt, request.text
