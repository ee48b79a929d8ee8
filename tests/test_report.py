"""Pages get the figures that were measured, and keep what was not."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from speechformer.grammar import Grammar
from tests.conftest import import_recipe

ROOT = Path(__file__).parents[1]
RATES = {"n_utterances": 40, "wer": 0.125, "wer_low": 0.1, "wer_high": 0.2, "cer": 0.05, "sentence_accuracy": 0.9}


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return import_recipe("report")


@pytest.fixture
def report(recipe: ModuleType, tmp_path: Path) -> Any:
    for name in ("dev synthetic", *(f"{split} {corpus}" for split, names in recipe.PARTS.items() for corpus in names)):
        (tmp_path / f"{name}.out").write_text(json.dumps(RATES))
    (tmp_path / "dev grid.out").write_text(json.dumps(RATES | {"wer": 0.925}))
    return recipe.Report(tmp_path)


def test_a_block_is_replaced_and_what_is_around_it_stays(report: Any) -> None:
    page = "before\n\n<!-- figures: test -->\n| old |\n<!-- end -->\n\nafter\n"
    filled = report.fill(page)
    assert "| an4 | 40 | 12.5 | 10.0–20.0 | 5.0 | 90.0 |" in filled
    assert "old" not in filled
    assert filled.startswith("before\n\n<!-- figures: test -->\n| corpus")
    assert filled.endswith("|\n<!-- end -->\n\nafter\n")
    assert report.fill(filled) == filled


def test_the_mean_is_of_real_corpora_alone(report: Any) -> None:
    assert any("Mean of these: 22.5 %." in line for line in report.split("dev"))


def test_a_block_whose_figures_are_missing_stays(report: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (report.folder / "test grid.out").unlink()
    for name in ("noise", "test", "people", "peers"):
        page = f"<!-- figures: {name} -->\n| old |\n<!-- end -->\n"
        assert report.fill(page) == page
        assert f"{name} stays" in capsys.readouterr().err


INSIDE = {
    "commands_n": 1052, "words_n": 1000, "accuracy": 0.978, "accuracy_interval": [0.967, 0.985],
    "accuracy_without_refusal": 0.981, "word_error_rate": 0.019,
    "right_refused": 0.003, "wrong_accepted": 0.007, "other_speech_refused": 0.998,
    "other_speech_n": 663, "calibration_error": 0.006, "right_refused_as": {"no_speech": 0.002, "unsure": 0.1},
    "other_speech_refused_as": {"no_speech": 0.025, "not_a_command": 0.8}, "no_speech_words": 0, "no_speech_n": 423,
    "no_speech_hours": 1.03, "no_speech_false_accepts_per_hour": 0.0,
    "risk_at_coverage": {"50": 0.0, "80": 0.002, "90": 0.002, "95": 0.002, "100": 0.019},
}  # fmt: skip
CALIBRATED = """speech: 4581 samples, 0.82 true, calibration error on unseen speakers 0.002
command: 3750 samples, 0.52 true, calibration error on unseen speakers 0.020
right: 1951 samples, 0.85 true, calibration error on unseen speakers 0.033
right answers: 1667, refused 0.040
no speech: 831, refused 1.000
accepted from a confidence of 0.44 on
"""


@pytest.mark.parametrize(
    ("block", "line"),
    [
        ("command sets", "| grid sentences | 97.8 | 99.8 |"),
        ("trials", "| an4 | 1,052 | 97.8 (96.7–98.5) | 98.1 | 1.9 | 0.3 | 0.7 | 99.8 (663) | 0.006 |"),
        ("trials", "82.5 / 82.5 / 82.5 / 82.5 / 82.5 / 82.5 % are called no command or no speech."),
        ("risk", "| 100 % | 1.9 | 1.9 | 1.9 | 1.9 | 1.9 | 1.9 |"),
        ("risk graph", "    line [0.0, 0.2, 0.2, 0.2, 1.9]"),
        ("noise", "| sentences read aloud | 97.8 · 1.9 | 97.8 · 1.9 | 97.8 · 1.9 | 97.8 · 1.9 |"),
        (
            "noise",
            "| digits, and strings of them, by all test speakers | 97.8 · 1.9 | 97.8 · 1.9 | 97.8 · 1.9 | 97.8 · 1.9 |",
        ),
        ("noise", "| digit strings | 97.8 · 1.9 | 97.8 · 1.9 | 97.8 · 1.9 | 97.8 · 1.9 |"),
        ("silence", "| an4 | 12.5 | 12.5 |"),
        ("rooms", "| an4 | 12.5 | 12.5 |"),
        ("rooms", "| inside a command set: grid | 1.9 | 1.9 |"),
        ("quiet", "| `home.yaml` | 423 | 1.03 | 0 | 0 |"),
        ("calibration", "| command, of what is speech | 3,750 | 52 % | 0.020 |"),
        ("calibration", "| right answers | 1,667 | 4.0 % |"),
        ("believed", "refused are of those: right answers 4.0 %, no speech 100.0 %."),
        ("draws", "| grid | 1,000 | 19 | 22.0 | 20, 21, 22, 23, 24 | 1.16 |"),
        ("draws", "| these four together | 4,000 | 76 | 88.0 | 80, 84, 88, 92, 96 | 1.16 |"),
        (
            "draws",
            "| digits, and strings of them, by all test speakers | 1,000 | 19 | 22.0 | 20, 21, 22, 23, 24 | 1.16 |",
        ),
        ("peers", "| grid | PocketSphinx | 12.2 | 43.3 | 63 |"),
        ("peers", "| digit strings | PocketSphinx | 12.2 | 43.3 | 63 |"),
    ],
)
def test_blocks_say_what_was_measured(recipe: ModuleType, report: Any, block: str, line: str) -> None:
    conditions = json.dumps(dict.fromkeys(("clean", "18 dB", "12 dB", "6 dB"), INSIDE))
    names = [f"{kind} {name}" for kind in ("commands", "noise", "room inside") for name in recipe.GRAMMARS] + [
        "noise digits"
    ]
    for name in (*names, *(f"quiet {grammar.stem}" for grammar in recipe.QUIET)):
        (report.folder / f"{name}.out").write_text(conditions)
    for seed in recipe.DRAWS:
        drawn = {"clean": INSIDE, "12 dB": INSIDE | {"word_error_rate": 0.02 + seed / 1000}}
        for name in (*recipe.TRIALS, "digits"):
            (report.folder / f"draw {seed} {name}.out").write_text(json.dumps(drawn))
    for name in recipe.PEOPLE:
        for kind in ("silence", "room"):
            (report.folder / f"{kind} {name}.out").write_text(json.dumps(RATES))
    (report.folder / "calibration.out").write_text(CALIBRATED)
    peer = {"corpus": "grid", "program": "pocketsphinx", "wer": 12.2, "sentences_right": 43.3, "times_real_time": 63.2}
    peers = [peer, peer | {"corpus": "fsdd"}]
    (report.folder / "peers.out").write_text("\n".join(map(json.dumps, peers)) + "\n")
    assert line in report.blocks[block]()


def test_every_block_of_the_pages_can_be_made(recipe: ModuleType, report: Any) -> None:
    pages = [(ROOT / page).read_text("utf-8") for page in ("README.md", recipe.RECIPE, recipe.CARD)]
    named = {
        line[len("<!-- figures: ") : -len(" -->")] for page in pages for line in page.splitlines() if "<!-- fig" in line
    }
    assert named == set(report.blocks)
    assert sum(page.count("<!-- figures: ") for page in pages) == sum(page.count("<!-- end -->") for page in pages)


def test_a_table_has_as_many_cells_everywhere(recipe: ModuleType) -> None:
    assert recipe.table(("a", ""), [(1, "x")]) == ["| a |  |", "|---|---|", "| 1 | x |"]


def test_the_digits_are_those_of_all_people_and_nothing_else(recipe: ModuleType, tmp_path: Path) -> None:
    for corpus in recipe.PEOPLE:
        with (tmp_path / f"{corpus}.jsonl").open("w") as manifest:
            for text in ("seven", "stop", "zero", "seven two", "seven of two", ""):
                row = {"audio_filepath": "x.wav", "duration": 1.0, "text": text, "speaker": "y"}
                print(json.dumps(row), file=manifest)
    digits = ["seven", "zero", "seven two"]
    assert [row["text"] for row in recipe.digit_set(tmp_path)] == digits * len(recipe.PEOPLE)


def test_every_second_sentence_that_was_read_is_a_command(recipe: ModuleType, tmp_path: Path) -> None:
    texts = [f"{first} {second}" for first in "abcd" for second in ("lamp", "door")]  # too short for slots
    for corpus, text in zip(2 * recipe.READ, texts, strict=True):
        row = {"audio_filepath": "x.wav", "duration": 1.0, "text": text, "speaker": "y"}
        with (tmp_path / f"{corpus}.jsonl").open("a") as manifest:
            print(json.dumps(row), file=manifest)
    grammar = Grammar.parse(recipe.read_set(tmp_path))
    assert [grammar.interpret(text) is not None for text in sorted(texts)] == [True, False] * 4
