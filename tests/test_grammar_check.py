"""What a command file is told about before anyone speaks."""

from __future__ import annotations

import pytest

from speechformer import grammar_check
from speechformer.grammar import Grammar
from speechformer.grammar_check import check_grammar, draw_sentences, phones
from speechformer.tokenizer import Tokenizer

FILE = """
intents:
  On: ["(turn|switch) on the {device}", "lights on"]
  Off: ["turn off the {device}", "lights (on|off)", "lights off"]
lists:
  device: {values: [fan, lamp, xylophone, fan]}
"""


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    """A tokenizer that knows the file's words, all but one."""
    return Tokenizer.train(["turn on the fan", "turn off the lamp", "switch on the lights"] * 3, 70)


def test_counts_repeats_and_shared_phrases(pieces: Tokenizer) -> None:
    check = check_grammar(Grammar.parse(FILE), pieces)
    assert check.n_sentences == 2 * 4 + 1 + 4 + 2 + 1
    assert check.intents == {"On": 2, "Off": 3}
    assert check.words == sorted("turn switch on off the lights fan lamp xylophone".split())
    assert check.shared == [("lights on", ["Off", "On"])]
    assert check.repeated == ["fan (in the list device)", "lights off"]
    assert [word for word, _ in check.odd_words] == ["xylophone"]
    assert check.whole
    assert "lights on: Off, On" in str(check)


def test_what_sounds_alike_means_something_else(pieces: Tokenizer) -> None:
    grammar = Grammar.parse(FILE)
    check = check_grammar(grammar, pieces, n_pairs=4)
    assert len(check.confusable) == 4
    assert check.confusable == sorted(check.confusable, key=lambda pair: pair[0])
    assert all(grammar.interpret(a) != grammar.interpret(b) for _, a, b in check.confusable)


def test_one_sentence_sounds_like_nothing_else(pieces: Tokenizer) -> None:
    assert check_grammar(Grammar.parse("stop", is_yaml=False), pieces).confusable == []


@pytest.mark.parametrize("program", [None, "espeak-ng"])
def test_with_and_without_a_synthesiser(program: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = grammar_check.shutil.which("espeak-ng") if program else None
    if program and not found:
        pytest.skip("espeak-ng is not installed")
    monkeypatch.setattr(grammar_check.shutil, "which", lambda _: found)
    sounds, how = phones(["turn left", "two four", "to for"])
    assert len(sounds) == 3
    assert ("espeak" in how) == bool(program)


def test_drawn_sentences_are_sentences(pieces: Tokenizer) -> None:
    text = 'intents: {Set: ["set {n} and {n:m} and {n:o} [now]"]}\nlists: {n: {range: {from: 0, to: 300}}}'
    grammar = Grammar.parse(text)
    assert grammar.n_sentences > 10**7
    sentences = draw_sentences(grammar, 20)
    assert len(set(sentences)) == 20
    assert all(grammar.interpret(sentence) for sentence in sentences)
    assert sentences == draw_sentences(grammar, 20)


def test_a_wildcard_is_shown_as_an_ellipsis(pieces: Tokenizer) -> None:
    grammar = Grammar.parse('intents: {Say: ["say {m} please"]}\nlists: {m: {wildcard: true}}')
    assert draw_sentences(grammar, 5) == ["say … please"]
    assert check_grammar(grammar, pieces).words == ["please", "say"]


def test_templates_with_wildcards_can_be_said_twice_too(pieces: Tokenizer) -> None:
    text = 'intents: {A: ["note {m}"], B: ["note {m}"]}\nlists: {m: {wildcard: true}}'
    assert check_grammar(Grammar.parse(text), pieces).shared == [("note …", ["A", "B"])]


def test_a_number_in_figures_is_the_same_as_in_words(pieces: Tokenizer) -> None:
    grammar = Grammar.parse("intents:\n  A: ['set it to 21']\n  B: ['set it to twenty (one|two)']")
    check = check_grammar(grammar, pieces)
    assert check.shared == [("set it to twenty one", ["A", "B"])]
    assert check.words == sorted("set it to twenty one two".split())


def test_open_words_are_told(pieces: Tokenizer) -> None:
    grammar = Grammar.parse("intents:\n  A: ['find {what}']\nlists:\n  what: {wildcard: true}")
    assert "1 words and any others at wildcards" in str(check_grammar(grammar, pieces))
    assert "wildcards" not in str(check_grammar(Grammar.parse("stop", is_yaml=False), pieces))
