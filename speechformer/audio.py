"""Turn whatever holds sound into `waveform_N`: 16 kHz, mono, float32, −1…1. The only converter."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from speechformer.errors import AudioError

SAMPLE_RATE_HZ = 16_000
MAX_CHANNELS = 64
RATE_RANGE_HZ = (1_000, 768_000)

Waveform = npt.NDArray[np.float32]
AudioSource = str | os.PathLike[str] | bytes | BinaryIO | tuple[int, npt.NDArray[np.generic]]


def load_audio(source: AudioSource) -> Waveform:
    """Read a path, bytes, an open binary file or a (rate, array) pair.

    Arrays are `(samples,)` or `(samples, channels)`, floats in −1…1 or integers over their full range.
    Returns `waveform_N` at 16 kHz; zero samples are fine. Raises AudioError, naming the source.
    """
    if isinstance(source, tuple):
        rate_hz, samples = source
        return convert(samples, rate_hz, name="array")
    name, file = _open(source)
    try:
        samples, rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, EOFError) as error:
        raise AudioError(
            f"{name}: not audio that can be read ({_reason(error)}); give a WAV, FLAC, OGG or MP3 file"
        ) from error
    return convert(samples, rate_hz, name=name)


def _open(source: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[str, str | BinaryIO]:
    if isinstance(source, bytes):
        return "bytes", io.BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        return str(getattr(source, "name", "stream")), source
    path = Path(source)
    if path.is_dir():
        raise AudioError(f"{path}: is a folder; give an audio file")
    try:
        n_bytes = path.stat().st_size
        path.open("rb").close()
    except OSError as error:
        raise AudioError(f"{path}: {(error.strerror or 'cannot be opened').lower()}; check the path") from error
    if n_bytes == 0:
        raise AudioError(f"{path}: the file is empty; record it again")
    return str(path), str(path)


def _reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", None) or error).strip().rstrip(".")
    return text[:1].lower() + text[1:]


def convert(samples: npt.NDArray[np.generic], rate_hz: int, name: str = "array") -> Waveform:
    """Convert samples of any rate, channel count and number type to `waveform_N`.

    Channels are averaged. Raises AudioError for NaN or infinite samples and for impossible rates.
    """
    if not RATE_RANGE_HZ[0] <= rate_hz <= RATE_RANGE_HZ[1]:
        raise AudioError(f"{name}: a sample rate of {rate_hz} Hz is out of range; give 8 to 192 kHz")
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > MAX_CHANNELS):
        raise AudioError(f"{name}: audio of shape {samples.shape}; give (samples,) or (samples, channels)")
    waveform = _to_float(samples, name)
    mono_N = waveform.mean(axis=1) if waveform.ndim == 2 else waveform
    if not np.isfinite(mono_N).all():
        raise AudioError(f"{name}: the audio holds samples that are not numbers; record or export it again")
    if rate_hz != SAMPLE_RATE_HZ and mono_N.size:
        mono_N = soxr.resample(mono_N, rate_hz, SAMPLE_RATE_HZ)
    return np.ascontiguousarray(mono_N, dtype=np.float32)


def _to_float(samples: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.float32]:
    if np.issubdtype(samples.dtype, np.floating):
        return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(samples.dtype, np.signedinteger):
        full_scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
        return (samples.astype(np.float64) / full_scale).astype(np.float32)
    raise AudioError(f"{name}: samples of type {samples.dtype}; give floats or signed integers")


def write_wav(path: str | os.PathLike[str], waveform_N: Waveform) -> None:
    """Write `waveform_N` as 16-bit PCM at 16 kHz; the suffix picks WAV or FLAC."""
    soundfile.write(os.fspath(path), waveform_N, SAMPLE_RATE_HZ, subtype="PCM_16")


def segment(waveform_N: Waveform, max_s: float) -> list[tuple[int, int]]:
    """Cut audio into (start, end) sample ranges of at most `max_s` seconds, at the quietest places.

    The ranges cover the audio without gap or overlap. Each cut is put in the middle of the quietest
    100 ms of the second half of the span that must end there.
    """
    max_samples = int(max_s * SAMPLE_RATE_HZ)
    ranges, start = [], 0
    while len(waveform_N) - start > max_samples:
        end = start + _quietest(waveform_N[start + max_samples // 2 : start + max_samples]) + max_samples // 2
        ranges.append((start, end))
        start = end
    return [*ranges, (start, len(waveform_N))]


def _quietest(waveform_N: Waveform) -> int:
    hop = SAMPLE_RATE_HZ // 100
    n_hops = len(waveform_N) // hop
    energy_T = np.square(waveform_N[: n_hops * hop].reshape(n_hops, hop)).mean(axis=1)
    smooth_T = np.convolve(energy_T, np.ones(10), mode="valid")
    return int((np.argmin(smooth_T) + 5) * hop)
