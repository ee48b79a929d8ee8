"""MFCCs of a prefix are a prefix, gain does not matter, silence is an input like any other."""

from __future__ import annotations

from dataclasses import replace

import librosa
import numpy as np
import pytest
import scipy.signal

from speechformer.audio import SAMPLE_RATE_HZ, Waveform
from speechformer.errors import ConfigError
from speechformer.features import (
    FRAMES_PER_S,
    FeatureConfig,
    _mel_filters_FS,
    add_hiss,
    collate,
    extract,
    log_mel,
    mfcc,
    n_frames,
    normalise,
    presence,
)

pytestmark = pytest.mark.usefixtures("shapes")
CONFIG = FeatureConfig()


def hiss(n_samples: int, seed: int = 0) -> Waveform:
    return 0.1 * np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32)


@pytest.mark.parametrize("n_samples", [512, 671, 672, 5000])
def test_the_mfcc_of_a_prefix_is_a_prefix_of_the_mfcc(n_samples: int) -> None:
    waveform_N = hiss(16_000)
    waveform_N[8000:] *= 300  # what follows is far louder
    whole_TC, part_TC = (mfcc(log_mel(one_N, CONFIG), CONFIG) for one_N in (waveform_N, waveform_N[:n_samples]))
    np.testing.assert_allclose(part_TC, whole_TC[: len(part_TC)], atol=1e-4)
    assert len(part_TC) == n_frames(n_samples)


@pytest.mark.parametrize("n_samples", [0, 160, 511, 512, 671, 672, 16_000])
def test_n_frames_is_the_real_count(n_samples: int) -> None:
    assert len(log_mel(hiss(n_samples), CONFIG)) == n_frames(n_samples)


def test_ten_milliseconds_give_no_frames() -> None:
    assert extract(hiss(160), CONFIG).shape == (0, 40)


def test_a_second_gives_about_a_hundred_frames() -> None:
    assert 97 <= n_frames(16_000) <= 100


def test_mfcc_agrees_with_librosa() -> None:
    waveform_N = hiss(16_000)
    expected_CT = librosa.feature.mfcc(
        y=waveform_N, sr=16_000, n_mfcc=40, n_fft=512, hop_length=160, win_length=400, n_mels=80, center=False
    )
    np.testing.assert_allclose(mfcc(log_mel(waveform_N, CONFIG), CONFIG), expected_CT.T, rtol=1e-4, atol=1e-3)


def test_the_mel_filters_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    mel = librosa.filters.mel
    monkeypatch.setattr(librosa.filters, "mel", lambda **settings: calls.append(settings) or mel(**settings))
    _mel_filters_FS.cache_clear()
    for seed in range(3):
        extract(hiss(1000, seed), CONFIG)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["speech", "utterance", "mean", "global"])
@pytest.mark.parametrize("n_samples", [160, 512, 8000])
def test_silence_gives_finite_features(kind: str, n_samples: int) -> None:
    config = FeatureConfig(normalise=kind, mean_C=(1.0,) * 40, scale_C=(2.0,) * 40)
    assert np.isfinite(extract(np.zeros(n_samples, np.float32), config)).all()


def test_silence_is_a_hundred_decibels_below_full_scale() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(1000, np.float32), CONFIG), -100)


@pytest.mark.parametrize("gain", [0.05, 3.0])
@pytest.mark.parametrize("kind", ["speech", "utterance", "mean"])
def test_gain_does_not_change_normalised_features(kind: str, gain: float) -> None:
    config = FeatureConfig(normalise=kind, scale_C=(20.0,) * 40)
    waveform_N = hiss(8000)
    loud_TC, quiet_TC = (extract(one_N, config) for one_N in (waveform_N, waveform_N * np.float32(gain)))
    np.testing.assert_allclose(loud_TC, quiet_TC, atol=1e-3)


def test_gain_does_change_globally_normalised_features() -> None:
    config = FeatureConfig(normalise="global", mean_C=(0.0,) * 40, scale_C=(20.0,) * 40)
    assert abs(extract(hiss(8000), config) - extract(0.1 * hiss(8000), config)).max() > 1


def test_an_utterance_is_brought_to_zero_mean_and_unit_variance() -> None:
    features_TC = extract(hiss(16_000), CONFIG)
    np.testing.assert_allclose(features_TC.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(features_TC.std(axis=0), 1, atol=0.02)


def around(waveform_N: Waveform, quiet_s: float, below_db: float, click: float = 0.0) -> Waveform:
    """Lay noise before and after an utterance, so far under its level, and a click before it."""
    quiet_N = hiss(int(quiet_s * SAMPLE_RATE_HZ), 7) * np.float32(10 ** (-below_db / 20))
    quiet_N[100:132] += click
    return np.concatenate((quiet_N, waveform_N, quiet_N))


@pytest.mark.parametrize("click", [0.0, 0.9])
def test_silence_around_speech_and_a_click_do_not_change_how_speech_is_normalised(click: float) -> None:
    config = FeatureConfig(normalise="speech", edge_s=0)
    speech_N = scipy.signal.sosfilt(scipy.signal.butter(2, 2000, fs=16_000, output="sos"), hiss(16_000)).astype("f4")
    alone_TC = extract(speech_N, config)
    quiet_s = 3.2
    first = int(quiet_s * FRAMES_PER_S)
    for kind, changed in (("speech", False), ("utterance", True)):
        waited_TC = extract(around(speech_N, quiet_s, 50, click), replace(config, normalise=kind))
        there_TC = waited_TC[first + 3 : first + len(alone_TC) - 3]
        assert (np.abs(there_TC - alone_TC[3:-3]).mean() > 0.3) == changed


def test_how_much_frames_count_adds_up_and_falls_with_their_level() -> None:
    features_TC = mfcc(log_mel(around(hiss(16_000), 1.0, 30.0), CONFIG), CONFIG)
    weight_T = presence(features_TC, CONFIG)
    assert weight_T.sum() == pytest.approx(1, abs=1e-4)
    assert weight_T[20:80].max() < 0.7 * weight_T[120:180].min()
    assert weight_T[20:80].min() > 0


def test_the_training_set_s_mean_and_scale_are_taken_away() -> None:
    config = FeatureConfig(n_mfcc=2, normalise="global", mean_C=(1.0, 2.0), scale_C=(1.0, 4.0))
    given_TC = np.array([[1.0, 2.0], [2.0, 10.0]], np.float32)
    np.testing.assert_allclose(normalise(given_TC, config), [[0, 0], [1, 2]], atol=0.02)


def test_the_hiss_is_as_faint_as_it_says_and_the_same_each_time() -> None:
    waveform_N = hiss(16_000)
    around_N = add_hiss(waveform_N, CONFIG)
    assert len(around_N) == 16_000 + 2 * 1600
    added_N = around_N - np.pad(waveform_N, 1600)
    level_db = 20 * np.log10(np.std(waveform_N) / np.std(added_N))
    assert level_db == pytest.approx(CONFIG.hiss_db, abs=0.2)
    np.testing.assert_array_equal(add_hiss(waveform_N, CONFIG), around_N)


@pytest.mark.parametrize("n_samples", [0, 1, 511, 512, 40 * 16_000])
def test_hiss_fits_any_length_and_leaves_silence_silent(n_samples: int) -> None:
    assert not add_hiss(np.zeros(n_samples, np.float32), CONFIG).any()


def test_a_band_emptied_by_a_codec_looks_like_a_quiet_one() -> None:
    tone_N = 0.1 * np.sin(np.arange(16_000) * 2 * np.pi * 500 / 16_000).astype(np.float32)
    assert log_mel(tone_N, CONFIG)[:, -1].max() < -80
    assert log_mel(add_hiss(tone_N, CONFIG), CONFIG)[:, -1].min() > -80


def test_a_negative_edge_is_refused() -> None:
    with pytest.raises(ConfigError, match="edge_s"):
        FeatureConfig(edge_s=-0.1)


def test_collate_pads_with_zeros() -> None:
    features = [extract(hiss(n_samples), CONFIG) for n_samples in (3000, 160, 8000)]
    features_BTC, frames_B = collate(features)
    assert frames_B.tolist() == [len(one_TC) for one_TC in features]
    for row_TC, one_TC in zip(features_BTC, features, strict=True):
        np.testing.assert_array_equal(row_TC[: len(one_TC)], one_TC)
        assert not row_TC[len(one_TC) :].any()


def test_more_coefficients_than_bands_are_refused() -> None:
    with pytest.raises(ConfigError, match="n_mfcc = 90"):
        FeatureConfig(n_mfcc=90)
