"""Augmentations do what they say: measured, on average and at the ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from speechformer.audio import Codec, Waveform, compress_lossily
from speechformer.augment import (
    AugmentConfig,
    Sounds,
    add_noise,
    add_room,
    augment_channel,
    augment_speech,
    change_speed,
    clip_peaks,
    close_gate,
    compress_mu_law,
    crop,
    draw_hop,
    limit_band,
    make_babble,
    mask_mel,
    tilt,
    trim_silence,
    vary_level,
    wait_around,
)
from speechformer.features import HOP, FeatureConfig, extract, log_mel

RATE_HZ = 16_000


def hiss(n_samples: int = RATE_HZ, seed: int = 0) -> Waveform:
    return 0.1 * np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32)


def tone(hertz: float, n_samples: int = RATE_HZ) -> Waveform:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(n_samples) / RATE_HZ)).astype(np.float32)


def rms(waveform_N: Waveform) -> float:
    return float(np.sqrt(np.mean(np.square(waveform_N, dtype=np.float64))))


def pitch(waveform_N: Waveform) -> float:
    return float(np.abs(np.fft.rfft(waveform_N)).argmax() * RATE_HZ / len(waveform_N))


def masked_cells(
    config: AugmentConfig, n_draws: int = 3000, size: tuple[int, int] = (100, 80)
) -> npt.NDArray[np.bool_]:
    """Return which cells were masked in each of many draws, (draw, frame, band)."""
    mel_TF = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    draw = np.random.default_rng(2)
    return np.array([mask_mel(mel_TF, config, draw) != mel_TF for _ in range(n_draws)])


def augmented(waveform_N: Waveform, config: AugmentConfig, sounds: Sounds, draw: np.random.Generator) -> Waveform:
    return augment_channel(augment_speech(waveform_N, config, draw), config, sounds, draw)


def test_band_masks_hit_every_band_equally() -> None:
    bands = masked_cells(AugmentConfig(time_masks=0, band_masks=1)).all(axis=1).mean(axis=0)
    expected = np.mean([width / (80 + width) for width in range(13)])
    assert (np.abs(bands - expected) < 5 * np.sqrt(expected / 3000)).all()


def test_time_masks_hit_every_frame_equally() -> None:
    config = AugmentConfig(time_masks=2, band_masks=0, time_mask_share=0.2)
    frames = masked_cells(config).all(axis=2).mean(axis=0)
    once = np.mean([width / (100 + width) for width in range(21)])
    expected = 1 - (1 - once) ** 2
    assert (np.abs(frames - expected) < 5 * np.sqrt(expected / 3000)).all()


def test_who_waits_leaves_silence_before_and_after() -> None:
    config, draw = AugmentConfig(wait_s=(0.5, 2.5)), np.random.default_rng(3)
    waited = []
    for _ in range(200):
        waited_N = wait_around(hiss(), config, draw)
        loud = waited_N.nonzero()[0]
        waited += [loud[0], len(waited_N) - 1 - loud[-1]]
        np.testing.assert_array_equal(waited_N[loud[0] : loud[-1] + 1], hiss())
    assert min(waited) >= 0.5 * RATE_HZ - 1
    assert 2.3 * RATE_HZ < max(waited) <= 2.5 * RATE_HZ
    assert np.mean(waited) / RATE_HZ == pytest.approx(1.5, abs=0.15)


def test_a_tilted_noise_is_darker_or_brighter_and_nothing_else() -> None:
    def share_above(waveform_N: np.ndarray, hz: float) -> float:
        power_F = np.abs(np.fft.rfft(waveform_N)) ** 2
        return float(power_F[int(hz / RATE_HZ * len(waveform_N)) :].sum() / power_F.sum())

    assert share_above(tilt(hiss(), 0.9), 4000) < 0.25
    assert share_above(tilt(hiss(), -0.9), 4000) > 0.75
    np.testing.assert_array_equal(tilt(hiss(), 0.0), hiss())


def test_some_is_said_under_the_breath_but_no_further_under_it_than_asked() -> None:
    waveform_N = np.ones(2 * RATE_HZ, np.float32)
    levels_db_N = 20 * np.log10(vary_level(waveform_N, 12, 0.2, np.random.default_rng(1)))
    assert -12 <= levels_db_N.min() < -9
    assert -3 < levels_db_N.max() <= 0
    assert np.abs(np.diff(levels_db_N)).max() < 12 / (0.15 * RATE_HZ)  # nothing clicks
    shallow_db_N = 20 * np.log10(vary_level(waveform_N, 3, 0.2, np.random.default_rng(1)))
    assert shallow_db_N == pytest.approx(levels_db_N / 4, abs=1e-3)


def test_a_mask_is_no_wider_than_the_settings_say() -> None:
    bands = masked_cells(AugmentConfig(time_masks=0, band_masks=1)).all(axis=1).sum(axis=1)
    assert bands.max() == 12
    frames = masked_cells(AugmentConfig(time_masks=1, band_masks=0)).all(axis=2).sum(axis=1)
    assert frames.max() == 7


def test_a_masked_band_holds_its_mean_and_the_rest_is_untouched() -> None:
    mel_TF = log_mel(hiss(), FeatureConfig())
    masked_TF = mask_mel(mel_TF, AugmentConfig(time_masks=0), np.random.default_rng(0))
    changed = (masked_TF != mel_TF).any(axis=0)
    assert 0 < changed.sum() < 24
    assert (masked_TF[:, changed] == mel_TF.mean(axis=0)[changed]).all()


@pytest.mark.parametrize("frames", [0, 1, 2, 5])
def test_few_frames_can_be_masked(frames: int) -> None:
    mel_TF = np.ones((frames, 80), np.float32)
    draw = np.random.default_rng(0)
    for _ in range(50):
        assert np.array_equal(mask_mel(mel_TF, AugmentConfig(), draw), mel_TF)


def test_masking_leaves_its_input_alone() -> None:
    mel_TF = log_mel(hiss(), FeatureConfig())
    before_TF = mel_TF.copy()
    assert not np.array_equal(mask_mel(mel_TF, AugmentConfig(), np.random.default_rng(0)), before_TF)
    assert np.array_equal(mel_TF, before_TF)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5, 30.0])
def test_noise_is_added_at_the_ratio_asked_for(snr_db: float) -> None:
    speech_N = tone(440)
    noise_N = add_noise(speech_N, hiss(), snr_db) - speech_N
    assert 20 * np.log10(rms(speech_N) / rms(noise_N)) == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize("speed", AugmentConfig().speeds)
def test_speed_changes_length_and_pitch_together(speed: float) -> None:
    changed_N = change_speed(tone(1000), speed)
    assert len(changed_N) == pytest.approx(RATE_HZ / speed, abs=2)
    assert pitch(changed_N) == pytest.approx(1000 * speed, abs=3)


def test_tempo_changes_length_alone() -> None:
    config, waveform_N = AugmentConfig(tempos=(1.25,)), np.concatenate((tone(500), tone(2000)))
    plain_TF = log_mel(waveform_N, FeatureConfig())
    fast_TF = log_mel(waveform_N, FeatureConfig(), draw_hop(config, np.random.default_rng(0)))
    assert len(fast_TF) == pytest.approx(len(plain_TF) / 1.25, abs=1)
    for share in (0.25, 0.75):
        fast_F, plain_F = fast_TF[int(share * len(fast_TF))], plain_TF[int(share * len(plain_TF))]
        assert fast_F.argmax() == plain_F.argmax()
        assert fast_F.max() == pytest.approx(plain_F.max(), abs=0.1)


def test_without_tempos_nothing_is_drawn() -> None:
    draw = np.random.default_rng(0)
    assert draw_hop(AugmentConfig(), draw) == HOP
    assert draw.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_a_room_keeps_length_level_and_onset() -> None:
    click_N = np.zeros(4000, np.float32)
    click_N[1000] = 1
    response_N = np.concatenate((np.zeros(50), [1.0], 0.1 * hiss(2000) * np.linspace(1, 0, 2000))).astype(np.float32)
    wet_N = add_room(click_N, response_N)
    assert len(wet_N) == 4000
    assert rms(wet_N) == pytest.approx(rms(click_N), rel=1e-4)
    assert np.abs(wet_N).argmax() == 1000
    assert np.abs(wet_N[:999]).max() < 1e-6 < np.abs(wet_N[1100:]).max()


@pytest.mark.parametrize("cutoff_hz", [3400.0, 5000.0])
def test_a_band_limit_takes_away_what_lies_above_and_nothing_below(cutoff_hz: float) -> None:
    below, above = (limit_band(tone(hertz), cutoff_hz) for hertz in (0.6 * cutoff_hz, 1.5 * cutoff_hz))
    assert rms(below) == pytest.approx(rms(tone(0.6 * cutoff_hz)), rel=0.05)
    assert rms(above) < 0.1 * rms(tone(1.5 * cutoff_hz))


def test_quiet_ends_are_trimmed_and_the_sound_stays() -> None:
    loud = tone(440, 8000)
    trimmed = trim_silence(np.concatenate([0.001 * hiss(6400), loud, 0.001 * hiss(9600)]))
    assert len(loud) <= len(trimmed) <= len(loud) + 2 * 512
    assert rms(trimmed) == pytest.approx(rms(loud), rel=0.1)


def test_a_short_noise_is_repeated_and_a_long_one_is_cut() -> None:
    short, long = np.array([1, 2, 3], np.int16), np.arange(1000, dtype=np.int16)
    draw = np.random.default_rng(0)
    assert (crop(short, 7, draw) * 32768).tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert np.diff(crop(long, 100, draw) * 32768).tolist() == [1] * 99


SOUNDS = Sounds(
    [(3000 * hiss(seed=5)).astype(np.int16)], [hiss(800, seed=6) * np.linspace(1, 0, 800, dtype=np.float32)]
)
EVERYTHING = AugmentConfig(room=1, noise=1, band_limit=1)


def test_babble_is_of_so_many_equally_loud_voices() -> None:
    draw = np.random.default_rng(0)
    voices = [(level * tone(hertz)).astype(np.int16) for level, hertz in ((20_000, 300), (1_000, 700), (5_000, 1_500))]
    babble_N = make_babble(voices, 40, RATE_HZ, draw)
    power_F = np.abs(np.fft.rfft(babble_N)) ** 2
    shares = [power_F[hertz - 5 : hertz + 6].sum() / power_F.sum() for hertz in (300, 700, 1_500)]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    assert min(shares) > 0.02
    assert rms(make_babble(voices, 1, RATE_HZ, draw)) == pytest.approx(1, rel=0.01)
    assert np.isfinite(make_babble([np.zeros(100, np.int16)], 3, 400, draw)).all()


def test_babble_has_the_share_of_the_noises_that_is_set() -> None:
    sounds = Sounds(SOUNDS.noises, (), [np.full(1000, 1000, np.int16)])  # a voice that is a constant
    draw, config = np.random.default_rng(0), AugmentConfig(noise=1, babble=0.3, snr_db=(-40, -40), clip=0, mu_law=0)
    made = [augmented(tone(500, 800), config, sounds, draw)[400:] for _ in range(300)]
    constant = [abs(waveform_N.mean()) > 0.9 * rms(waveform_N) for waveform_N in made]
    assert np.mean(constant) == pytest.approx(0.3, abs=0.08)


def test_a_noise_is_drawn_as_often_as_it_is_long() -> None:
    lengths = {1: 300, 2: 100, 3: 600}
    sounds = Sounds([np.full(n, value, np.int16) for value, n in lengths.items()])
    draw = np.random.default_rng(0)
    drawn = [round(float(sounds.draw_noise(50, draw)[0]) * 32768) for _ in range(2000)]
    assert {value: drawn.count(value) / 2000 for value in lengths} == pytest.approx({1: 0.3, 2: 0.1, 3: 0.6}, abs=0.04)


def test_a_gate_turns_down_what_is_soft_and_nothing_else() -> None:
    second = RATE_HZ
    tone_N = np.sin(np.arange(3 * second) * 0.3).astype(np.float32)
    level_N = np.repeat(np.float32([0.5, 0.02, 0.2]), second)  # 28 and 8 dB under the loudest
    gated_N = close_gate(tone_N * level_N, 20.0, 30.0)
    inside = [slice(start * second + 1_000, (start + 1) * second - 1_000) for start in range(3)]
    ratios = [np.abs(gated_N[one]).max() / np.abs((tone_N * level_N)[one]).max() for one in inside]
    assert ratios == pytest.approx([1.0, 10 ** (-30 / 20), 1.0], rel=1e-3)
    assert np.array_equal(close_gate(np.zeros(50, np.float32), 20.0, 30.0), np.zeros(50))


def test_clipping_and_mu_law_do_to_a_tone_what_they_are_said_to() -> None:
    tone_N = tone(500)
    clipped_N = clip_peaks(tone_N, 0.4)
    assert np.abs(clipped_N).max() == pytest.approx(0.2, abs=1e-3)
    assert (clipped_N[np.abs(tone_N) < 0.19] == tone_N[np.abs(tone_N) < 0.19]).all()
    for level in (1.0, 1e-3):
        companded_N = compress_mu_law(np.float32(level) * tone_N)
        error_db = 20 * np.log10(rms(companded_N - level * tone_N) / rms(level * tone_N))
        assert -42 < error_db < -34  # G.711: about 38 dB
        assert len(np.unique(companded_N)) <= 256


@pytest.mark.parametrize("codec", ["mp3", "opus"])
def test_a_codec_keeps_place_and_length_and_takes_more_away_the_harder_it_compresses(codec: Codec) -> None:
    chirp_N = np.sin(2 * np.pi * np.cumsum(np.linspace(200, 5000, RATE_HZ)) / RATE_HZ).astype(np.float32)
    waveform_N = np.concatenate([np.zeros(4000, np.float32), np.float32(0.3) * chirp_N + hiss()])
    lost: list[float] = []
    for level in (0.8, 0.9, 0.98):
        coded_N = compress_lossily(waveform_N, codec, level)
        assert coded_N.shape == waveform_N.shape
        shifted = np.correlate(np.pad(coded_N, 800), waveform_N, "valid")
        assert abs(int(shifted.argmax()) - 800) <= 1
        lost.append(float(np.abs(log_mel(coded_N, FeatureConfig()) - log_mel(waveform_N, FeatureConfig())).mean()))
    assert 0 < lost[0] < lost[1] < lost[2]


def test_recordings_of_any_length_go_through_a_codec() -> None:
    draw, config = np.random.default_rng(0), AugmentConfig(noise=0, codec=1)
    for n_samples in (1, 100, 5000, RATE_HZ):
        changed_N = augment_channel(hiss(n_samples), config, Sounds(), draw)
        assert changed_N.shape == (n_samples,)
        assert np.isfinite(changed_N).all()


def test_augmentation_is_a_function_of_its_seed() -> None:
    speech_N = tone(500, 4000)
    before_N = speech_N.copy()
    first, again, other = (augmented(speech_N, EVERYTHING, SOUNDS, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:1000], other[:1000])
    assert np.array_equal(speech_N, before_N)


def test_masking_is_a_function_of_its_seed_and_draws_from_no_other() -> None:
    mel_TF = log_mel(hiss(), FeatureConfig())
    first, again, other = (mask_mel(mel_TF, AugmentConfig(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_levels_lie_in_the_range_that_is_set() -> None:
    draw = np.random.default_rng(0)
    peaks = [np.abs(augmented(tone(500, 2000), EVERYTHING, SOUNDS, draw)).max() for _ in range(100)]
    levels = 20 * np.log10(peaks)
    assert levels.min() == pytest.approx(-30, abs=2)
    assert levels.max() == pytest.approx(0, abs=2)
    assert -30.01 < levels.min() < levels.max() < 0.01


def test_probabilities_are_kept() -> None:
    class Counting(list):  # type: ignore[type-arg]
        n = 0

        def __getitem__(self, i: object) -> Waveform:
            self.n += 1
            return super().__getitem__(int(i))

    noises, rooms, draw = Counting(SOUNDS.noises), Counting(SOUNDS.rooms), np.random.default_rng(0)
    for _ in range(400):
        augmented(tone(500, 800), AugmentConfig(room=0.3, noise=0.6), Sounds(noises, rooms), draw)
    assert noises.n / 400 == pytest.approx(0.6, abs=0.1)
    assert rooms.n / 400 == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("n_samples", [0, 100, 8000])
def test_digital_silence_stays_finite(n_samples: int) -> None:
    draw = np.random.default_rng(0)
    for i in range(20):
        config = replace(EVERYTHING, pad_s=0.3 * (i % 2))
        waveform_N = augmented(np.zeros(n_samples, np.float32), config, SOUNDS, draw)
        assert np.isfinite(waveform_N).all()
        assert np.isfinite(extract(waveform_N, FeatureConfig())).all()
