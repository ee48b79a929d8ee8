"""Whatever holds sound becomes 16 kHz mono; whatever does not is refused in one sentence."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechformer import audio
from speechformer.audio import (
    AROUND_S,
    SAMPLE_RATE_HZ,
    AudioSource,
    Waveform,
    levels,
    load_audio,
    read_spans,
    segment,
    sounding,
    write_wav,
)
from speechformer.errors import AudioError


def tone(rate_hz: int = SAMPLE_RATE_HZ, seconds: float = 0.5) -> np.ndarray[Any, Any]:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate_hz * seconds)) / rate_hz)


def wav_bytes(samples: np.ndarray[Any, Any], rate_hz: int = SAMPLE_RATE_HZ, **settings: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, **{"format": "WAV", **settings})
    return file.getvalue()


def is_the_tone(waveform_N: Waveform, tolerance: float = 0.01) -> None:
    assert waveform_N.dtype == np.float32
    assert waveform_N.flags.c_contiguous
    assert waveform_N.shape == (8000,)
    np.testing.assert_allclose(waveform_N[500:-500], tone()[500:-500], atol=tolerance)


STEREO = np.stack((tone() * 1.5, tone() * 0.5), axis=1)
ARRAYS = {
    "float64": (16_000, tone()),
    "float32": (16_000, tone().astype(np.float32)),
    "int16": (16_000, (tone() * 32768).astype(np.int16)),
    "int32": (16_000, (tone() * 2**31).astype(np.int32)),
    "uint8": (16_000, (tone() * 128 + 128).astype(np.uint8)),
    "stereo": (16_000, STEREO),
    "8 channels": (16_000, np.repeat(tone()[:, None], 8, axis=1)),
    "8 kHz": (8_000, tone(8_000)),
    "44.1 kHz": (44_100, tone(44_100)),
    "192 kHz": (192_000, tone(192_000)),
}


@pytest.mark.parametrize("source", ARRAYS.values(), ids=ARRAYS)
def test_every_kind_of_array_is_the_same_sound(source: AudioSource) -> None:
    is_the_tone(load_audio(source))


def test_a_path_bytes_and_an_open_file_are_the_same_sound(tmp_path: Path) -> None:
    content = wav_bytes(tone())
    path = tmp_path / "tone.wav"
    path.write_bytes(content)
    with path.open("rb") as file:
        for source in (path, str(path), content, io.BytesIO(content), file):
            is_the_tone(load_audio(source))


@pytest.mark.parametrize(
    "settings",
    [{"subtype": "PCM_U8"}, {"subtype": "FLOAT"}, {"subtype": "ULAW"}, {"format": "FLAC"}, {"format": "OGG"}],
    ids=str,
)
def test_every_encoding_is_the_same_sound(settings: dict[str, str]) -> None:
    is_the_tone(load_audio(wav_bytes(tone(), **settings)), tolerance=0.05)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    waveform_N = tone().astype(np.float32)
    for name in ("tone.wav", "tone.flac"):
        write_wav(tmp_path / name, waveform_N)
        np.testing.assert_allclose(load_audio(tmp_path / name), waveform_N, atol=2**-15)


def test_high_pitches_do_not_fold_down() -> None:
    whistle = np.sin(2 * np.pi * 15_000 * np.arange(48_000) / 48_000)
    assert abs(load_audio((48_000, whistle))[500:-500]).max() < 0.01


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_no_samples_are_an_empty_waveform_but_not_a_file(rate_hz: int) -> None:
    assert load_audio((rate_hz, np.zeros(0, np.float32))).shape == (0,)
    with pytest.raises(AudioError, match="holds no samples"):
        load_audio(wav_bytes(np.zeros(0), rate_hz))


REFUSED = {
    "NaN": ((16_000, np.array([0.0, np.nan])), "array: .*not numbers"),
    "infinity": ((16_000, np.array([0.0, np.inf])), "array: .*not numbers"),
    "rate 0": ((0, tone()), "array: .*sample rate of 0 Hz"),
    "rate of 2 MHz": ((2_000_000, tone()), "array: .*sample rate"),
    "three dimensions": ((16_000, np.zeros((2, 2, 2))), r"array: .*shape \(2, 2, 2\)"),
    "channels first": ((16_000, np.zeros((1, 16_000))), r"array: .*shape \(1, 16000\)"),
    "complex numbers": ((16_000, tone().astype(complex)), "array: .*complex128"),
    "NaN in a file": (wav_bytes(np.full(9, np.nan), subtype="FLOAT"), "bytes: .*not numbers"),
    "no bytes": (b"", "bytes: not audio"),
    "text": (b"turn on the light " * 50, "bytes: not audio"),
    "text in a file object": (io.BytesIO(b"turn on the light"), "stream: not audio"),
    "half a header": (wav_bytes(tone())[:20], "bytes: not audio"),
}


@pytest.mark.parametrize(("source", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_sound_is_refused(source: AudioSource, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        load_audio(source)


def test_files_that_are_not_sound_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("turn on the light")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    reasons = {
        "text.wav": "not audio",
        "empty.wav": "is empty",
        "folder.wav": "a folder",
        "missing.wav": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(AudioError, match=f"{name}: .*{reason}.*; "):
            load_audio(tmp_path / name)


def test_a_wav_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    content = wav_bytes(tone())
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 4])
    with pytest.raises(AudioError, match=r"cut\.wav: the file was cut short, 75 % of its sound is missing; "):
        load_audio(tmp_path / "cut.wav")
    stream = bytearray(content)
    stream[40:44] = struct.pack("<I", 2**32 - 1)  # what a program writes that does not know how much will come
    (tmp_path / "stream.wav").write_bytes(stream)
    is_the_tone(load_audio(tmp_path / "stream.wav"))


@pytest.mark.parametrize("format_name", ["WAV", "FLAC", "OGG"])
def test_truncated_bytes_give_what_there_is_or_are_refused(format_name: str) -> None:
    content = wav_bytes(tone(seconds=3), format=format_name)
    try:
        waveform_N = load_audio(content[: len(content) // 2])
    except AudioError:
        return
    assert len(waveform_N) < 3 * SAMPLE_RATE_HZ
    assert np.isfinite(waveform_N).all()


def test_a_header_that_promises_too_much_gives_what_there_is() -> None:
    content = bytearray(wav_bytes(tone()))
    content[40:44] = struct.pack("<I", 2**31)  # the length of the data chunk
    is_the_tone(load_audio(bytes(content)))


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0, 1.0001, 7.3])
def test_segments_cover_all_without_gap_or_overlap(seconds: float) -> None:
    waveform_N = np.random.default_rng(0).standard_normal(int(seconds * SAMPLE_RATE_HZ)).astype(np.float32)
    ranges = segment(waveform_N, max_s=1.0)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(waveform_N)
    assert [end for _, end in ranges[:-1]] == [start for start, _ in ranges[1:]]
    assert all(0 < end - start <= SAMPLE_RATE_HZ for start, end in ranges if len(waveform_N))


def test_cuts_are_made_in_the_pauses() -> None:
    waveform_N = np.random.default_rng(0).standard_normal(5 * SAMPLE_RATE_HZ).astype(np.float32)
    pauses = [(25_000, 28_000), (52_000, 55_000)]
    for start, end in pauses:
        waveform_N[start:end] *= 0.01
    cuts = [end for _, end in segment(waveform_N, max_s=2.0)[:-1]]
    assert len(cuts) == 2
    assert all(start + 400 < cut < end - 400 for cut, (start, end) in zip(cuts, pauses, strict=True))


def spoken_after(before_s: float, after_s: float, hiss_db: float) -> Waveform:
    """Four bursts of tone within a second, the last 15 dB softer, and hiss so far under the first throughout."""
    draw = np.random.default_rng(0)
    tone_N = np.sin(2 * np.pi * 700 * np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ) * (
        np.arange(SAMPLE_RATE_HZ) % 4_000 < 3_000
    )
    tone_N[12_000:] *= 10 ** (-15 / 20)
    waveform_N = np.pad(tone_N, [int(s * SAMPLE_RATE_HZ) for s in (before_s, after_s)])
    hiss_N = draw.standard_normal(len(waveform_N)) * 10 ** (-hiss_db / 20) / np.sqrt(2)
    return (0.1 * (waveform_N + hiss_N)).astype(np.float32)


@pytest.mark.parametrize("hiss_db", [60, 40])
@pytest.mark.parametrize(("before_s", "after_s"), [(0, 0), (0.2, 3), (2, 0.2), (1, 1), (5, 5)])
def test_quiet_around_what_sounds_is_left_off_but_for_a_little(before_s: float, after_s: float, hiss_db: float) -> None:
    waveform_N = spoken_after(before_s, after_s, hiss_db)
    start, end = sounding(waveform_N)
    assert start / SAMPLE_RATE_HZ == pytest.approx(max(0, before_s - AROUND_S), abs=0.11)
    assert (len(waveform_N) - end) / SAMPLE_RATE_HZ == pytest.approx(max(0, after_s - 0.06 - AROUND_S), abs=0.13)


def test_steady_noise_and_nothing_at_all_are_not_cut() -> None:
    noise_N = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE_HZ).astype(np.float32)
    for waveform_N in (noise_N, 0 * noise_N, noise_N[:0], noise_N[:100], noise_N[:1_600]):
        assert sounding(waveform_N) == (0, len(waveform_N))


def long_sound(rate_hz: int, seconds: float = 75.0) -> Waveform:
    """Tones with pauses, each of another length."""
    time_N = np.arange(int(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * 300 * time_N) * (np.sin(2 * np.pi * 0.31 * time_N**1.05) > -0.7)).astype(
        np.float32
    )


def test_a_long_file_is_read_in_the_spans_that_it_would_be_cut_into_as_a_whole(tmp_path: Path) -> None:
    sound_N = long_sound(SAMPLE_RATE_HZ)
    soundfile.write(tmp_path / "long.wav", sound_N, SAMPLE_RATE_HZ, subtype="FLOAT")
    spans = list(read_spans(tmp_path / "long.wav", 10.0))
    assert [(start, start + len(span_N)) for start, span_N in spans] == segment(sound_N, 10.0)
    np.testing.assert_array_equal(np.concatenate([span_N for _, span_N in spans]), sound_N)


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (44_100, 2)])
def test_a_long_file_of_another_rate_is_resampled_across_its_blocks(
    tmp_path: Path, rate_hz: int, channels: int
) -> None:
    sound_N = long_sound(rate_hz)
    soundfile.write(tmp_path / "long.flac", np.stack([sound_N] * channels, 1), rate_hz)
    read_N = np.concatenate([span_N for _, span_N in read_spans(tmp_path / "long.flac", 10.0)])
    whole_N = load_audio(tmp_path / "long.flac")
    assert abs(len(read_N) - len(whole_N)) <= 1
    n_samples = min(len(read_N), len(whole_N))
    assert np.abs(read_N[:n_samples] - whole_N[:n_samples]).max() < 1e-3


def test_a_file_of_many_samples_is_read_in_small_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "wide.flac", np.stack([long_sound(96_000, 4.0)] * 8, 1), 96_000)
    whole_N = load_audio(tmp_path / "wide.flac")
    sizes: list[int] = []
    read = soundfile.SoundFile.read

    def watched(sound: soundfile.SoundFile, frames: int, **settings: Any) -> Any:
        samples = read(sound, frames, **settings)
        sizes.append(samples.size)
        return samples

    monkeypatch.setattr(audio, "MANY", 400_000)
    monkeypatch.setattr(soundfile.SoundFile, "read", watched)
    read_N = np.concatenate([span_N for _, span_N in read_spans(tmp_path / "wide.flac", 10.0)])
    assert max(sizes) <= 400_000
    assert len(sizes) > 7
    np.testing.assert_allclose(read_N[: len(whole_N)], whole_N[: len(read_N)], atol=1e-3)


def test_a_long_file_is_checked_and_clipped_as_a_short_one(tmp_path: Path) -> None:
    loud_N = 0.8 * np.random.default_rng(0).standard_normal(70 * 44_100).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", loud_N, 44_100, subtype="FLOAT")
    read_N = np.concatenate([span_N for _, span_N in read_spans(tmp_path / "loud.wav", 10.0)])
    np.testing.assert_allclose(read_N, load_audio(tmp_path / "loud.wav")[: len(read_N)], atol=1e-3)
    soundfile.write(tmp_path / "slow.wav", np.zeros(70 * 800), 800)
    with pytest.raises(AudioError, match="800 Hz is out of range"):
        next(iter(read_spans(tmp_path / "slow.wav", 10.0)))


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    write_wav(tmp_path / "sound.wav", tone().astype(np.float32))
    if not Path("/dev/fd").exists():
        pytest.skip("pipes have no names here")
    reading, writing = os.pipe()
    os.write(writing, (tmp_path / "sound.wav").read_bytes())
    os.close(writing)
    ((_, span_N),) = read_spans(f"/dev/fd/{reading}", 10.0)
    os.close(reading)
    assert len(span_N) == 8000


def test_a_short_file_is_one_span(tmp_path: Path) -> None:
    write_wav(tmp_path / "short.wav", long_sound(SAMPLE_RATE_HZ, 2.0))
    ((start, span_N),) = read_spans(tmp_path / "short.wav", 10.0)
    assert (start, len(span_N)) == (0, 2 * SAMPLE_RATE_HZ)


def test_a_long_file_that_is_damaged_further_on_is_named_there(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    soundfile.write(tmp_path / "whole.flac", 0.1 * draw.standard_normal(80 * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    sound = bytearray((tmp_path / "whole.flac").read_bytes())
    sound[len(sound) // 2 :] = b"\0" * (len(sound) - len(sound) // 2)
    (tmp_path / "bad.flac").write_bytes(sound)
    with pytest.raises(AudioError, match=r"bad\.flac: not audio that can be read"):
        list(read_spans(tmp_path / "bad.flac", 10.0))


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_16"), ("flac", "PCM_16"), ("ogg", "VORBIS")])
def test_a_mutated_file_is_read_or_refused_in_one_sentence(tmp_path: Path, suffix: str, subtype: str) -> None:
    path, draw = tmp_path / f"sound.{suffix}", np.random.default_rng(0)
    soundfile.write(path, tone(), SAMPLE_RATE_HZ, subtype=subtype)
    good = path.read_bytes()
    refusals = []
    for number in range(700):
        bad = bytearray(good)
        for place in draw.integers(len(bad) if number % 3 == 2 else 64, size=int(draw.integers(1, 9))):
            bad[place] = int(draw.integers(256))
        path.write_bytes(bad[: int(draw.integers(len(bad)))] if number % 3 == 1 else bad)
        try:
            for _, waveform_N in read_spans(path, 15.0):
                assert np.isfinite(waveform_N).all()
        except AudioError as error:
            refusals.append(str(error))
    assert len(refusals) > 200
    assert not [refusal for refusal in refusals if "\n" in refusal]


def test_the_level_around_a_place_is_that_of_the_loudest_within_a_third_of_a_second() -> None:
    waveform_N = np.full(32_000, 0.01, np.float32)
    waveform_N[16_000:16_640] = 0.1  # the 25th of fifty positions
    level_db_M = levels(waveform_N, 640, 51)
    loud = np.abs(np.arange(51) - 25) <= 8
    assert level_db_M[:42] == pytest.approx(np.where(loud, -20.0, -40.0)[:42], abs=0.01)
    assert level_db_M[50] < -39  # its last position is half of silence
    assert levels(np.zeros(100, np.float32), 640, 2) == pytest.approx([-120, -120], abs=1e-3)
