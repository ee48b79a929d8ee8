"""Scripts of the recipe refuse what cannot be with one sentence and a status."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import import_recipe


@pytest.mark.parametrize(
    ("script", "arguments", "why"),
    [
        ("prepare", ("--out", "out", "--synthetic9", "-1"), "'-1' is no whole number from 0 on"),
        ("prepare", ("--out", "out", "--jobs", "0"), "'0' is no whole number from 1 on"),
        ("rooms", ("--rooms", "many"), "'many' is no whole number from 1 on"),
        ("splice", ("model", "--utterances", "1.5"), "'1.5' is no whole number from 1 on"),
        ("calibrate", ("model", "--share", "nan"), "nan is not more than 0 and at most 1"),
    ],
)
def test_a_wrong_number_is_named(
    script: str,
    arguments: tuple[str, ...],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [script, "--data", "data", *arguments])
    with pytest.raises(SystemExit) as ended:
        import_recipe(script).main()
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


def test_what_cannot_be_done_is_one_sentence_and_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["calibrate", "commands-en", "--data", str(tmp_path)])
    assert import_recipe("calibrate").main() == 1
    assert capsys.readouterr().err.startswith(f"calibrate: {tmp_path}/train/_noise.jsonl: the manifest cannot be read")
