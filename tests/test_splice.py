"""New sentences of people's own words: cut where it is quiet, said as fast and as uneven as sentences, joined."""

from __future__ import annotations

import random
from itertools import islice
from types import ModuleType

import numpy as np
import pytest

from speechformer.audio import SAMPLE_RATE_HZ, Waveform
from tests.conftest import import_recipe

TONE_N = np.sin(np.arange(SAMPLE_RATE_HZ // 5) / 5).astype(np.float32)  # 0.2 s


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return import_recipe("splice")


def test_words_are_cut_where_it_is_quietest_between_them(recipe: ModuleType) -> None:
    quiet_N = np.full(SAMPLE_RATE_HZ // 20, 0.001, np.float32)
    waveform_N = np.concatenate((TONE_N, quiet_N, 0.3 * TONE_N, quiet_N, TONE_N))
    first, second, third = recipe.cut(waveform_N, [(0.05, 0.15), (0.3, 0.4), (0.55, 0.65)])
    assert len(first) == pytest.approx(0.225 * SAMPLE_RATE_HZ, abs=0.03 * SAMPLE_RATE_HZ)
    assert len(first) + len(second) == pytest.approx(0.475 * SAMPLE_RATE_HZ, abs=0.03 * SAMPLE_RATE_HZ)
    assert len(first) + len(second) + len(third) == len(waveform_N)


def test_joined_words_do_not_click(recipe: ModuleType) -> None:
    words = [recipe.SpokenWord(str(i), "a", level * TONE_N) for i, level in enumerate((0.3, 0.9, 0.1))]
    joined_N: Waveform = recipe.join(words, random.Random(1))
    assert len(joined_N) >= 3 * len(TONE_N) - 2 * recipe.FADE_S[1] * SAMPLE_RATE_HZ
    assert np.abs(np.diff(joined_N)).max() < 1.1 * 0.9 * np.abs(np.diff(TONE_N)).max() + 1 / (
        recipe.FADE_S[0] * SAMPLE_RATE_HZ
    )


def test_single_words_become_a_fluent_sentence(recipe: ModuleType) -> None:
    slow_N = np.resize(TONE_N, SAMPLE_RATE_HZ)  # 1 s a word
    words = [recipe.SpokenWord(word, "ann", slow_N) for word in "put it at the left now".split()]
    said = [recipe.fluent(words, random.Random(seed)) for seed in range(40)]
    lengths = np.array([[len(word.audio_N) for word in one] for one in said]) / SAMPLE_RATE_HZ
    levels = np.array([[10 * np.log10(np.mean(np.square(word.audio_N))) for word in one] for one in said])
    assert lengths.min() >= 0.49  # twice its own speed is the most
    assert (lengths <= 0.65).all()
    assert levels[:, 2].mean() < levels[:, 4].mean() - 1  # "at" lies under "left",
    assert levels[:, 5].mean() < levels[:, 0].mean() - 2  # the end under the start


def test_function_words_are_said_in_passing_and_what_is_brief_stays_as_it_is(recipe: ModuleType) -> None:
    words = [recipe.SpokenWord(word, "ann", np.resize(TONE_N, 6400)) for word in "put it at noon left now".split()]
    said = [recipe.fluent(words, random.Random(seed)) for seed in range(60)]
    lengths = np.array([[len(word.audio_N) for word in one] for one in said]) / SAMPLE_RATE_HZ
    assert lengths[:, 2].mean() < lengths[:, 4].mean() - 0.02  # "at" and "left"
    assert lengths.min() >= recipe.SHORTEST_S
    brief = [recipe.SpokenWord(word, "ann", TONE_N[:800]) for word in ("go", "to", "bed")]
    assert all(len(word.audio_N) == 800 for word in recipe.fluent(brief, random.Random(1)))
    softest = min(
        float(np.abs(word.audio_N).max()) for seed in range(200) for word in recipe.fluent(brief, random.Random(seed))
    )
    assert 10 ** (recipe.SOFTEST_DB / 20) * 0.99 <= softest < 0.5


def test_sentences_are_of_words_that_were_said_and_by_one_speaker_where_that_can_be(recipe: ModuleType) -> None:
    own = {"ann": "turn on the red light please now".split(), "bob": "go to the left".split()}
    sentences = [[recipe.SpokenWord(word, speaker, TONE_N) for word in words] for speaker, words in own.items()] * 3
    vocabulary = recipe.Vocabulary(sentences)
    lines = ["turn on the light", "open the door", "go to the left"]
    found = list(islice(recipe.splice(sentences, vocabulary, lines, 1), 60))
    said = {tuple(word.text for word in words) for words in found}
    assert ("turn", "on", "the", "light") in said
    assert not any("door" in words for words in said)
    for words in found:
        if tuple(word.text for word in words) == ("turn", "on", "the", "light"):
            assert {word.speaker for word in words} <= {"ann", "bob"}
    composed = [words for words in found if [word.text for word in words] == ["go", "to", "the", "left"]]
    assert any({word.speaker for word in words} == {"bob"} for words in composed)


def test_function_words_are_exchanged_among_themselves(recipe: ModuleType) -> None:
    own = {
        text: [recipe.SpokenWord(text, "a", TONE_N)] for text in ("at", "in", "with", *map("word{}".format, range(40)))
    }
    words = [own[text][0] for text in ("word1", "at", "word2", "in", "word3")]
    draw = random.Random(1)
    heard = [recipe.changed(words, {"a": own}, own, draw) for _ in range(300)]
    passing = [said[1].text for said in heard]
    assert set(passing) == {"at", "in", "with"}
    assert 0.5 < passing.count("at") / len(passing) < 0.8
    assert 0.2 < sum(said[2].text != "word2" for said in heard) / len(heard) < 0.4


def test_a_letter_a_does_not_stand_for_the_article(recipe: ModuleType) -> None:
    spelt = [recipe.SpokenWord(text, "ann", TONE_N, is_letter=True) for text in ("a", "b", "m", "six")]
    sentence = [recipe.SpokenWord(text, "ann", 0.5 * TONE_N) for text in ("turn", "a", "light", "at", "six")]
    sentences = [spelt, sentence] * 2
    found = islice(recipe.splice(sentences, recipe.Vocabulary(sentences), ["turn a light", "at six a m"], 1), 400)
    letters = {
        (" ".join(one.text for one in said), word.is_letter) for said in found for word in said if word.text == "a"
    }
    assert ("at six a m", True) in letters
    assert ("at six a m", False) not in letters
    assert ("turn a light", False) in letters
    assert ("turn a light", True) not in letters


def test_moves_are_put_together_where_their_words_were_said(recipe: ModuleType) -> None:
    texts = import_recipe("texts")
    draw = random.Random(1)
    spoken = sorted({word for _ in range(500) for word in texts.draw_text(draw, recipe.PASSING_KINDS).split()} - {"by"})
    words = [recipe.SpokenWord(word, "ann", TONE_N, is_letter=True) for word in spoken]
    found = list(islice(recipe.composed(recipe.Vocabulary([words]), 1), 40))
    assert len(found) == 40
    assert len({" ".join(word.text for word in one) for one in found}) > 30
    assert not any(word.text == "by" for one in found for word in one)
    assert any(len(word.audio_N) < len(TONE_N) for one in found for word in one)  # said in passing


def test_a_timer_has_an_article_and_a_move_a_letter(recipe: ModuleType) -> None:
    texts = import_recipe("texts")
    draw = random.Random(1)
    spoken = sorted({word for _ in range(2000) for word in texts.draw_text(draw, recipe.PASSING_KINDS).split()})
    letters = [recipe.SpokenWord(word, "ann", TONE_N, is_letter=True) for word in spoken]
    articles = [recipe.SpokenWord("a", "ann", TONE_N)]
    found = islice(recipe.composed(recipe.Vocabulary([letters, articles]), 1), 400)
    kinds = {(said[i + 1].text == "timer", word.is_letter) for said in found for i, word in enumerate(said[:-1])
             if word.text == "a"}  # fmt: skip
    assert (True, False) in kinds
    assert (False, True) in kinds
    assert (True, True) not in kinds


def test_nothing_is_put_together_of_words_nobody_said(recipe: ModuleType) -> None:
    assert not list(recipe.composed(recipe.Vocabulary([[recipe.SpokenWord("yes", "ann", TONE_N)]]), 1))
