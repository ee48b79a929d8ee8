"""The imports of the package hold the order of its modules."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import speechformer

PACKAGE = Path(speechformer.__file__).parent
ORDER = (
    "errors", "files", "interrupts", "config", "audio", "metrics", "error_report", "transcript", "formats", "features",
    "frontend", "augment", "tokenizer", "lexicon", "command_file", "network", "grammar", "automaton", "grammar_check",
    "kokoro", "hibari", "piper", "synthesis", "shape", "model", "decoding", "torch_recogniser", "ctc", "beam_search",
    "rescoring", "alignment", "confidence", "model_folder", "checkpoint", "onnx_recogniser", "onnx_export", "data",
    "command_search", "transcribe", "workers", "batch", "trial", "world", "evaluation", "optimiser", "growth",
    "minimum_wer", "training", "inspect", "engine", "http_server", "wyoming_server", "serve", "cli",
)  # fmt: skip
ENTRANCES = ("__init__", "__main__")
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem not in ENTRANCES)


def imports(source: str) -> set[str]:
    """Return the dotted names that a source imports, at the top or within a function."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["speechformer" if node.level else "", node.module]))
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def imported_modules(module: str) -> set[str]:
    parts = (name.split(".") for name in imports((PACKAGE / f"{module}.py").read_text("utf-8")))
    return {part[1] for part in parts if part[0] == "speechformer" and len(part) > 1} & {*MODULES, *ENTRANCES}


def at_the_top(module: str) -> set[str]:
    """Return what a module imports when it is imported itself."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text("utf-8"))
    statements = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return imports("\n".join(map(ast.unparse, statements)))


def imported_packages(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports((PACKAGE / f"{module}.py").read_text("utf-8"))}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_above_it(module: str) -> None:
    assert module in ORDER, "give the new module its place in the order"
    assert imported_modules(module) <= set(ORDER[: ORDER.index(module)])


def test_nothing_imports_a_recipe_and_only_the_command_that_opens_the_app_imports_the_app() -> None:
    modules = [*MODULES, *(name for name in ENTRANCES if (PACKAGE / f"{name}.py").exists())]
    outer = {"app", "recipes", "gradio", "tests"}
    found = {(module, name) for module in modules for name in imported_packages(module) & outer}
    assert found <= {("cli", "app")}
    assert not [name for name in at_the_top("cli") if name.split(".")[0] == "app"]


def test_the_model_knows_tensors_only() -> None:
    assert imported_packages("model") <= {
        "__future__",
        "copy",
        "math",
        "dataclasses",
        "typing",
        "torch",
        "speechformer",
    }
    assert imported_modules("model") == {"shape"}


def test_only_audio_reads_and_resamples_sound() -> None:
    assert [module for module in MODULES if imported_packages(module) & {"soundfile", "soxr"}] == ["audio"]


def test_no_module_unpickles() -> None:
    loads = [
        line for path in PACKAGE.glob("*.py") for line in path.read_text("utf-8").splitlines() if "torch.load(" in line
    ]
    assert all("weights_only=True" in line for line in loads)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import speechformer.audio", "speechformer.audio"),
        ("from speechformer import audio", "speechformer.audio"),
        ("from speechformer.audio import load_audio", "speechformer.audio"),
        ("from . import audio", "speechformer.audio"),
        ("from .audio import load_audio", "speechformer.audio"),
        ("def f():\n    import app.page", "app.page"),
    ],
)
def test_every_way_to_import_is_seen(source: str, expected: str) -> None:
    assert expected in imports(source)
