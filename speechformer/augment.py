"""Make one recording into many: other speeds, rooms, noises, levels and bands; masks on the mel spectrogram.

Used in training only. Waveforms are changed first (`augment_waveform`), the mel spectrogram after
(`mask_mel`), before the DCT: masking cepstra would not be SpecAugment. Every draw comes from the generator
that is passed in, so an utterance's augmentation is a function of its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import librosa
import numpy as np
import numpy.typing as npt
import scipy.ndimage
import scipy.signal
import torch
import torchaudio

from speechformer.audio import SAMPLE_RATE_HZ, Codec, Waveform, compress_lossily
from speechformer.config import check_ascending, check_within
from speechformer.errors import ConfigError
from speechformer.features import HOP

Array = npt.NDArray[np.float32]
GATE_N = SAMPLE_RATE_HZ // 50  # how fast a noise gate opens and closes


@dataclass(frozen=True)
class AugmentConfig:
    """How often and how much. Probabilities are per utterance; `_db`, `_hz`, `_s` say the unit.

    `speeds` change pace and voice together, `tempos` the pace alone. `pad` lays up to `pad_s` of silence around an
    utterance. `tempos` and `wait`, which is the share of batches with silence of `wait_s` on either side of every
    utterance, are drawn for a whole batch: its utterances stay about as long as each other. `babble` is the share of
    the noises that is made of so many voices of others, `tilt` the share whose spectrum is tilted: what is heard later
    is none of these few recordings. `gate` turns down by `gate_depth_db` what lies more than `gate_db` under the
    loudest. `codec_level` is how hard MP3 or Opus compress (see `compress_lossily`).
    """

    speeds: tuple[float, ...] = (0.85, 0.9, 0.95, 1.0, 1.0, 1.05, 1.1, 1.15)
    tempos: tuple[float, ...] = (1.0,)
    trim: float = 0.25
    trim_db: tuple[float, float] = (12.0, 30.0)
    uneven: float = 0.0
    uneven_db: tuple[float, float] = (3.0, 12.0)
    uneven_s: tuple[float, float] = (0.1, 0.3)
    pad: float = 0.5
    pad_s: float = 0.3
    wait: float = 0.0
    wait_s: tuple[float, float] = (0.5, 2.5)
    room: float = 0.3
    noise: float = 0.5
    snr_db: tuple[float, float] = (0.0, 30.0)
    babble: float = 0.1
    babble_voices: tuple[int, int] = (3, 8)
    tilt: float = 0.0
    gate: float = 0.0
    gate_db: tuple[float, float] = (16.0, 35.0)
    gate_depth_db: tuple[float, float] = (10.0, 50.0)
    clip: float = 0.03
    mu_law: float = 0.03
    codec: float = 0.0
    codec_level: tuple[float, float] = (0.8, 0.98)
    gain_db: tuple[float, float] = (-30.0, 0.0)
    band_limit: float = 0.15
    band_hz: tuple[float, float] = (3400.0, 7500.0)
    time_masks: int = 2
    time_mask_share: float = 0.07
    band_masks: int = 2
    band_mask_width: int = 12

    def __post_init__(self) -> None:
        if not (self.speeds and self.tempos):
            raise ConfigError("augment.speeds and augment.tempos hold one factor or more; [1.0] changes nothing")
        check_within(self, "augment.", "speeds tempos", 0.1, 10)
        shares = "trim uneven pad wait room noise babble tilt gate clip mu_law codec band_limit time_mask_share"
        check_within(self, "augment.", f"{shares} codec_level", 0, 1)
        check_within(self, "augment.", "pad_s uneven_s wait_s time_masks band_masks band_mask_width", 0)
        check_within(self, "augment.", "babble_voices", 1)
        check_within(self, "augment.", "band_hz", 0, SAMPLE_RATE_HZ / 2, exclusive=True)
        ranges = (
            "trim_db uneven_db uneven_s wait_s snr_db babble_voices gate_db gate_depth_db codec_level gain_db band_hz"
        )
        check_ascending(self, "augment.", ranges)


@dataclass(frozen=True)
class Sounds:
    """Noises (16-bit samples), impulse responses (`waveform_N`) and speech (16-bit) to draw from; all can be empty."""

    noises: Sequence[npt.NDArray[np.int16]] = ()
    rooms: Sequence[Waveform] = ()
    voices: Sequence[npt.NDArray[np.int16]] = ()

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        return np.cumsum([len(noise_N) for noise_N in self.noises])

    def draw_noise(self, n_samples: int, draw: np.random.Generator) -> Waveform:
        """Draw a stretch of noise, a recording as often as it is long: every second is as likely as any other.

        Minutes of a café or of rain are as much of what is heard later as their share, and 400 barks and sneezes of
        five seconds are not most of it.
        """
        at = int(draw.integers(self._ends[-1]))
        return crop(self.noises[int(np.searchsorted(self._ends, at, side="right"))], n_samples, draw)


@cache
def _speed_perturbation(speed: float) -> torchaudio.transforms.Speed:
    return torchaudio.transforms.Speed(SAMPLE_RATE_HZ, speed)


def change_speed(waveform_N: Waveform, speed: float) -> Waveform:
    """Play faster (speed > 1) or slower, pitch with it (Ko et al. 2015)."""
    if speed == 1.0:
        return waveform_N
    changed_N, _ = _speed_perturbation(speed)(torch.from_numpy(waveform_N))
    return np.asarray(changed_N.numpy(), np.float32)


def draw_hop(config: AugmentConfig, draw: np.random.Generator) -> int:
    """Draw a tempo: frames further apart are the same voice, speaking faster (Kanda et al. 2013, without a vocoder)."""
    return HOP if config.tempos == (1.0,) else round(HOP * float(draw.choice(config.tempos)))


def trim_silence(waveform_N: Waveform, below_db: float = 30.0) -> Waveform:
    """Cut away what is so far under the loudest part at both ends, as tight recordings are cut.

    From about 20 dB on, weak consonants go too: "six" is left without its s.
    """
    cut_N, _ = librosa.effects.trim(waveform_N, top_db=below_db, frame_length=512, hop_length=160)
    return np.asarray(cut_N, np.float32)


def vary_level(waveform_N: Waveform, depth_db: float, every_s: float, draw: np.random.Generator) -> Waveform:
    """Say some of it under one's breath: levels between 0 and `-depth_db`, drawn anew every `every_s` seconds.

    In fluent speech a word in passing lies 5 dB and more under those that matter; voices made by rule and words put
    together from elsewhere have one level.
    """
    n_knots = 2 + int(len(waveform_N) / (every_s * SAMPLE_RATE_HZ))
    knots = np.linspace(0, len(waveform_N), n_knots)
    level_db_N = np.interp(np.arange(len(waveform_N)), knots, draw.uniform(-depth_db, 0, n_knots))
    return waveform_N * np.power(10, level_db_N / 20, dtype=np.float32)


def add_room(waveform_N: Waveform, response_N: Waveform) -> Waveform:
    """Convolve with an impulse response; length, level and onset stay."""
    onset = int(np.abs(response_N).argmax())
    wet_N = scipy.signal.oaconvolve(waveform_N, response_N[onset:])[: len(waveform_N)]
    return np.asarray(wet_N * (_rms(waveform_N) / max(_rms(wet_N), 1e-8)), np.float32)


def add_noise(waveform_N: Waveform, noise_N: Waveform, snr_db: float) -> Waveform:
    """Add noise of the same length so that speech power over noise power is `snr_db` decibels."""
    scale = _rms(waveform_N) / max(_rms(noise_N), 1e-8) * 10 ** (-snr_db / 20)
    return waveform_N + np.float32(scale) * noise_N


def make_babble(
    voices: Sequence[npt.NDArray[np.int16]], n_voices: int, n_samples: int, draw: np.random.Generator
) -> Waveform:
    """Let voices talk at once, all equally loud: the noise of a café."""
    chosen = (crop(voices[int(draw.integers(len(voices)))], n_samples, draw) for _ in range(n_voices))
    return np.asarray(sum(one_N / max(_rms(one_N), 1e-4) for one_N in chosen), np.float32)


def tilt(waveform_N: Waveform, coefficient: float) -> Waveform:
    """Filter with one zero: from 0 to 1 ever darker, to -1 ever brighter."""
    tilted_N = waveform_N.copy()
    tilted_N[1:] += np.float32(coefficient) * waveform_N[:-1]
    return tilted_N


def close_gate(waveform_N: Waveform, threshold_db: float, depth_db: float) -> Waveform:
    """Turn down by `depth_db` what lies further than a threshold under the loudest 20 ms, as noise gates do.

    Browsers and headsets have such gates, and soft consonants suffer.
    """
    power_N = scipy.ndimage.uniform_filter1d(waveform_N**2, GATE_N)
    is_open_N = power_N >= power_N.max(initial=0.0) * 10 ** (-threshold_db / 10)
    gain_N = np.where(is_open_N, np.float32(1.0), np.float32(10 ** (-depth_db / 20)))
    return np.asarray(waveform_N * scipy.ndimage.uniform_filter1d(gain_N, GATE_N), np.float32)


def clip_peaks(waveform_N: Waveform, share: float) -> Waveform:
    """Cut off what is louder than a share of the peak, as an overdriven microphone does."""
    limit = share * float(np.abs(waveform_N).max(initial=0.0))
    return waveform_N.clip(-limit, limit)


def compress_mu_law(waveform_N: Waveform) -> Waveform:
    """Go through the 8 bits of μ-law telephony (ITU-T G.711) at the level that it is made for."""
    peak = max(float(np.abs(waveform_N).max(initial=0.0)), 1e-6)
    codes_N = torchaudio.functional.mu_law_encoding(torch.from_numpy(waveform_N / np.float32(peak)), 256)
    return np.asarray(torchaudio.functional.mu_law_decoding(codes_N, 256).numpy() * peak, np.float32)


def limit_band(waveform_N: Waveform, cutoff_hz: float) -> Waveform:
    """Take away what lies above `cutoff_hz`, as telephones and cheap microphones do."""
    sections = scipy.signal.butter(6, cutoff_hz, fs=SAMPLE_RATE_HZ, output="sos").astype(np.float32)
    return np.asarray(scipy.signal.sosfilt(sections, waveform_N), np.float32)


def _rms(waveform_N: Waveform) -> float:
    return float(np.sqrt(np.dot(waveform_N, waveform_N) / max(1, len(waveform_N))))


def crop(noise_N: Waveform | npt.NDArray[np.int16], n_samples: int, draw: np.random.Generator) -> Waveform:
    """Return `n_samples` of a noise from a random place on, repeated where it is too short."""
    start = int(draw.integers(max(1, len(noise_N) - n_samples)))
    cut_N = np.resize(noise_N[start : start + n_samples], n_samples)
    scale = 32768 if cut_N.dtype == np.int16 else 1
    return np.asarray(cut_N, np.float32) / np.float32(scale)


def augment_speech(waveform_N: Waveform, config: AugmentConfig, draw: np.random.Generator) -> Waveform:
    """Draw and apply, in this order, what a speaker could have done otherwise: speed, tight ends, level, wide ends."""
    if not len(waveform_N):
        return waveform_N
    waveform_N = change_speed(waveform_N, float(draw.choice(config.speeds)))
    if draw.random() < config.trim:
        waveform_N = trim_silence(waveform_N, draw.uniform(*config.trim_db))
    if config.uneven and draw.random() < config.uneven:  # else older settings draw what they drew
        waveform_N = vary_level(waveform_N, draw.uniform(*config.uneven_db), draw.uniform(*config.uneven_s), draw)
    if draw.random() < config.pad:
        waveform_N = _pad(waveform_N, draw.uniform(0, config.pad_s, 2))
    return waveform_N


def wait_around(waveform_N: Waveform, config: AugmentConfig, draw: np.random.Generator) -> Waveform:
    """Leave silence before and after, as someone does who starts a recording, speaks, and stops it."""
    return _pad(waveform_N, draw.uniform(*config.wait_s, 2))


def _pad(waveform_N: Waveform, before_after_s: npt.NDArray[np.float64]) -> Waveform:
    return np.pad(waveform_N, tuple((before_after_s * SAMPLE_RATE_HZ).astype(int)))


def augment_channel(waveform_N: Waveform, config: AugmentConfig, sounds: Sounds, draw: np.random.Generator) -> Waveform:
    """Draw and apply, in this order, what lies between speaker and file.

    Room, band, noise, gate, clipping, codec, gain. What is said when stays, sample by sample.
    """
    if not len(waveform_N):
        return waveform_N
    if len(sounds.rooms) and draw.random() < config.room:
        waveform_N = add_room(waveform_N, sounds.rooms[int(draw.integers(len(sounds.rooms)))])
    if draw.random() < config.band_limit:
        waveform_N = limit_band(waveform_N, draw.uniform(*config.band_hz))
    if len(sounds.noises) and draw.random() < config.noise:
        if len(sounds.voices) and draw.random() < config.babble:
            n_voices = int(draw.integers(config.babble_voices[0], config.babble_voices[1] + 1))
            noise_N = make_babble(sounds.voices, n_voices, len(waveform_N), draw)
        else:
            noise_N = sounds.draw_noise(len(waveform_N), draw)
        if config.tilt and draw.random() < config.tilt:
            noise_N = tilt(noise_N, draw.uniform(-0.95, 0.95))
        waveform_N = add_noise(waveform_N, noise_N, draw.uniform(*config.snr_db))
    if config.gate and draw.random() < config.gate:  # else older settings draw what they drew
        waveform_N = close_gate(waveform_N, draw.uniform(*config.gate_db), draw.uniform(*config.gate_depth_db))
    if draw.random() < config.clip:
        waveform_N = clip_peaks(waveform_N, draw.uniform(0.2, 0.8))
    if draw.random() < config.mu_law:
        waveform_N = compress_mu_law(waveform_N)
    # A recording is never without any hiss; without it, the pads would be a digital silence of their own kind.
    hiss_N = draw.standard_normal(len(waveform_N), np.float32)
    waveform_N = add_noise(waveform_N, hiss_N, draw.uniform(40, 70))
    peak = max(float(np.abs(waveform_N).max(initial=0.0)), 1e-6)
    if config.codec and draw.random() < config.codec:  # else older settings draw what they drew
        codec: Codec = "mp3" if draw.random() < 0.5 else "opus"
        waveform_N = compress_lossily(waveform_N / np.float32(peak), codec, draw.uniform(*config.codec_level))
        peak = max(float(np.abs(waveform_N).max(initial=0.0)), 1e-6)
    return waveform_N * np.float32(10 ** (draw.uniform(*config.gain_db) / 20) / peak)


def mask_mel(mel_TF: Array, config: AugmentConfig, draw: np.random.Generator) -> Array:
    """Mask stretches of time and of bands with each band's mean (SpecAugment, Park et al. 2019)."""
    masked_TF = mel_TF.copy()
    if not len(mel_TF):
        return masked_TF
    mean_F = mel_TF.mean(axis=0)
    for _ in range(config.time_masks):
        masked_TF[_stretch(len(mel_TF), max(1, int(config.time_mask_share * len(mel_TF))), draw)] = mean_F
    for _ in range(config.band_masks):
        bands = _stretch(mel_TF.shape[1], config.band_mask_width, draw)
        masked_TF[:, bands] = mean_F[bands]
    return masked_TF


def _stretch(size: int, max_width: int, draw: np.random.Generator) -> slice:
    # It may stick out at both ends, where it is cut: otherwise the ends would be masked seldom (torchaudio's
    # masks never reach the highest band).
    width = int(draw.integers(max_width + 1))
    start = int(draw.integers(-width, size))
    return slice(max(0, start), start + width)
