"""Free synthesisers speak into files; what they cannot speak is left out, and a missing one is named."""

from __future__ import annotations

import random
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from speechformer.audio import SAMPLE_RATE_HZ, Waveform, load_audio, write_wav
from speechformer.errors import SynthesisError, UnspeakableError
from speechformer.synthesis import (
    BRITISH_ACCENTS,
    DEBIAN_PACKAGES,
    ESPEAK_PHONES,
    ESPEAK_UNFIT,
    FLITE_VOWELS,
    NEURAL,
    PROGRAMS,
    WEAK_FORMS,
    Request,
    Voice,
    espeak_variants,
    random_voice,
    require,
    synthesise,
)


def needs(engine: str) -> list[pytest.MarkDecorator]:
    missing = shutil.which(PROGRAMS[engine]) is None
    reason = f"apt-get install {DEBIAN_PACKAGES[engine]}"
    return [pytest.mark.synthesis, pytest.mark.skipif(missing, reason=reason)]


ENGINES = sorted(set(PROGRAMS) - set(NEURAL))
engines = pytest.mark.parametrize("engine", [pytest.param(engine, marks=needs(engine)) for engine in ENGINES])
VOICES = {
    "espeak": Voice("espeak", "en-us"),
    "flite": Voice("flite", "slt"),
    "festival": Voice("festival", "kal_diphone"),
    "pico": Voice("pico", "en-GB"),
}


@engines
def test_a_voice_speaks_longer_for_more_words(engine: str, tmp_path: Path) -> None:
    texts = ["stop", "turn on the light in the kitchen"]
    requests = [Request(text, VOICES[engine], tmp_path / f"{len(text)}.wav") for text in texts]
    assert list(synthesise(requests)) == requests
    short_N, long_N = (load_audio(request.path) for request in requests)
    assert 0.1 * 16_000 < 1.5 * len(short_N) < len(long_N) < 6 * 16_000
    assert min(abs(short_N).max(), abs(long_N).max()) > 0.05


@engines
def test_a_faster_voice_is_done_sooner(engine: str, tmp_path: Path) -> None:
    voices = [replace(VOICES[engine], speed=speed) for speed in (0.75, 1.3)]
    requests = [Request("turn on the light", voice, tmp_path / f"{voice.speed}.wav") for voice in voices]
    slow_N, fast_N = (load_audio(request.path) for request in synthesise(requests))
    assert len(slow_N) > 1.3 * len(fast_N)


@engines
def test_reduced_speech_has_other_vowels(engine: str, tmp_path: Path) -> None:
    text = "at from that can as and was some"
    full, reduced = (Request.within(tmp_path, text, VOICES[engine], reduced) for reduced in (False, True))
    assert full.path != reduced.path
    assert not full.pronunciations()
    assert reduced.pronunciations() == Request.within(tmp_path, text, VOICES[engine], True).pronunciations()
    assert reduced.pronunciations()["from"][-1] == "m"
    assert set(synthesise([reduced, full])) == {full, reduced}
    full_N, reduced_N = (load_audio(request.path) for request in (full, reduced))
    assert 0.5 * len(full_N) < len(reduced_N) < len(full_N)  # weak vowels are short


@engines
def test_a_letter_a_is_no_article(engine: str, tmp_path: Path) -> None:
    voice = VOICES[engine]
    article, letter = (Request.within(tmp_path, "bin blue at a two", voice, spelt=spelt) for spelt in (False, True))
    assert article.path != letter.path
    assert article.pronunciations() == {}
    assert letter.pronunciations() == {"a": ["ey"]}
    assert set(synthesise([letter, article])) == {article, letter}
    article_N, letter_N = (load_audio(request.path) for request in (article, letter))
    assert len(letter_N) - len(article_N) > 0.03 * SAMPLE_RATE_HZ  # [eɪ] under stress is longer than [ə]
    without = {Request.within(tmp_path, "bin blue at b two", voice, spelt=spelt).path for spelt in (False, True)}
    assert len(without) == 1


@pytest.mark.parametrize("engine", ["flite", "festival"])
def test_an_engine_without_glottal_stops_is_told_so(engine: str, tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match=f"{engine} has no glottal stop"):
        Request.within(tmp_path, "look at it", VOICES[engine], reduced=True, glottal=True)


def test_a_last_t_is_mostly_unreleased_where_speech_is_glottal(tmp_path: Path) -> None:
    voice = VOICES["espeak"]
    texts = [f"at it that {i}" for i in range(100)]
    plain, glottal = (
        [Request.within(tmp_path, text, voice, True, wanted) for text in texts] for wanted in (False, True)
    )
    assert not {request.path for request in plain} & {request.path for request in glottal}
    assert {phones[-1] for request in plain for phones in request.pronunciations().values()} == {"t"}
    last = [phones[-1] for request in glottal for phones in request.pronunciations().values()]
    assert set(last) == {"t", "q"}
    assert last.count("q") / len(last) == pytest.approx(2 / 3, abs=0.1)


@pytest.mark.parametrize("engine", [pytest.param("espeak", marks=needs("espeak"))])
def test_an_unreleased_t_has_no_hiss(engine: str, tmp_path: Path) -> None:
    drawn = (Request("at", VOICES[engine], tmp_path / f"{i}.flac", True, True) for i in range(100))
    said = {tuple(request.pronunciations()["at"]): request for request in drawn}
    requests = [said["ax", "t"], said["ax", "q"]]
    assert len(list(synthesise(requests))) == 2
    hisses = []
    for request in requests:
        power_F = np.abs(np.fft.rfft(load_audio(request.path))) ** 2
        hertz_F = np.linspace(0, 8_000, len(power_F))
        hisses.append(power_F[hertz_F > 4_000].sum() / power_F.sum())
    assert hisses[1] < hisses[0] / 3


def test_every_phone_of_a_weak_form_is_known_to_espeak() -> None:
    phones = {phone for forms in WEAK_FORMS.values() for form in forms for phone in form.split()}
    assert all(len(ESPEAK_PHONES.get(phone, phone)) == 1 or phone in ESPEAK_PHONES for phone in phones)
    assert set(FLITE_VOWELS) <= set(ESPEAK_PHONES)


@pytest.mark.parametrize("accent", [pytest.param(one, marks=needs("espeak")) for one in sorted(set(BRITISH_ACCENTS))])
def test_britons_put_an_r_after_for_but_not_after_to(accent: str) -> None:
    def said(word: str) -> list[str]:
        forms = ["".join(ESPEAK_PHONES.get(phone, phone) for phone in form.split()) for form in WEAK_FORMS[word]]
        commands = [["espeak-ng", "-v", accent, "-q", "--ipa", f"[[{form}]] [[eI]]"] for form in forms]
        return [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands]

    assert any(r in ipa for ipa in said("for") for r in "ɹr")
    for word in ("by", "do", "my", "of", "the", "to", "you"):
        assert not any(r in ipa for ipa in said(word) for r in "ɹr"), word


@pytest.mark.parametrize("engine", [pytest.param("pico", marks=needs("pico"))])
def test_pico_says_markup_as_text(engine: str, tmp_path: Path) -> None:
    texts = ["b", "<break time='3s'/>b", "<&b"]
    requests = [Request(text, VOICES[engine], tmp_path / f"{i}.wav") for i, text in enumerate(texts)]
    assert list(synthesise(requests)) == requests
    one_N, broken_N, signs_N = (load_audio(request.path) for request in requests)
    assert len(broken_N) > len(one_N) + SAMPLE_RATE_HZ  # "break time three s b", not a pause
    assert abs(broken_N[len(one_N) : -len(one_N)]).reshape(-1)[: 2 * SAMPLE_RATE_HZ].max() > 0.05
    assert len(signs_N) > len(one_N)


@engines
def test_a_drawn_voice_is_a_function_of_its_seed(engine: str) -> None:
    voices = [random_voice(engine, random.Random(seed)) for seed in (1, 1, 2)]
    assert voices[0] == voices[1] != voices[2]
    assert voices[0].speaker == f"{engine}_{voices[0].name}"


@pytest.mark.parametrize("engine", [pytest.param("espeak", marks=needs("espeak"))])
def test_a_voice_has_one_of_the_accents_it_is_given(engine: str) -> None:
    accents = {random_voice(engine, random.Random(seed), ["en-gb", "en-gb-x-rp"]).name for seed in range(20)}
    assert {name.partition("+")[0] for name in accents} == {"en-gb", "en-gb-x-rp"}


@pytest.mark.parametrize("engine", [pytest.param("espeak", marks=needs("espeak"))])
def test_robots_and_whispers_are_left_out(engine: str) -> None:
    assert len(espeak_variants()) > 20
    assert not [name for name in espeak_variants() for unfit in ESPEAK_UNFIT if unfit in name]


@pytest.mark.parametrize("engine", [pytest.param("espeak", marks=needs("espeak"))])
def test_what_cannot_be_spoken_is_left_out_without_a_trace(engine: str, tmp_path: Path) -> None:
    requests = [
        Request("", VOICES[engine], tmp_path / "nothing.wav"),
        Request("-f /etc/hostname", VOICES[engine], tmp_path / "dash.wav"),
    ]
    assert [request.path.name for request in synthesise(requests)] == ["dash.wav"]
    assert [path.name for path in tmp_path.iterdir()] == ["dash.wav"]


class Echo:
    """A network that remembers what it was told to say."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, float]] = []

    def draw(self, draw: random.Random) -> str:
        return f"en-gb/{draw.random()}"

    def speak(self, ipa: str, name: str, speed: float) -> Waveform:
        self.said.append((ipa, name, speed))
        return np.full(SAMPLE_RATE_HZ, 0.1, np.float32)


@pytest.mark.parametrize("engine", [pytest.param("kokoro", marks=needs("kokoro"))])
def test_a_network_is_told_phones_in_the_accent_of_its_voice(engine: str, tmp_path: Path) -> None:
    network = Echo()
    requests = [
        Request.within(tmp_path, "go at a", Voice(engine, name, 1.2), spelt=True) for name in ("en-gb/x", "en-us/x")
    ]
    assert list(synthesise(requests, {engine: network})) == requests
    assert len(load_audio(requests[0].path)) == SAMPLE_RATE_HZ
    (british, _, speed), (american, _, _) = network.said
    assert speed == 1.2
    assert "əʊ" in british
    assert "oʊ" in american
    assert british.rstrip()[-2:] == american.rstrip()[-2:] == "eɪ"  # the letter


@pytest.mark.parametrize("engine", [pytest.param("kokoro", marks=needs("kokoro"))])
def test_what_a_network_cannot_speak_is_left_out(engine: str, tmp_path: Path) -> None:
    class Deaf(Echo):
        def speak(self, ipa: str, name: str, speed: float) -> Waveform:
            if "ɡ" not in ipa:
                raise UnspeakableError("there is no phone")
            return super().speak(ipa, name, speed)

    names = {"": "en-gb/x", "stop": "en-gb/x", "get": "zz/x", "go": "en-gb/x"}
    requests = [Request(text, Voice(engine, name), tmp_path / f"{text}.wav") for text, name in names.items()]
    assert [request.text for request in synthesise(requests, {engine: Deaf()})] == ["go"]
    assert [path.name for path in tmp_path.iterdir()] == ["go.wav"]


def test_a_network_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SynthesisError, match="kokoro_en-gb/x: the network of kokoro was not given"):
        list(synthesise([Request("go", Voice("kokoro", "en-gb/x"), tmp_path / "go.wav")]))


def test_what_stands_already_is_not_spoken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    write_wav(tmp_path / "stop.wav", np.zeros(100, np.float32))
    request = Request("stop", VOICES["espeak"], tmp_path / "stop.wav")
    assert list(synthesise([request])) == [request]
    assert len(load_audio(request.path)) == 100


def test_a_missing_synthesiser_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SynthesisError, match=r"espeak, flite cannot be found.*apt-get install espeak-ng flite$"):
        require(["espeak", "flite"])
    require([])
