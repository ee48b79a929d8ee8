"""Word times: spans from a certain CTC head, seconds from positions, and words of real pieces."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from speechformer import Transcriber
from speechformer.alignment import (
    DOUBTFUL,
    LEAD,
    TAIL,
    Span,
    agreement,
    align,
    confidence,
    seconds,
    spoken,
    word_bounds,
    word_groups,
)
from speechformer.audio import SAMPLE_RATE_HZ, load_audio
from speechformer.shape import ModelConfig
from speechformer.tokenizer import PAD

# How much of each head's look falls on each position, for the two tokens of a word.
LOOKS_LHM = np.array([
    [[0.1, 0.8, 0.1, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]],
    [[0.0, 0.6, 0.4, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]],
], np.float32)  # fmt: skip

ASSETS = Path(__file__).parents[1] / "assets"


def certain(path: tuple[int, ...]) -> npt.NDArray[np.float32]:
    log_probs_MV = torch.full((len(path), 6), -20.0)
    log_probs_MV[range(len(path)), path] = 0.0
    return log_probs_MV.log_softmax(-1).numpy()


@pytest.mark.parametrize("seed", range(20))
def test_it_is_torchaudios_forced_alignment(seed: int) -> None:
    from torchaudio.functional import forced_align, merge_tokens

    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, 6, int(draw.integers(1, 12)))
    log_probs_MV = torch.randn(int(2 * len(tokens) + draw.integers(0, 60)), 6).mul(3).log_softmax(-1)
    path, scores = forced_align(log_probs_MV[None], torch.from_numpy(tokens)[None], blank=0)
    expected = [Span(one.start, one.end) for one in merge_tokens(path[0], scores[0], blank=0)]
    assert align(log_probs_MV.numpy(), tokens.tolist()) == expected


@pytest.mark.parametrize(
    ("path", "tokens", "spans"),
    [
        ((0, 4, 4, 0, 5, 0), (4, 5), [(1, 3), (4, 5)]),
        ((4, 0, 4, 5, 5, 5), (4, 4, 5), [(0, 1), (2, 3), (3, 6)]),
        ((5,), (5,), [(0, 1)]),
    ],
)
def test_a_certain_path_gives_its_spans(
    path: tuple[int, ...], tokens: tuple[int, ...], spans: list[tuple[int, int]]
) -> None:
    assert align(certain(path), tokens) == [Span(*span) for span in spans]


@pytest.mark.parametrize(("path", "tokens"), [((4, 5), (4, 5, 4)), ((4, 4), (4, 4)), ((0, 0), ()), ((), (4,))])
def test_what_does_not_fit_has_no_spans(path: tuple[int, ...], tokens: tuple[int, ...]) -> None:
    log_probs_MV = certain(path) if path else torch.zeros(0, 6)
    assert align(log_probs_MV, tokens) == []


def test_positions_become_seconds_in_the_middle_of_their_windows() -> None:
    config = ModelConfig(window_frames=12, stride_frames=4)
    # Position 10 sees frames 32 … 43, their middle is at 0.38 s.
    assert [seconds(one, config, 100.0, edge_s=0.0) for one in (10, 12)] == pytest.approx([0.36, 0.44])
    assert seconds(11.5, config, 100.0, edge_s=0.1) == pytest.approx(0.32)


def test_words_reach_further_than_what_is_written_of_them_but_not_into_each_other() -> None:
    spans = [Span(20, 21), Span(23, 25), Span(25, 26), Span(60, 61)]
    bounds = word_bounds(spans)
    assert bounds[0] == (20 - LEAD, pytest.approx(21 + 2 * TAIL / (LEAD + TAIL)))
    assert bounds[1] == (bounds[0][1], 25)
    assert bounds[2] == (25, 26 + TAIL)
    assert bounds[3] == (60 - LEAD, 61 + TAIL)
    for (begin, end), (near_begin, near_end), span in zip(bounds, word_bounds(spans, 0.5), spans, strict=True):
        assert near_begin == pytest.approx((begin + span.first) / 2)
        assert near_end == pytest.approx((end + span.end) / 2)
    assert word_bounds([]) == []


def test_pieces_are_grouped_into_words() -> None:
    assert word_groups(["▁turn", "▁o", "n", "▁", "the"]) == [[0], [1, 2], [3, 4]]
    assert word_groups(["s", "▁", "▁go"]) == [[0], [2]]
    assert word_groups([]) == []
    assert confidence([math.log(0.5), math.log(0.8)]) == pytest.approx(0.4)


def test_the_words_of_a_recording_have_their_places_in_it() -> None:
    speech_N = load_audio(ASSETS / "seven-three-nine-two.wav")
    transcriber = Transcriber.from_pretrained(word_times=True)
    silence_N = np.zeros(2 * SAMPLE_RATE_HZ, np.float32)
    plain, late = (
        transcriber.transcribe((SAMPLE_RATE_HZ, waveform_N)).segments[0]
        for waveform_N in (speech_N, np.concatenate([silence_N, speech_N, silence_N]))
    )
    assert " ".join(word.text for word in plain.words) == plain.text == late.text != ""
    ends = [0.0, *(word.end_s for word in plain.words)]
    for word, before_s in zip(plain.words, ends, strict=False):
        assert before_s <= word.start_s < word.end_s <= len(speech_N) / SAMPLE_RATE_HZ
        assert 0.2 < word.confidence <= 1
    for word, shifted in zip(plain.words, late.words, strict=True):
        assert shifted.start_s - word.start_s == pytest.approx(2.0, abs=0.13)


def test_words_are_there_only_if_they_were_asked_for() -> None:
    transcript = Transcriber.from_pretrained().transcribe(ASSETS / "play-some-music.wav")
    assert transcript.segments[0].words == ()
    assert "words" not in transcript.to_dict()["segments"][0]


@pytest.mark.parametrize(
    ("span", "around", "share"),
    [(Span(1, 2), 0, 0.7), (Span(1, 3), 0, 0.95), (Span(0, 1), 1, 0.75), (Span(3, 5), 0, 0.4), (Span(4, 5), 0, 0.2)],
)
def test_words_agree_by_the_head_that_reads_along(span: Span, around: int, share: float) -> None:
    assert agreement(LOOKS_LHM, span, around) == pytest.approx(share)


def test_times_that_cross_attention_does_not_confirm_are_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    transcriber = Transcriber.from_pretrained(word_times=True)
    path = ASSETS / "turn-off-the-bedroom-light.wav"
    words = transcriber.transcribe(path).segments[0].words
    assert words
    assert min(word.agreement for word in words) > DOUBTFUL
    assert not any(word.doubtful for word in words)
    look = transcriber.recogniser.look

    def look_at_the_end(tokens_RL: Any, cache: Any) -> Any:
        elsewhere_RLHM = np.zeros_like(look(tokens_RL, cache))
        elsewhere_RLHM[..., -1] = 1.0
        return elsewhere_RLHM

    monkeypatch.setattr(transcriber.recogniser, "look", look_at_the_end)
    moved = transcriber.transcribe(path).segments[0].words
    assert [(word.text, word.start_s) for word in moved] == [(word.text, word.start_s) for word in words]
    assert all(word.doubtful for word in moved[:-1])


def heard(*places: int, n: int = 100) -> npt.NDArray[np.float32]:
    """CTC log probabilities of one token at these positions and of a blank elsewhere."""
    log_probs_MV = np.full((n, 6), math.log(0.02), np.float32)
    log_probs_MV[:, PAD] = math.log(0.9)
    log_probs_MV[list(places), PAD], log_probs_MV[list(places), 4] = math.log(0.02), math.log(0.9)
    return log_probs_MV


@pytest.mark.parametrize(
    ("places", "short", "expected"),
    [
        ((), 0.15, (0, 0, 0, 0)),
        ((7,), 0.15, (7, 8, 0, 0)),
        ((20, 23, 26, 30), 0.15, (20, 31, 0, 0)),
        ((20, 25, 30, 60, 64), 0.15, (20, 65, 0, 0)),  # a pause, and two more words
        ((3, *range(40, 60, 2), 90), 0.15, (40, 59, 1, 1)),  # a cup before and after
        ((3, *range(40, 60, 2), 90), 0.0, (3, 91, 0, 0)),  # or two words
    ],
)
def test_speech_is_from_the_first_to_the_last_that_the_ctc_head_hears_but_for_what_is_short(
    places: tuple[int, ...], short: float, expected: tuple[int, int, int, int]
) -> None:
    assert spoken(heard(*places), gap=10, short=short) == expected


@pytest.mark.parametrize(("under_db", "expected"), [(20, (40, 61, 6, 4)), (14, (40, 61, 6, 4)), (10, (10, 96, 0, 0))])
def test_who_speaks_further_away_is_not_who_is_spoken_to(under_db: float, expected: tuple[int, int, int, int]) -> None:
    level_db_M = np.full(100, -20.0 - under_db, np.float32)
    level_db_M[38:62] = -20
    level_db_M[3:6] = 0  # a door, in which nothing is heard
    log_probs_MV = heard(10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 75, 80, 85, 95)
    assert spoken(log_probs_MV, gap=10, level_db_M=level_db_M) == expected
