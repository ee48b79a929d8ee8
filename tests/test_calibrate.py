"""What calibration makes of sentences that people read: command files with slots."""

from __future__ import annotations

import math
from dataclasses import astuple, replace
from types import ModuleType

import numpy as np
import pytest

from speechformer.confidence import N_EVIDENCE, Calibration, Evidence, Head
from speechformer.grammar import Grammar
from tests.conftest import import_recipe

SENTENCES = [f"{verb} the {colour} {thing}" for verb in ("no", "on", "lift") for colour in ("red", "blue")
             for thing in ("box", "lamp", "door", "yes", "null")]  # fmt: skip
WORDS = "apple bear cloud dance eagle forest grape hill iron jump".split()


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return import_recipe("calibrate")


def accepted(recipe: ModuleType, seed: int) -> list[bool]:
    grammar = Grammar.parse(recipe.templates(SENTENCES, WORDS, np.random.default_rng(seed)))
    return [grammar.interpret(sentence) is not None for sentence in SENTENCES]


def test_sentences_are_commands_with_slots_unless_a_word_was_taken_out(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for share, found in ((0.0, {True}), (1.0, {False})):
        monkeypatch.setattr(recipe, "MISSING", share)
        assert set(accepted(recipe, 1)) == found


def test_a_slot_takes_what_was_said_or_another_word(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "MISSING", 0.0)
    grammar = Grammar.parse(recipe.templates(["open the box"], WORDS, np.random.default_rng(3)))
    others = [f"{word} the box".split() for word in WORDS]
    others += [f"open {word} box".split() for word in WORDS] + [f"open the {word}".split() for word in WORDS]
    meanings = [grammar.interpret(" ".join(words)) for words in others]
    values = {value for meaning in meanings if meaning for value in meaning.slots.values()}
    assert 1 <= len(values) <= recipe.N_VALUES
    said = grammar.interpret("open the box")
    assert said is not None
    assert said.intent == "sentence_0"
    assert set(said.slots) == {"slot_0_0"}


def test_half_of_the_slots_can_be_left_out(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for share, found in ((0.0, {False}), (1.0, {True})):
        monkeypatch.setattr(recipe, "OPTIONAL", share)
        grammar = Grammar.parse(recipe.templates(["open the box"], WORDS, np.random.default_rng(3)))
        without = ("the box", "open box", "open the")
        assert {any(grammar.interpret(words) is not None for words in without)} == found


def test_some_sentences_lack_a_word_and_the_same_draw_gives_the_same_file(recipe: ModuleType) -> None:
    assert {True, False} == set(accepted(recipe, 5))
    assert accepted(recipe, 5) == accepted(recipe, 5)


def test_each_sentence_can_end_from_its_half_on(recipe: ModuleType) -> None:
    grammar = Grammar.parse(recipe.beginnings(["open the red door now", "stop"]), is_yaml=False)
    assert sorted(grammar.sentences()) == [
        "open the red", "open the red door", "open the red door now", "stop",
    ]  # fmt: skip


def sample(recipe: ModuleType, speech: float, is_speech: bool, is_right: bool, n_tokens: int = 1) -> object:
    """Return a sample whose only evidence is how much it is like speech, in log odds, and its length."""
    evidence = replace(Evidence(*[0.0] * N_EVIDENCE), ratio=speech, length=math.log(n_tokens + 1))
    return recipe.Sample(list(astuple(evidence)), np.zeros(1), "somebody", is_speech, is_speech, is_right)


@pytest.mark.parametrize(
    ("noise", "odds"),
    [
        (None, 0.0),  # what is more likely speech than not is enough
        (-9.0, 0.0),  # that is refused for its confidence alone
        (0.5, 1.3),  # in the middle between it, and a little, and what one of a hundred right answers has less than
        (4.0, 4.1),  # a sneeze: above it
        (9.0, 6.0),  # what is more like speech than most of speech is: no more than five of a hundred
    ],
)
@pytest.mark.parametrize("n_tokens", [2, 3])
def test_no_noise_is_accepted_unless_too_much_speech_would_be_lost(
    recipe: ModuleType, noise: float | None, odds: float, n_tokens: int
) -> None:
    certain, as_given = Head((0.0,) * N_EVIDENCE, 50.0), Head((1.0,) + (0.0,) * (N_EVIDENCE - 1), 0.0)
    calibration = Calibration(speech=as_given, command=certain, right=replace(certain, bias=40.0))
    odds_of_right = (1.0, 2.0, 3.0, 4.5, 5.0, 6.0, *[7.0] * 95)
    samples = [sample(recipe, one, True, True, n) for one in odds_of_right for n in (n_tokens, 5 - n_tokens)]
    samples.append(sample(recipe, 20.0, True, False, n_tokens))
    if noise is not None:
        samples.append(sample(recipe, noise, False, False, n_tokens))
    fitted = recipe.thresholds(replace(calibration, min_confidence=0.0), samples)
    found, other = fitted.min_speech, fitted.min_speech_longer
    if n_tokens > 2:
        found, other = other, found
    assert math.log(found / (1 - found)) == pytest.approx(odds, abs=1e-3)
    assert other == 0.5
    assert fitted.min_confidence == recipe.ENOUGH


def test_a_noise_is_judged_by_those_who_never_heard_it(recipe: ModuleType) -> None:
    draw = np.random.default_rng(2)
    nothing = list(astuple(Evidence(*[0.0] * N_EVIDENCE)))

    def sounds(speaker: str, mean: float, is_speech: bool, own: int) -> list[object]:
        sounds_KD = draw.normal(0, 0.1, (20, 42))
        sounds_KD[:, 0] += mean
        sounds_KD[:, own] += 9  # what nobody else's sound has
        return [recipe.Sample(nothing, sound_D, speaker, is_speech, is_speech, is_speech) for sound_D in sounds_KD]

    people = [sounds(f"person {i}", 1.0, True, 2 + i) for i in range(20)]
    noises = [sounds(f"noise {i}", -1.0, False, 22 + i) for i in range(19)]
    sneeze = sounds("noise 19", 1.0, False, 41)
    samples = [one for some in (*people, *noises, sneeze) for one in some]
    head, judged = recipe.with_voice(samples)
    odds = [Evidence(*one.evidence).voice for one in judged]
    n = len(samples) - len(sneeze)
    assert all((value > 0) == one.is_speech for value, one in zip(odds[:n], samples, strict=False))
    assert min(odds[n:]) > 0, "it is like a voice to whoever has not heard it"
    assert max(map(head.log_odds, (one.sound_D for one in samples[n:]))) < 0, "and not to whoever has"
    assert [one.evidence[:-1] for one in judged] == [nothing[:-1]] * len(samples)
