"""Error rates worked by hand."""

from __future__ import annotations

import pytest

from speechformer.metrics import count_errors, score


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "substitutions", "deletions", "insertions"),
    [
        ("turn on the light", "turn on the light", 4, 0, 0, 0),
        ("turn on the light", "turn off the light", 4, 1, 0, 0),
        ("turn on the light", "turn the light", 4, 0, 1, 0),
        ("turn on the light", "turn on all the lights", 4, 1, 0, 1),
        ("stop", "", 1, 0, 1, 0),
        ("", "go on", 0, 0, 0, 2),
        (" ", "", 0, 0, 0, 0),
    ],
)
def test_words_are_counted_by_kind_of_error(
    reference: str, hypothesis: str, words: int, substitutions: int, deletions: int, insertions: int
) -> None:
    errors = count_errors(reference, hypothesis)
    assert (errors.words, errors.substitutions, errors.deletions, errors.insertions) == (
        words, substitutions, deletions, insertions,
    )  # fmt: skip
    assert errors.word_errors == substitutions + deletions + insertions


@pytest.mark.parametrize(
    ("reference", "hypothesis", "characters", "errors"),
    [("stop", "shop", 4, 1), ("go on", "goon", 5, 1), ("a", "", 1, 1), ("", "abc", 0, 3)],
)
def test_characters_are_counted_with_spaces(reference: str, hypothesis: str, characters: int, errors: int) -> None:
    counted = count_errors(reference, hypothesis)
    assert (counted.characters, counted.character_errors) == (characters, errors)


def test_rates_are_of_all_words_together() -> None:
    result = score(["a b c d e", "f", ""], ["a b c d x", "f", "g"])
    assert (result.n_utterances, result.n_words) == (3, 6)
    assert result.wer == pytest.approx(2 / 6)
    assert result.cer == pytest.approx(2 / 10)
    assert result.sentence_accuracy == pytest.approx(1 / 3)


def test_the_interval_brackets_the_rate_and_narrows_with_more_utterances() -> None:
    references, hypotheses = ["a b"] * 10, ["a b"] * 7 + ["a x"] * 3
    few, many = score(references, hypotheses), score(references * 30, hypotheses * 30)
    for result in (few, many):
        assert result.wer == pytest.approx(0.15)
        assert result.wer_low < result.wer < result.wer_high
    # 1.96 standard errors: sqrt(0.3 * 0.7 / 300) / 2 = 0.0132 on each side
    assert many.wer_high - many.wer_low == pytest.approx(2 * 1.96 * 0.01323, rel=0.15)
    assert many.wer_high - many.wer_low < (few.wer_high - few.wer_low) / 3


def test_the_interval_is_the_same_every_time() -> None:
    pairs = (["a b", "c", "d e"], ["a", "c", "d e"])
    assert score(*pairs) == score(*pairs)


def test_a_perfect_score_is_certain() -> None:
    result = score(["a", "b c"], ["a", "b c"])
    assert (result.wer, result.cer, result.wer_low, result.wer_high) == (0, 0, 0, 0)
    assert result.sentence_accuracy == 1


@pytest.mark.parametrize("texts", [([""], [""]), ([""], ["go"])])
def test_references_of_nothing_have_a_rate(texts: tuple[list[str], list[str]]) -> None:
    assert score(*texts).wer == len(texts[1][0].split())


def test_lists_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        score(["a", "b"], ["a"])
