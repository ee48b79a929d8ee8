"""Pages get the figures that were measured, and keep what was not."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RATES = {"n_utterances": 40, "wer": 0.125, "wer_low": 0.1, "wer_high": 0.2, "cer": 0.05, "sentence_accuracy": 0.9}


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "recipes" / "commands"))
        import report

        return report


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


def test_every_block_of_the_pages_can_be_made(recipe: ModuleType, report: Any) -> None:
    pages = [(ROOT / page).read_text("utf-8") for page in ("README.md", recipe.RECIPE, recipe.CARD)]
    named = {
        line[len("<!-- figures: ") : -len(" -->")] for page in pages for line in page.splitlines() if "<!-- fig" in line
    }
    assert named == set(report.blocks)
    assert sum(page.count("<!-- figures: ") for page in pages) == sum(page.count("<!-- end -->") for page in pages)


def test_a_table_has_as_many_cells_everywhere(recipe: ModuleType) -> None:
    assert recipe.table(("a", ""), [(1, "x")]) == ["| a |  |", "|---|---|", "| 1 | x |"]
