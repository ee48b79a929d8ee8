"""Texts that are drawn for synthesis: sentences of the ready command files."""

from __future__ import annotations

import random
from collections import Counter
from types import ModuleType

import pytest

from speechformer.tokenizer import normalise
from tests.conftest import import_recipe


@pytest.fixture(scope="module")
def texts() -> ModuleType:
    return import_recipe("texts")


@pytest.mark.parametrize("names", ["COMMAND_SETS", "DOMAIN_SETS"])
def test_drawn_commands_are_the_files_sentences(texts: ModuleType, names: str) -> None:
    draw = random.Random(1)
    sets = getattr(texts, names)
    drawn = [texts.command(draw, ["book a table for two tonight please"], sets) for _ in range(300)]
    grammars = [texts.command_set(name) for name in sets]
    assert all(any(grammar.interpret(text) for grammar in grammars) for text in drawn)
    assert all(any(grammar.interpret(text) for text in drawn) for grammar in grammars)
    assert len(set(drawn)) > 150


def test_a_wildcard_says_the_first_words_of_a_text(texts: ModuleType) -> None:
    draw = random.Random(1)
    drawn = [texts.command(draw, ["zebras sing"]) for _ in range(2000)]
    wild = [text for text in drawn if "zebras" in text]
    assert wild
    assert all(text.count("zebras") == 1 for text in wild)
    assert {text.partition("zebras")[2].split()[:1] == ["sing"] for text in wild} == {True, False}


def test_the_same_draw_gives_the_same_command(texts: ModuleType) -> None:
    one, other = ([texts.command(draw, ["hello"]) for _ in range(20)] for draw in (random.Random(2), random.Random(2)))
    assert one == other


@pytest.mark.parametrize("kind", ["timer", "alarm", "sum_of", "conversion"])
def test_what_has_numbers_is_drawn_as_it_is_said(texts: ModuleType, kind: str) -> None:
    draw = random.Random(1)
    drawn = [getattr(texts, kind)(draw) for _ in range(2000)]
    assert all(text == normalise(text) for text in drawn)  # one space between words, no digits
    assert max(len(text.split()) for text in drawn) <= 34
    assert len(set(drawn)) > 1500


def test_a_measure_is_never_asked_for_in_its_own_unit(texts: ModuleType) -> None:
    draw = random.Random(1)
    for text in (texts.conversion(draw) for _ in range(2000)):
        units = [unit for measure in texts.MEASURES for unit in measure.split() if unit in text.split()]
        assert len(set(units)) == 2, text


def test_a_longest_unit_comes_first_and_one_is_singular(texts: ModuleType) -> None:
    draw = random.Random(1)
    for text in (texts.duration(draw) for _ in range(2000)):
        places = [text.find(unit) for unit in ("hour", "minute", "second") if unit in text]
        assert places == sorted(places), text
        assert " one hours" not in f" {text}", text


def test_fillers_are_said_before_the_last_word_and_not_written(texts: ModuleType) -> None:
    draw, text = random.Random(1), "set a timer for ten minutes"
    said = {texts.hesitant(draw, text) for _ in range(200)}
    assert len(said) > 30
    assert all(sum(word in texts.FILLERS for word in one.split()) in (1, 2) for one in said)
    assert {texts.fluent(one) for one in said} == {text}
    assert all(one.endswith(" minutes") for one in said)


LINES = ["show the files", "show the lights", "show every file", "hide the files", "show teh lights", "show lights"]


def test_texts_are_chosen_until_their_words_are_heard_often_enough(texts: ModuleType) -> None:
    chosen = texts.seldom_heard(LINES, Counter({"show": 9, "the": 9}), least=2)
    said = Counter(word for line in chosen for word in line.split())
    assert said["files"] == said["lights"] == 2
    assert len(set(chosen)) == len(chosen)


def test_words_heard_often_or_found_in_one_text_alone_choose_nothing(texts: ModuleType) -> None:
    heard = Counter({"show": 9, "the": 9, "files": 2, "lights": 2})
    assert texts.seldom_heard(LINES, heard, least=2) == []
    assert heard == {"show": 9, "the": 9, "files": 2, "lights": 2}
