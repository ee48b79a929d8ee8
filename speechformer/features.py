"""From `waveform_N` to the frames that enter the encoder: mel spectrogram in decibels, then its DCT (MFCC).

Frame t covers the 25 ms window in the middle of samples 160·t … 160·t + 511, so the features of a prefix are
a prefix of the features. Nothing in `log_mel` and `mfcc` looks at the whole clip (librosa's `top_db` would).
What lies around them does: `add_hiss` gives every recording the same quiet, and `normalise` takes away what a
microphone's gain and tone add.

Suffixes: N samples, T 10 ms frames, S bins of the spectrum, F mel bands, C cepstral coefficients, B utterances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import librosa
import numpy as np
import numpy.typing as npt

from speechformer.audio import SAMPLE_RATE_HZ, Waveform
from speechformer.errors import ConfigError

FRAMES_PER_S = 100
HOP = SAMPLE_RATE_HZ // FRAMES_PER_S
WINDOW = SAMPLE_RATE_HZ // 40
N_FFT = 512
FLOOR = 1e-10  # power under which there is nothing to hear: −100 dB
CLICK_FRAMES = 10  # what is shorter is not taken for the loudest speech
NEAR_DB, FAR_DB = 25.0, 35.0  # under the loudest speech: what counts fully, and what does not count

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeatureConfig:
    """Size of the frames, and what is taken away from them.

    `normalise`: "speech" gives every coefficient zero mean and unit variance over what is not silence;
    "utterance" does over all of it, so that a second of silence before a word changes the word;
    "mean" takes the utterance's mean away and divides by `scale_C` of the training set;
    "global" uses `mean_C` and `scale_C` of the training set alone.
    `hiss_db` under its level, white noise is laid on the utterance and `edge_s` before and after it.
    """

    n_mels: int = 80
    n_mfcc: int = 40
    edge_s: float = 0.1
    hiss_db: float = 40.0
    normalise: Literal["speech", "utterance", "mean", "global"] = "utterance"
    mean_C: tuple[float, ...] = ()
    scale_C: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.n_mfcc > self.n_mels:
            raise ConfigError(f"features.n_mfcc = {self.n_mfcc} is more than features.n_mels = {self.n_mels}")
        if self.edge_s < 0:
            raise ConfigError(f"features.edge_s is 0 or more, not {self.edge_s}")


@cache
def _mel_filters_FS(n_mels: int) -> Array:
    filters: Array = librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=N_FFT, n_mels=n_mels)
    return filters


def n_frames(n_samples: int) -> int:
    """How many frames so many samples give: none for under 32 ms."""
    return max(0, 1 + (n_samples - N_FFT) // HOP)


@cache
def _noise_N() -> Array:
    return np.random.default_rng(0).standard_normal(32 * SAMPLE_RATE_HZ, np.float32)


def add_hiss(waveform_N: Waveform, config: FeatureConfig) -> Waveform:
    """Return the utterance with the same faint white noise on and around it, whatever it was recorded with.

    A recording cut at the word or emptied by a codec above 4 kHz then looks like any other: its level in a band
    without sound is `hiss_db` down and not the −100 dB of digital silence. Silence stays silence.
    """
    if len(waveform_N) < N_FFT:
        return waveform_N
    level = np.sqrt(np.dot(waveform_N, waveform_N) / len(waveform_N)) * 10 ** (-config.hiss_db / 20)
    edge = round(config.edge_s * FRAMES_PER_S) * HOP
    n_samples, noise_N = len(waveform_N) + 2 * edge, _noise_N()
    noisy_N = (np.resize(noise_N, n_samples) if n_samples > len(noise_N) else noise_N[:n_samples]) * np.float32(level)
    noisy_N[edge : edge + len(waveform_N)] += waveform_N
    return noisy_N


def log_mel(waveform_N: Waveform, config: FeatureConfig, hop: int = HOP) -> Array:
    """Return `mel_TF`, the power in every mel band in decibels, −100 for silence; `hop` samples from frame to frame."""
    if len(waveform_N) < N_FFT:
        return np.zeros((0, config.n_mels), np.float32)
    spectrum_ST = librosa.stft(waveform_N, n_fft=N_FFT, hop_length=hop, win_length=WINDOW, center=False)
    power_ST = spectrum_ST.real**2 + spectrum_ST.imag**2
    mel_FT = _mel_filters_FS(config.n_mels) @ power_ST
    mel_TF: Array = librosa.power_to_db(mel_FT, amin=FLOOR, top_db=None).T
    return mel_TF


def mfcc(mel_TF: Array, config: FeatureConfig) -> Array:
    """Return `features_TC`, the first cepstral coefficients of `mel_TF` (orthonormal DCT-II)."""
    features_TC: Array = librosa.feature.mfcc(S=mel_TF.T, n_mfcc=config.n_mfcc).T
    return features_TC


def normalise(features_TC: Array, config: FeatureConfig) -> Array:
    """Take gain and channel away (see FeatureConfig); constant coefficients become zero, not NaN."""
    if not len(features_TC):
        return features_TC
    mean_C: Array = np.asarray(config.mean_C, np.float32)
    scale_C: Array = np.asarray(config.scale_C, np.float32)
    if config.normalise == "speech":
        weight_T = presence(features_TC, config)
        mean_C = weight_T @ features_TC
        return (features_TC - mean_C) / (np.sqrt(weight_T @ np.square(features_TC - mean_C)) + np.float32(1e-2))
    if config.normalise != "global":
        mean_C = features_TC.mean(axis=0)
    if config.normalise == "utterance":
        scale_C = features_TC.std(axis=0)
    return (features_TC - mean_C) / (scale_C + 1e-2)


@cache
def _cosines_CF(n_mfcc: int, n_mels: int) -> Array:
    angle_CF = np.outer(np.arange(n_mfcc), np.arange(n_mels) + 0.5) * (np.pi / n_mels)
    scale_C = np.sqrt(np.where(np.arange(n_mfcc) == 0, 1, 2) / n_mels)
    return (np.cos(angle_CF) * scale_C[:, None]).astype(np.float32)


def presence(features_TC: Array, config: FeatureConfig) -> Array:
    """Return how much each frame counts when speech is measured, `weight_T`; they add up to one.

    Frames up to `NEAR_DB` under the loudest count fully, those beyond `FAR_DB` not at all. Cepstra say how loud a
    frame is: their cosines give its (smoothed) mel bands back.
    """
    mel_TF = features_TC @ _cosines_CF(config.n_mfcc, config.n_mels)
    level_db_T = 10 * np.log10(np.power(10, mel_TF / 10).sum(axis=1) + np.float32(FLOOR))
    loudest = np.partition(level_db_T, -min(CLICK_FRAMES, len(level_db_T)))[-min(CLICK_FRAMES, len(level_db_T))]
    weight_T: Array = ((level_db_T - loudest + FAR_DB) / (FAR_DB - NEAR_DB)).clip(0, 1).astype(np.float32)
    return weight_T / weight_T.sum()


def filters(config: FeatureConfig) -> tuple[Array, Array, Array]:
    """Return what librosa applies: `window_N`, `mel_FS` and the cosines of the cepstrum, `dct_CF`."""
    window_N = librosa.filters.get_window("hann", WINDOW, fftbins=True)
    bands_FF = np.eye(config.n_mels, dtype=np.float32)
    return (
        librosa.util.pad_center(window_N, size=N_FFT).astype(np.float32),
        _mel_filters_FS(config.n_mels),
        np.ascontiguousarray(mfcc(bands_FF, config).T),
    )


def extract(waveform_N: Waveform, config: FeatureConfig) -> Array:
    """Return the normalised `features_TC` of an utterance, ready for the encoder."""
    return normalise(mfcc(log_mel(add_hiss(waveform_N, config), config), config), config)


def collate(features: Sequence[Array]) -> tuple[Array, npt.NDArray[np.int64]]:
    """Lay utterances side by side: `features_BTC`, zero beyond each end, and `frames_B`."""
    frames_B = np.array([len(features_TC) for features_TC in features])
    features_BTC = np.zeros((len(features), frames_B.max(), features[0].shape[1]), np.float32)
    for row_TC, features_TC in zip(features_BTC, features, strict=True):
        row_TC[: len(features_TC)] = features_TC
    return features_BTC, frames_B
