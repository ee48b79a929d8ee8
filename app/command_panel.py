"""The panel above the recorder: which command set is listened for, and what is in it.

    ready set, file or editor ─▶ (text, name) ─▶ Grammar ─▶ Transcriber

The set is the text in the page and its file's name; no name stands for any words. Nothing of it is kept here but
what was compiled from it, so everyone who has the page open has a set of their own.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from functools import lru_cache, partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app.answer import ANNOUNCE, note
from speechformer import Transcriber
from speechformer.command_file import MAX_BYTES
from speechformer.errors import GrammarError
from speechformer.grammar import Grammar
from speechformer.grammar_check import count, draw_sentences

ANY_WORDS = ""
OWN_YAML, OWN_PHRASES = "commands.yaml", "commands.txt"
OWN = ("My own templates (YAML)", OWN_YAML), ("My own phrases, one a line", OWN_PHRASES)
YAML_SUFFIXES, SUFFIXES = (".yaml", ".yml"), (".yaml", ".yml", ".txt")
N_KEPT = 16  # compiled sets
N_EXAMPLES = 5
STARTERS = {
    OWN_YAML: """# (one|or another), [may be left out], {one of a list, which is a slot}
intents:
  Switch:
    data:
      - sentences:
          - "(turn|switch) {state} the {device} [please]"
lists:
  state: {values: ["on", "off"]}
  device: {values: [light, fan, radio]}
""",
    OWN_PHRASES: "# A phrase a line; each is a command.\nlights on\nlights off\nnext page\nstop\n",
}

FREE = "Whatever is said is written down."


@lru_cache(N_KEPT)
def compile_commands(text: str, is_yaml: bool, name: str) -> Grammar:
    """Return the grammar of a set. Raises GrammarError with line and column."""
    return Grammar.parse(text, name, is_yaml)


@lru_cache(N_KEPT)
def _listen_for(transcriber: Transcriber, grammar: Grammar) -> Transcriber:
    return transcriber.with_commands(grammar)


def listen_for(transcriber: Transcriber, text: str, name: str) -> Transcriber:
    """Return a transcriber with the same model for a set; what it has visited of the set is kept."""
    return _listen_for(transcriber, compile_commands(text, is_yaml(name), name)) if name else transcriber


def is_yaml(name: str) -> bool:
    """Tell whether a file of this name is read as YAML, and not as a phrase a line."""
    return Path(name).suffix.lower() in YAML_SUFFIXES


def explain(error: GrammarError, name: str, path: str | None = None) -> str:
    """Return a mistake as a sentence with the file's own name, not its temporary path."""
    reason = str(error).removeprefix(path or name)
    where = re.match(r":(\d+):(\d+): ", reason)
    if not where:
        return f"{name}{reason}."
    return f"{name}, line {where[1]}, column {where[2]}: {reason[where.end() :]}."


def describe(text: str, name: str) -> str:
    """Return as HTML what a set holds, with a few sentences, or its mistake."""
    if not name:
        return note(FREE, "plain")
    try:
        grammar = compile_commands(text, is_yaml(name), name)
    except GrammarError as error:
        return note(explain(error, name), "warning")
    sizes = {"sentence": grammar.n_sentences, "template": grammar.n_templates, "intent": len(grammar.intents)}
    counts = ", ".join(f"{count(n)} {what}{'s' * (n != 1)}" for what, n in sizes.items())
    examples = "".join(f"<li>{escape(sentence)}</li>" for sentence in draw_sentences(grammar, N_EXAMPLES))
    return f'<p><b>{escape(name)}</b>: {counts}</p><p class="plain">For example:</p><ul>{examples}</ul>'


@dataclass(frozen=True)
class Panel:
    """The parts of the panel that the page listens to; `text` and `name` are the set."""

    choice: gr.Dropdown
    file: gr.UploadButton
    text: gr.Code
    name: gr.Textbox


def add_panel(assets: Path, commands: Path | None) -> Panel:
    """Add the panel to a page, with the sets in `assets`/commands and one to begin with."""
    sets = _read_sets(assets / "commands")
    text, name, choice = "", ANY_WORDS, ANY_WORDS
    if commands:
        text, name = _read(commands), commands.name
        choice = name if sets.get(name) == text else _own(name)
    with gr.Row(elem_id="commands"):
        dropdown = gr.Dropdown(
            [("Any words", ANY_WORDS), *((_title(one), one) for one in sets), *OWN],
            value=choice,
            label="Listen for",
            filterable=False,
            scale=3,
            min_width=180,
            elem_id="choice",
        )
        file = gr.UploadButton(
            "Open a file", file_types=list(SUFFIXES), size="md", scale=1, min_width=140, elem_id="file"
        )
    loaded = gr.HTML(describe(text, name), elem_id="loaded", js_on_load=ANNOUNCE)
    with gr.Accordion("Edit the commands", open=False, visible=bool(name), elem_id="editor") as editor:
        code = gr.Code(
            text, language="yaml", label="Commands", lines=8, max_lines=14, interactive=True, wrap_lines=True,
            elem_id="text",
        )  # fmt: skip
    hidden = gr.Textbox(name, label="Name of the commands' file", visible="hidden", elem_id="name")
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    dropdown.input(partial(choose, sets), dropdown, [code, hidden, loaded, editor], **private)
    file.upload(open_file, file, [code, hidden, loaded, editor, dropdown], **private)
    code.input(describe, [code, hidden], loaded, trigger_mode="always_last", **private)
    return Panel(dropdown, file, code, hidden)


def choose(sets: dict[str, str], choice: str) -> tuple[str, str, str, gr.Accordion]:
    """Return text, name and description of a ready set, or a beginning of one's own, and the editor for it."""
    text = (sets | STARTERS).get(choice, "")
    editor = gr.Accordion(visible=bool(choice), open=choice in STARTERS)
    return text, choice, describe(text, choice), editor


def open_file(path: str) -> tuple[str, str, str, gr.Accordion, str]:
    """Return the same of a file, also of one with a mistake, so that it can be corrected."""
    name = Path(path).name
    try:
        text = _read(Path(path)) if Path(path).stat().st_size <= MAX_BYTES else ""
    except (OSError, UnicodeDecodeError):
        text = ""
    return text, name, describe(text, name) if text else _explain_file(path), gr.Accordion(visible=True), _own(name)


def _explain_file(path: str) -> str:
    try:
        Grammar.load(path)
    except GrammarError as error:
        return note(explain(error, Path(path).name, path), "warning")
    return ""


def _read(file: Path) -> str:
    # The editor takes off what is blank at both ends; a file that is indented as a whole must not break by that.
    return textwrap.dedent(file.read_text("utf-8-sig")).strip()


def _read_sets(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.glob("*") if file.suffix in SUFFIXES)
    return {file.name: _read(file) for file in files}


def _title(name: str) -> str:
    return Path(name).stem.replace("-", " ").replace("_", " ").capitalize()


def _own(name: str) -> str:
    return OWN_YAML if is_yaml(name) else OWN_PHRASES
