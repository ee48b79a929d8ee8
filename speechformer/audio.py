"""Turn whatever holds sound into `waveform_N`: 16 kHz, mono, float32, −1…1. The only converter."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from numpy.lib.stride_tricks import sliding_window_view

from speechformer.errors import AudioError

SAMPLE_RATE_HZ = 16_000
MAX_CHANNELS = 64
RATE_RANGE_HZ = (1_000, 768_000)
LONG_S, BLOCK_S = 60.0, 30.0  # files longer than this are read in blocks
MANY = 2**23  # samples of all channels, 32 MB; so are files that hold more
ENERGY_HOP, SMOOTH_HOPS = SAMPLE_RATE_HZ // 100, 10  # so many of 10 ms, over which a level is taken
NEARBY_S = 0.3  # see levels()
NEAR_DB, OVER_DB, LOUD_DB, AROUND_S = 25.0, 8.0, 12.0, 0.3  # see sounding()
RIFF_SIZES_OF_STREAMS = (0, 0xFFFFFFFF)  # written by programs that do not know yet how much will come

Waveform = npt.NDArray[np.float32]
Codec = Literal["mp3", "opus"]
AudioSource = str | os.PathLike[str] | bytes | BinaryIO | tuple[int, npt.NDArray[np.generic]]


def load_audio(source: AudioSource) -> Waveform:
    """Read a path, bytes, an open binary file or a (rate, array) pair.

    Arrays are `(samples,)` or `(samples, channels)`, floats in −1…1 or integers over their full range.
    Returns `waveform_N` at 16 kHz. Raises AudioError, naming the source, for what is not audio or holds less than
    it promises; an array may be empty, a file may not.
    """
    if isinstance(source, tuple):
        rate_hz, samples = source
        return convert(np.asarray(samples), rate_hz, name="array")
    name, file = _open(source)
    try:
        samples, rate_hz = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, EOFError, MemoryError) as error:
        raise _unreadable(name, error) from error
    return _convert_all(samples, rate_hz, name)


def _convert_all(samples: npt.NDArray[np.generic], rate_hz: int, name: str) -> Waveform:
    """Convert a file's samples, of which there must be some."""
    if not len(samples):
        raise AudioError(f"{name}: the file holds no samples; record it again")
    return convert(samples, rate_hz, name=name)


def read_spans(path: str | os.PathLike[str], max_s: float) -> Iterator[tuple[int, Waveform]]:
    """Read a file in spans of at most `max_s` seconds, cut as `segment` does: (first sample, `waveform_N`).

    A long file is never in memory as a whole. Raises AudioError as `load_audio` does, for a file that is damaged
    further on when that place is reached.
    """
    name, file = _open(path)
    try:
        with soundfile.SoundFile(file) as sound:
            if sound.frames <= min(LONG_S * sound.samplerate, MANY // sound.channels):
                samples = sound.read(int(LONG_S * sound.samplerate), dtype="float32", always_2d=True)
                waveform_N = _convert_all(samples, sound.samplerate, name)
                yield from spans(waveform_N, max_s)
                return
            yield from _cut(_blocks(sound, name), max_s)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, EOFError, MemoryError) as error:
        raise _unreadable(name, error) from error


def _blocks(sound: soundfile.SoundFile, name: str) -> Iterator[Waveform]:
    """Yield a file's sound in blocks of `waveform_N`."""
    rate_hz = sound.samplerate
    stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1) if rate_hz != SAMPLE_RATE_HZ else None
    while True:
        samples = sound.read(min(int(BLOCK_S * rate_hz), MANY // sound.channels), dtype="float32", always_2d=True)
        mono_N = _mix(samples, rate_hz, name)
        if stream is not None:
            mono_N = stream.resample_chunk(mono_N, last=not len(samples))
        yield mono_N.clip(-1.0, 1.0)
        if not len(samples):
            return


def _cut(blocks: Iterator[Waveform], max_s: float) -> Iterator[tuple[int, Waveform]]:
    max_samples, start = int(max_s * SAMPLE_RATE_HZ), 0
    rest_N = np.zeros(0, np.float32)
    for block_N in blocks:
        rest_N = np.concatenate([rest_N, block_N])
        while len(rest_N) > max_samples:
            end = _cut_place(rest_N[:max_samples])
            yield start, rest_N[:end]
            start, rest_N = start + end, rest_N[end:]
    yield start, rest_N


def _open(source: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[str, bytes | BinaryIO]:
    if isinstance(source, bytes):
        return "bytes", io.BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        return str(getattr(source, "name", "stream")), source
    path = Path(source)
    if path.is_dir():
        raise AudioError(f"{path}: is a folder; give an audio file")
    try:
        n_bytes = path.stat().st_size if path.is_file() else None
        with path.open("rb") as file:
            _check_riff(file, n_bytes, path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "cannot be opened"
        raise AudioError(f"{path}: {reason.lower()}; check the path") from error
    if n_bytes == 0:
        raise AudioError(f"{path}: the file is empty; record it again")
    return str(path), os.fsencode(path)


def _check_riff(file: BinaryIO, n_bytes: int | None, path: Path) -> None:
    # libsndfile reads what is there of a WAV that was cut short, and says nothing.
    if n_bytes is None or file.read(4) != b"RIFF":
        return
    file.seek(12)
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            if size not in RIFF_SIZES_OF_STREAMS and file.tell() + size > n_bytes:
                missing = 100 * (file.tell() + size - n_bytes) / size
                raise AudioError(
                    f"{path}: the file was cut short, {missing:.0f} % of its sound is missing; copy it again"
                )
            return
        file.seek(size + size % 2, os.SEEK_CUR)


def _unreadable(name: str, error: Exception) -> AudioError:
    text = str(getattr(error, "error_string", None) or error).strip().rstrip(".")
    reason = text[:1].lower() + text[1:]
    return AudioError(f"{name}: not audio that can be read ({reason}); give a WAV, FLAC, OGG or MP3 file")


def convert(samples: npt.NDArray[np.generic], rate_hz: int, name: str = "array") -> Waveform:
    """Convert samples of any rate, channel count and number type to `waveform_N`.

    Channels are averaged. Raises AudioError for NaN or infinite samples and for impossible rates.
    """
    mono_N = _mix(samples, rate_hz, name)
    if rate_hz != SAMPLE_RATE_HZ and mono_N.size:
        mono_N = soxr.resample(mono_N, rate_hz, SAMPLE_RATE_HZ)
    return np.ascontiguousarray(mono_N.clip(-1.0, 1.0), dtype=np.float32)


def _mix(samples: npt.NDArray[np.generic], rate_hz: int, name: str) -> Waveform:
    """Check samples and average their channels."""
    if not RATE_RANGE_HZ[0] <= rate_hz <= RATE_RANGE_HZ[1]:
        raise AudioError(f"{name}: a sample rate of {rate_hz} Hz is out of range; give 1 to 768 kHz")
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > MAX_CHANNELS):
        raise AudioError(f"{name}: audio of shape {samples.shape}; give (samples,) or (samples, channels)")
    waveform = _to_float(samples, name)
    mono_N = waveform.mean(axis=1) if waveform.ndim == 2 else waveform
    if not np.isfinite(mono_N).all():
        raise AudioError(f"{name}: the audio holds samples that are not numbers; record or export it again")
    return np.asarray(mono_N, np.float32)


def _to_float(samples: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.float32]:
    if np.issubdtype(samples.dtype, np.floating):
        return samples.astype(np.float32, copy=False)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(samples.dtype, np.signedinteger):
        full_scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
        return (samples.astype(np.float64) / full_scale).astype(np.float32)
    raise AudioError(f"{name}: samples of type {samples.dtype}; give floats or signed integers")


def write_wav(path: str | os.PathLike[str], waveform_N: Waveform) -> None:
    """Write `waveform_N` as 16-bit PCM at 16 kHz; the suffix picks WAV or FLAC."""
    soundfile.write(os.fspath(path), waveform_N, SAMPLE_RATE_HZ, subtype="PCM_16")


def compress_lossily(waveform_N: Waveform, codec: Codec, level: float) -> Waveform:
    """Go through MP3 or Opus, as recordings from browsers, messengers and crowds have; what is said when stays.

    `level` is libsndfile's, from 0 to 0.99: 0.8 is about 45 (MP3) or 58 (Opus) kbit/s, 0.9 is 28 or 31, 0.98 is 12.
    """
    file = io.BytesIO()
    if codec == "opus":
        soundfile.write(file, waveform_N, SAMPLE_RATE_HZ, "OPUS", format="OGG", compression_level=level)
    else:
        settings = {"compression_level": level, "bitrate_mode": "AVERAGE"}
        soundfile.write(file, waveform_N, SAMPLE_RATE_HZ, "MPEG_LAYER_III", format="MP3", **settings)
    file.seek(0)
    coded_N, _ = soundfile.read(file, len(waveform_N), dtype="float32", fill_value=0.0)
    return np.asarray(coded_N, np.float32)


def segment(waveform_N: Waveform, max_s: float) -> list[tuple[int, int]]:
    """Cut audio into (start, end) sample ranges of at most `max_s` seconds, at the quietest places.

    The ranges cover the audio without gap or overlap. Each cut is put in the middle of the quietest
    100 ms of the second half of the span that must end there.
    """
    max_samples = int(max_s * SAMPLE_RATE_HZ)
    ranges, start = [], 0
    while len(waveform_N) - start > max_samples:
        end = start + _cut_place(waveform_N[start : start + max_samples])
        ranges.append((start, end))
        start = end
    return [*ranges, (start, len(waveform_N))]


def spans(waveform_N: Waveform, max_s: float) -> Iterator[tuple[int, Waveform]]:
    """Yield what `segment` cuts: (first sample, `waveform_N` of the span)."""
    yield from ((start, waveform_N[start:end]) for start, end in segment(waveform_N, max_s))


def sounding(waveform_N: Waveform) -> tuple[int, int]:
    """Return the (start, end) samples of what is not the quiet before and after it, `AROUND_S` of that left on.

    A network that normalises by the utterance is disturbed by seconds of quiet as people leave it, and wastes time on
    it. What counts is the level of 0.1 s in decibels, low frequencies weakened by a first difference: from `NEAR_DB`
    under the loudest on, or, in noise, from `OVER_DB` over the quietest tenth, but never only the loudest `LOUD_DB`.
    """
    if len(waveform_N) // ENERGY_HOP <= SMOOTH_HOPS:
        return 0, len(waveform_N)
    level_db_T = 10 * np.log10(_smooth_energy(np.diff(waveform_N, prepend=waveform_N[:1])) + 1e-12)
    loudest, quiet = float(level_db_T.max()), float(np.percentile(level_db_T, 10))
    threshold = max(loudest - NEAR_DB, min(quiet + OVER_DB, loudest - LOUD_DB))
    loud = np.flatnonzero(level_db_T >= threshold)
    around = round(AROUND_S * SAMPLE_RATE_HZ)
    first, last = int(loud[0]) * ENERGY_HOP, int(loud[-1] + SMOOTH_HOPS) * ENERGY_HOP
    return max(0, first - around), min(len(waveform_N), last + around)


def at_speed(waveform_N: Waveform, speed: float) -> Waveform:
    """Return it so many times as fast, and as high."""
    return np.asarray(soxr.resample(waveform_N, speed, 1.0), np.float32)


def levels(waveform_N: Waveform, hop_N: int, n_positions: int) -> npt.NDArray[np.float32]:
    """Return the level around each position, `level_db_M`: that of the loudest of hops within `NEARBY_S` of it."""
    hops_N = np.zeros(n_positions * hop_N, np.float32)
    hops_N[: len(waveform_N)] = waveform_N[: len(hops_N)]
    level_db_M = 10 * np.log10(np.square(hops_N.reshape(n_positions, hop_N)).mean(1) + 1e-12)
    nearby = round(NEARBY_S * SAMPLE_RATE_HZ / hop_N)
    around = sliding_window_view(np.pad(level_db_M, nearby, "edge"), 2 * nearby + 1)
    return np.asarray(around.max(1), np.float32)


def _cut_place(span_N: Waveform) -> int:
    """Return where to cut a span that is as long as one may be."""
    return len(span_N) // 2 + _quietest(span_N[len(span_N) // 2 :])


def _quietest(waveform_N: Waveform) -> int:
    return int((np.argmin(_smooth_energy(waveform_N)) + SMOOTH_HOPS // 2) * ENERGY_HOP)


def _smooth_energy(waveform_N: Waveform) -> Waveform:
    """Return the mean square of each 0.1 s, 10 ms apart."""
    n_hops = len(waveform_N) // ENERGY_HOP
    energy_T = np.square(waveform_N[: n_hops * ENERGY_HOP].reshape(n_hops, ENERGY_HOP)).mean(axis=1)
    smooth_T: Waveform = np.convolve(energy_T, np.ones(SMOOTH_HOPS) / SMOOTH_HOPS, mode="valid")
    return smooth_T
