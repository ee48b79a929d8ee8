"""Networks that speak: how they are asked, and what another pitch and another throat do to a voice."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from speechformer.audio import SAMPLE_RATE_HZ
from speechformer.errors import SynthesisError, UnspeakableError
from speechformer.hibari import Hibari, Throat
from speechformer.kokoro import KOKORO_RATE_HZ, Kokoro, phones_from_espeak
from speechformer.piper import Piper

VOICES = {"af_sky": 0.1, "bm_george": 0.5, "zf_xiaoni": 0.9}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network as Kokoro's that says its style: a second of the style's first value, over the speed."""
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "length"]),
        helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
        helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
    ]
    output = helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [1, KOKORO_RATE_HZ])
    constants = [
        helper.make_tensor("begin", TensorProto.INT64, [2], [0, 0]),
        helper.make_tensor("end", TensorProto.INT64, [2], [1, 1]),
        helper.make_tensor("shape", TensorProto.INT64, [2], [1, KOKORO_RATE_HZ]),
    ]
    nodes = [
        helper.make_node("Slice", ["style", "begin", "end"], ["first"]),
        helper.make_node("Div", ["first", "speed"], ["level"]),
        helper.make_node("Expand", ["level", "shape"], ["waveform"]),
    ]
    graph = helper.make_graph(nodes, "voice", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text(json.dumps({"vocab": {"a": 1, "b": 2}}))
    (tmp_path / "voices").mkdir()
    for name, value in VOICES.items():
        np.full((510, 256), value, np.float32).tofile(tmp_path / "voices" / f"{name}.bin")
    return tmp_path


def test_kokoro_mixes_two_voices(folder: Path) -> None:
    kokoro = Kokoro(folder)
    assert kokoro.voices() == sorted(VOICES)
    for name, expected in (("en-us/af_sky/bm_george/0.0", 0.1), ("en-us/af_sky/bm_george/0.25", 0.2)):
        waveform_N = kokoro.speak("ab", name)
        assert len(waveform_N) == SAMPLE_RATE_HZ
        assert np.median(waveform_N) == pytest.approx(expected, rel=0.01)
    assert np.median(kokoro.speak("ab", "en-us/bm_george/af_sky/0.0", 2.0)) == pytest.approx(0.25, rel=0.01)


def test_kokoro_draws_voices_and_their_accents(folder: Path) -> None:
    kokoro = Kokoro(folder)
    names = [kokoro.draw(random.Random(seed)) for seed in range(60)]
    assert names[0] == kokoro.draw(random.Random(0))
    assert {name.split("/")[1] for name in names} == {"af_sky", "bm_george"}  # English alone at the first place
    assert {name.split("/")[2] for name in names} == set(VOICES)
    assert {name.split("/")[0] for name in names if "/bm_george/" in name.removesuffix("bm_george")} >= {"en-gb"}


def test_kokoro_says_what_it_lacks(folder: Path) -> None:
    kokoro = Kokoro(folder)
    with pytest.raises(UnspeakableError, match="no phone in 'wyz'"):
        kokoro.speak("wyz", "en-us/af_sky/af_sky/0.0")
    with pytest.raises(UnspeakableError, match="no phone in 'Q'"):  # in the network's alphabet, by the voice's accent
        kokoro.speak("əʊ", "en-gb/bm_george/af_sky/0.0")
    with pytest.raises(SynthesisError, match=r"bm_nobody\.bin: there is no such voice; there are af_sky, "):
        kokoro.speak("ab", "en-us/bm_nobody/af_sky/0.0")
    (folder / "config.json").unlink()
    with pytest.raises(SynthesisError, match=r"has no config\.json; Kokoro-82M is"):
        Kokoro(folder)


@pytest.mark.parametrize(
    ("ipa", "british", "american"),
    [("ɡˈəʊ nˈaʊ", "ɡˈQ nˈW", "ɡˈəʊ nˈW"), ("bˈɜːd", "bˈɜːd", "bˈɜɹd"), ("dʒˈeɪ\n tʃ", "ʤˈA ʧ", "ʤˈA ʧ")],
)
def test_phones_are_those_the_networks_learnt_from(ipa: str, british: str, american: str) -> None:
    assert phones_from_espeak(ipa, "en-gb") == british
    assert phones_from_espeak(ipa, "en-us") == american


PHONES = "bˈɪn blˈu wɪð ˈɛf tˈu nˈW"


def pitch_hz(waveform_N: np.ndarray) -> float:
    """Median over frames of 64 ms of where autocorrelation is highest between 70 and 500 Hz."""
    frames = [waveform_N[at : at + 1024] for at in range(0, len(waveform_N) - 1024, 512)]
    loud = [frame for frame in frames if np.abs(frame).mean() > 0.3 * max(np.abs(f).mean() for f in frames)]
    lags = range(SAMPLE_RATE_HZ // 500, SAMPLE_RATE_HZ // 70)
    return float(np.median([SAMPLE_RATE_HZ / max(lags, key=lambda lag: frame[lag:] @ frame[:-lag]) for frame in loud]))


def centre_hz(waveform_N: np.ndarray) -> float:
    """Where the middle of the spectrum's power under 4 kHz lies."""
    power_S = np.abs(np.fft.rfft(waveform_N)) ** 2
    hertz_S = np.linspace(0, SAMPLE_RATE_HZ / 2, len(power_S))
    return float((power_S * hertz_S)[hertz_S < 4000].sum() / power_S[hertz_S < 4000].sum())


def test_hibari_speaks_in_any_pitch_and_throat() -> None:
    pytest.importorskip("hibari", reason="pip install hibari-tts")
    hibari = Hibari()
    own_N, low_N, long_N, fast_N = (
        hibari.speak_with(throat, PHONES, speed)
        for throat, speed in ((Throat(), 1), (Throat(pitch=0.6), 1), (Throat(tract=1.3), 1), (Throat(), 1.5))
    )
    assert SAMPLE_RATE_HZ < len(own_N) == len(low_N) < 4 * SAMPLE_RATE_HZ
    assert len(fast_N) < 0.8 * len(own_N)
    assert np.abs(own_N).max() > 0.05
    assert pitch_hz(low_N) == pytest.approx(0.6 * pitch_hz(own_N), rel=0.15)
    assert centre_hz(long_N) < 0.9 * centre_hz(own_N)


def test_hibari_draws_voices_and_says_each_alike() -> None:
    pytest.importorskip("hibari", reason="pip install hibari-tts")
    hibari = Hibari()
    names = [hibari.draw(random.Random(seed)) for seed in (1, 1, 2)]
    assert names[0] == names[1] != names[2]
    once_N, again_N, other_N = (hibari.speak(PHONES, name) for name in names)
    assert np.array_equal(once_N, again_N)
    assert not np.array_equal(once_N[: len(other_N)], other_N[: len(once_N)])
    with pytest.raises(UnspeakableError, match="no phone"):
        hibari.speak("", names[0])


PIPER_RATE_HZ = 22_000


def piper_voice(folder: Path, name: str, n_speakers: int) -> None:
    """A voice as Piper's that says for a second, at a level each: a tenth of its length scale, and its speaker."""
    inputs = [
        helper.make_tensor_value_info("input", TensorProto.INT64, [1, "length"]),
        helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
    ]
    constants = [
        helper.make_tensor("at", TensorProto.INT64, [1], [1]),
        helper.make_tensor("tenth", TensorProto.FLOAT, [1], [0.1]),
        helper.make_tensor("shape", TensorProto.INT64, [4], [1, 1, 1, PIPER_RATE_HZ]),
    ]
    nodes = [helper.make_node("Gather", ["scales", "at"], ["length"])]
    if n_speakers > 1:
        inputs.append(helper.make_tensor_value_info("sid", TensorProto.INT64, [1]))
        nodes += [
            helper.make_node("Cast", ["sid"], ["speaker"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["length", "speaker"], ["said"]),
        ]
    nodes += [
        helper.make_node("Mul", ["said" if n_speakers > 1 else "length", "tenth"], ["level"]),
        helper.make_node("Expand", ["level", "shape"], ["output"]),
    ]
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 1, PIPER_RATE_HZ])
    graph = helper.make_graph(nodes, "voice", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / f"{name}.onnx")
    settings = {
        "audio": {"sample_rate": PIPER_RATE_HZ},
        "espeak": {"voice": "en-gb-x-rp"},
        "inference": {"length_scale": 1.5},
        "num_speakers": n_speakers,
        "phoneme_id_map": {"^": [1], "$": [2], "_": [0], " ": [3], "a": [4], "b": [5], ".": [6]},
    }
    (folder / f"{name}.onnx.json").write_text(json.dumps(settings))


@pytest.fixture
def piper(tmp_path: Path) -> Piper:
    piper_voice(tmp_path, "alone", 1)
    piper_voice(tmp_path / "more", "choir", 4)
    return Piper(tmp_path)


def test_piper_is_told_speaker_and_pace(piper: Piper) -> None:
    for name, speed, length_s, level in (
        ("en-gb-x-rp/alone/0/1.00", 1.0, 1.0, 0.15),  # the voice's own length scale is 1.5
        ("en-gb-x-rp/alone/0/1.00", 1.5, 1.0, 0.1),
        ("en-gb-x-rp/choir/3/1.00", 1.5, 1.0, 0.4),
        ("en-gb-x-rp/alone/0/2.00", 1.5, 0.5, 0.2),  # slow, then played twice as fast, for a throat half as long
    ):
        waveform_N = piper.speak("ab", name, speed)
        assert len(waveform_N) == pytest.approx(length_s * SAMPLE_RATE_HZ, abs=2)
        assert np.median(waveform_N) == pytest.approx(level, rel=0.01)


def test_piper_puts_between_phones_what_its_voices_expect(piper: Piper) -> None:
    assert piper.voices["alone"].ids(" a\n xb ") == [1, 0, 4, 0, 3, 0, 5, 0, 6, 0, 2]
    assert piper.voices["alone"].ids("x . ") == []


def test_piper_draws_each_speaker_alike(piper: Piper) -> None:
    names = [piper.draw(random.Random(seed)) for seed in range(200)]
    assert names[0] == piper.draw(random.Random(0))
    speakers = {tuple(name.split("/")[:3]) for name in names}
    assert speakers == {("en-gb-x-rp", "alone", "0"), *(("en-gb-x-rp", "choir", str(number)) for number in range(4))}
    assert 20 < sum("/alone/" in name for name in names) < 60
    assert {0.85 <= float(name.split("/")[3]) <= 1.2 for name in names} == {True}


def test_piper_says_what_it_lacks(piper: Piper, tmp_path: Path) -> None:
    with pytest.raises(UnspeakableError, match="no phone in 'xyz' that alone knows"):
        piper.speak("xyz", "en-gb-x-rp/alone/0/1.00")
    with pytest.raises(SynthesisError, match=r"nobody: there is no such voice of Piper; there are alone, choir"):
        piper.speak("ab", "en-gb-x-rp/nobody/0/1.00")
    (tmp_path / "more" / "choir.onnx.json").write_text("{}")
    with pytest.raises(SynthesisError, match=r"choir\.onnx\.json: is not the description of a voice of Piper"):
        Piper(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SynthesisError, match="has no voice of Piper"):
        Piper(tmp_path / "empty")
