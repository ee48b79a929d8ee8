"""The features of `features` without loading librosa, which takes a second: its filters, made once, applied by numpy.

Suffixes: N samples, T 10 ms frames, S bins of the spectrum, F mel bands, C cepstral coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from speechformer.audio import Waveform
from speechformer.errors import CheckpointError
from speechformer.features import FLOOR, HOP, N_FFT, Array, FeatureConfig, add_hiss, filters, normalise


@dataclass(frozen=True)
class Frontend:
    """`features.extract` for one configuration. Differences to librosa's are below 1e-3."""

    config: FeatureConfig
    window_N: Array
    mel_FS: Array
    dct_CF: Array

    @classmethod
    def made_by_librosa(cls, config: FeatureConfig) -> Frontend:
        """Have librosa make window, mel filters and cosines."""
        return cls(config, *filters(config))

    @classmethod
    def load(cls, path: Path, config: FeatureConfig) -> Frontend:
        """Read what was saved. Raises CheckpointError for what is missing, damaged, or of other features."""
        try:
            parts = load_file(path)
            frontend = cls(config, parts["window_N"], parts["mel_FS"], parts["dct_CF"])
        except OSError as error:
            raise CheckpointError(f"{path}: is missing; write it with: speechformer export --onnx") from error
        except (SafetensorError, KeyError) as error:
            raise CheckpointError(f"{path}: is damaged; export the model again") from error
        shapes = frontend.window_N.shape, frontend.mel_FS.shape, frontend.dct_CF.shape
        if shapes != ((N_FFT,), (config.n_mels, N_FFT // 2 + 1), (config.n_mfcc, config.n_mels)):
            raise CheckpointError(f"{path}: holds filters of other features than config.json; export the model again")
        return frontend

    def save(self, path: Path) -> None:
        """Write the filters."""
        save_file({"window_N": self.window_N, "mel_FS": self.mel_FS, "dct_CF": self.dct_CF}, path)

    def extract(self, waveform_N: Waveform) -> Array:
        """Return the normalised `features_TC` of an utterance, ready for the encoder."""
        waveform_N = add_hiss(waveform_N, self.config)
        if len(waveform_N) < N_FFT:
            return np.zeros((0, self.config.n_mfcc), np.float32)
        frames_TN = np.lib.stride_tricks.sliding_window_view(waveform_N, N_FFT)[::HOP]
        spectrum_TS = np.fft.rfft(frames_TN * self.window_N)
        power_TS = (spectrum_TS.real**2 + spectrum_TS.imag**2).astype(np.float32)
        mel_TF = 10 * np.log10(np.maximum(power_TS @ self.mel_FS.T, np.float32(FLOOR)))
        return normalise(mel_TF @ self.dct_CF.T, self.config)
