"""Speak text with the free synthesisers espeak-ng, flite, festival, SVOX Pico, Kokoro, hibari and Piper.

`random_voice` draws a voice; `synthesise` speaks a list of requests, and writes each file atomically,
so a list that was cut short can be given again.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Protocol
from xml.sax.saxutils import escape

from speechformer.audio import SAMPLE_RATE_HZ, Waveform, load_audio, write_wav
from speechformer.errors import AudioError, SynthesisError, UnspeakableError
from speechformer.files import replace_file

DEBIAN_PACKAGES = {
    "espeak": "espeak-ng",
    "flite": "flite",
    "festival": "festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts",
    "pico": "libttspico-utils",  # of Debian's non-free, Ubuntu's multiverse
    "kokoro": "espeak-ng",  # for the phones
    "hibari": "espeak-ng",
    "piper": "espeak-ng",
}
PROGRAMS = {
    "espeak": "espeak-ng",
    "flite": "flite",
    "festival": "festival",
    "pico": "pico2wave",
    "kokoro": "espeak-ng",
    "hibari": "espeak-ng",
    "piper": "espeak-ng",
}
NEURAL = ("kokoro", "hibari", "piper")
FLITE_VOICES = ("kal16", "awb", "rms", "slt")
PICO_VOICES = ("en-GB", "en-US")  # of a woman each
FESTIVAL_VOICES = ("kal_diphone", "ked_diphone", "cmu_us_slt_arctic_hts")
ESPEAK_ACCENTS = (
    "en-us", "en-us", "en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd",
    "en-029", "en-us-nyc",
)  # fmt: skip
BRITISH_ACCENTS = ("en-gb", "en-gb", "en-gb-x-rp", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-scotland")
# Robots and whispers that people cannot follow teach nothing about people.
ESPEAK_UNFIT = tuple("robo Robot Demonic croak whisper fast Tweaky anxious klatt5 Storm".split())
MAX_S = 30.0

# How English function words are said within a sentence (their weak forms: Cruttenden, Gimson's Pronunciation of
# English, 8th edition, 2014), in the phones of the CMU dictionary. The synthesisers say most of them as they are said
# alone: "at" is always [æt]. The full form stands among them where it is common; "a" may be a letter and is left alone.
# "ax_u" and "ax_i" are [ə] before consonants, [u] and [ɪ] before vowels: espeak-ng alone knows which comes next, and in
# British accents it puts an r between [ə] and a vowel, as after "for", but after "to" nobody does. "by" is [baɪ] alone:
# its weak form is rare, and what hears it often takes all that is short and unclear for "by".
WEAK_FORMS = {
    "am": ("ax m", "m"), "an": ("ax n",), "and": ("ax n", "ax n d", "n", "ae n d"), "are": ("ax r", "ax"),
    "as": ("ax z", "ax z", "ae z"), "at": ("ax t", "ax t", "ae t"), "but": ("b ax t", "b ah t"),
    "by": ("b ay",), "can": ("k ax n", "k n"), "could": ("k ax d", "k uh d"), "do": ("d ax_u", "d uw"),
    "for": ("f ax", "f ax r", "f ao r"), "from": ("f r ax m", "f r ah m"), "had": ("ax d", "hh ax d", "hh ae d"),
    "has": ("ax z", "hh ax z", "hh ae z"), "have": ("ax v", "hh ax v", "hh ae v"), "he": ("iy", "hh iy"),
    "her": ("ax", "hh ax r", "hh er"), "him": ("ih m", "hh ih m"), "his": ("ih z", "hh ih z"),
    "in": ("ax n", "ih n", "ih n"), "is": ("z", "ih z", "ih z"), "it": ("ax t", "ih t", "ih t"),
    "me": ("m ih", "m iy"), "must": ("m ax s", "m ax s t"), "my": ("m ax_i", "m ay"), "not": ("n ax t", "n aa t"),
    "of": ("ax v", "ax v", "ah v"), "on": ("ax n", "aa n", "aa n"), "or": ("ax r", "ao r"),
    "should": ("sh ax d", "sh uh d"), "some": ("s ax m", "s ah m"), "than": ("dh ax n",),
    "that": ("dh ax t", "dh ae t"), "the": ("dh ax_i",), "them": ("dh ax m", "ax m"), "there": ("dh ax r", "dh eh r"),
    "to": ("t ax_u", "t ax_u", "t uw"), "was": ("w ax z", "w ah z"), "were": ("w ax r", "w er"),
    "will": ("w ax l", "w ih l"), "would": ("w ax d", "w uh d"),
    "with": ("w ax dh", "w ih dh", "w ih dh", "w ih th", "w ih"), "you": ("y ax_u", "y ax_u", "y uw"),
    "your": ("y ax", "y ax r", "y ao r"),
}  # fmt: skip
# A t at the end of a word is seldom released in fluent speech: a glottal stop ("q" in TIMIT's phones) is what is left.
ESPEAK_PHONES = {
    "aa": "0", "ae": "a", "ah": "V", "ao": "O:", "ax": "@", "ax_i": "@2", "ax_u": "@5", "ay": "aI", "dh": "D",
    "eh": "E", "er": "3:", "ey": "'eI", "hh": "h", "ih": "I", "iy": "i:", "q": "?", "sh": "S", "th": "T", "uh": "U",
    "uw": "u:", "y": "j",
}  # fmt: skip
PICO_PHONES = {**ESPEAK_PHONES, "ax_i": "@", "ax_u": "@", "aa": "Q", "ae": "{", "eh": "E", "ey": '"eI'}  # X-SAMPA
CMU_PHONES = {"ax_i": "ax", "ax_u": "ax"}
LETTER_A = ["ey"]
FLITE_VOWELS = ("aa", "ae", "ah", "ao", "ax", "ay", "eh", "er", "ey", "ih", "iy", "uh", "uw")


class Network(Protocol):
    """A network that speaks in many voices: `speechformer.kokoro`, `speechformer.hibari`, `speechformer.piper`."""

    def draw(self, draw: random.Random) -> str:
        """Draw the name of a voice; what stands before its first slash is its accent, as espeak-ng calls it."""

    def speak(self, ipa: str, name: str, speed: float) -> Waveform:
        """Return `waveform_N` at 16 kHz; raise UnspeakableError of phones that it does not know.

        `ipa` is what espeak-ng writes of the text in the voice's accent.
        """


NO_NETWORKS: Mapping[str, Network] = MappingProxyType({})


@dataclass(frozen=True)
class Voice:
    """One way of speaking: `speed` and `pitch` are factors of the voice's own, 1 leaves it alone."""

    engine: str
    name: str
    speed: float = 1.0
    pitch: float = 1.0

    @property
    def speaker(self) -> str:
        """Name of the voice, the same for every speed and pitch."""
        return f"{self.engine}_{self.name}"


@dataclass(frozen=True)
class Request:
    """A text to be spoken by a voice into a file.

    `reduced`: with function words as fluent speakers say them; `glottal` (espeak-ng only): two of three of their last
    t's too; raises SynthesisError of others. `spelt`: each "a" is the letter, where the engines would say the article.
    """

    text: str
    voice: Voice
    path: Path
    reduced: bool = False
    glottal: bool = False
    spelt: bool = False

    def __post_init__(self) -> None:
        if self.glottal and self.voice.engine != "espeak":
            raise SynthesisError(f"{self.voice.engine} has no glottal stop; espeak alone can speak with glottal=True")

    @classmethod
    def within(
        cls, folder: Path, text: str, voice: Voice, reduced: bool = False, glottal: bool = False, spelt: bool = False
    ) -> Request:
        """Name the file by what is said and how, so that no other speech is ever taken for it."""
        spelt = spelt and "a" in text.split()
        how = [name for name, wanted in (("reduced", reduced), ("glottal", glottal), ("spelt", spelt)) if wanted]
        key = hashlib.sha256(repr((text, voice, *how)).encode()).hexdigest()[:16]
        return cls(text, voice, folder / key[:2] / f"{key}.flac", reduced, glottal, spelt)

    def pronunciations(self) -> dict[str, list[str]]:
        """Return the phones of its function words, drawn from `WEAK_FORMS`, the same every time, and of a letter A."""
        draw = random.Random(self.path.name)
        words = dict.fromkeys(self.text.split()) if self.reduced else ()
        phones = {word: draw.choice(WEAK_FORMS[word]).split() for word in words if word in WEAK_FORMS}
        for said in phones.values() if self.glottal else ():
            if said[-1] == "t" and draw.random() < 2 / 3:
                said[-1] = "q"
        return phones | ({"a": LETTER_A} if self.spelt else {})


def require(engines: Collection[str]) -> None:
    """Raise SynthesisError that names the Debian packages of the engines that are not installed."""
    missing = [engine for engine in engines if shutil.which(PROGRAMS[engine]) is None]
    packages = [DEBIAN_PACKAGES[engine] for engine in missing]
    if "festival" in engines and "festival" not in missing and not set(FESTIVAL_VOICES) <= festival_voices():
        packages.append(DEBIAN_PACKAGES["festival"])
    if packages:
        raise SynthesisError(
            f"{', '.join(missing) or 'a festival voice'} cannot be found, so no speech can be synthesised; "
            f"install it with: apt-get install {' '.join(packages)}"
        )


def festival_voices() -> set[str]:
    """Return the names of festival's voices that are installed."""
    listing = subprocess.run(
        ["festival", "--batch", "(print (voice.list))"], capture_output=True, text=True, timeout=60
    )
    return set(listing.stdout.strip().strip("()").split())


@cache
def espeak_variants() -> tuple[str, ...]:
    """Names of the espeak-ng voice variants that are installed and sound like people."""
    listing = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, text=True, check=True)
    files = (line.split()[4] for line in listing.stdout.splitlines()[1:] if "!v/" in line)
    names = sorted(file.removeprefix("!v/") for file in files)
    return tuple(name for name in names if not any(unfit in name for unfit in ESPEAK_UNFIT))


def random_voice(engine: str, draw: random.Random, accents: Sequence[str] = ESPEAK_ACCENTS) -> Voice:
    """Draw a voice of `engine` with its speed and pitch; espeak-ng has these accents."""
    speed = draw.uniform(0.75, 1.3)
    if engine == "espeak":
        return Voice(engine, f"{draw.choice(accents)}+{draw.choice(espeak_variants())}",
                     speed, draw.uniform(0.5, 1.6))  # fmt: skip
    if engine == "flite":
        return Voice(engine, draw.choice(FLITE_VOICES), speed, draw.uniform(0.8, 1.3))
    if engine == "pico":
        return Voice(engine, draw.choice(PICO_VOICES), speed, draw.uniform(0.6, 1.6))
    return Voice(engine, draw.choice(FESTIVAL_VOICES), speed)


def synthesise(requests: Iterable[Request], networks: Mapping[str, Network] = NO_NETWORKS) -> Iterator[Request]:
    """Speak every request whose file does not exist yet; yield each as its file stands complete.

    Requests that the engine cannot speak (it crashes, it knows none of the phones, or the sound is empty or endless)
    are left out. Voices of Kokoro, hibari and Piper need their `networks`.
    """
    pending: dict[tuple[bool, bool], list[Request]] = {}  # festival's; what it learns of one it keeps for all
    for request in requests:
        if request.path.exists():
            yield request
        elif request.voice.engine == "festival":
            pending.setdefault((request.reduced, request.spelt), []).append(request)
        elif request.voice.engine in NEURAL:
            if request.voice.engine not in networks:
                raise SynthesisError(f"{request.voice.speaker}: the network of {request.voice.engine} was not given")
            if _speak_neural(request, networks[request.voice.engine]):
                yield request
        elif _speak_one(request):
            yield request
    for part in pending.values():
        yield from _speak_festival(part)


def _speak_one(request: Request) -> bool:
    commands: dict[str, Callable[[Request, Path], list[str]]] = {"espeak": _espeak, "flite": _flite, "pico": _pico}
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "speech.wav"
        return _call(commands[request.voice.engine](request, wav)) and _keep(wav, request.path)


def _call(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=300).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _with_phones(request: Request, alphabet: Mapping[str, str], markup: str) -> str:
    phones = request.pronunciations()
    spelt = {word: "".join(alphabet.get(phone, phone) for phone in phones[word]) for word in phones}
    return " ".join(markup.format(spelt[word]) if word in spelt else word for word in request.text.split())


def _espeak_text(request: Request) -> str:
    return _with_phones(request, ESPEAK_PHONES, "[[{}]]")


def _espeak(request: Request, wav: Path) -> list[str]:
    voice = request.voice
    return ["espeak-ng", "-v", voice.name, "-s", str(round(160 * voice.speed)),
            "-p", str(round(min(99, 50 * voice.pitch))), "-w", str(wav), "--", _espeak_text(request)]  # fmt: skip


def _speak_neural(request: Request, network: Network) -> bool:
    accent = request.voice.name.partition("/")[0]
    command = ["espeak-ng", "-v", accent, "-q", "--ipa", "--", _espeak_text(request)]
    try:
        ipa = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        return _keep_waveform(network.speak(ipa, request.voice.name, request.voice.speed), request.path)
    except (subprocess.SubprocessError, UnspeakableError):
        return False


def _flite(request: Request, wav: Path) -> list[str]:
    voice = request.voice
    hertz = {"slt": 170.0}.get(voice.name, 105.0) * voice.pitch
    lexicon, said = wav.with_name("lexicon.txt"), request.pronunciations()
    if said:
        lexicon.write_text("".join(_flite_entry(word, phones) for word, phones in said.items()))
    return ["flite", "-voice", voice.name, *(["-add_lex", str(lexicon)] if said else []),
            "--setf", f"duration_stretch={1 / voice.speed:.3f}", "--setf", f"int_f0_target_mean={hertz:.1f}",
            "-t", request.text, "-o", str(wav)]  # fmt: skip


def _pico(request: Request, wav: Path) -> list[str]:
    voice, marked = request.voice, replace(request, text=escape(request.text))
    said = _with_phones(marked, PICO_PHONES, "<phoneme alphabet='xsampa' ph='{}'/>")
    speed, pitch = round(100 * voice.speed), round(100 * voice.pitch)
    return ["pico2wave", "-l", voice.name, "-w", str(wav), "--",
            f'<speed level="{speed}"><pitch level="{pitch}">{said}</pitch></speed>']  # fmt: skip


def _flite_entry(word: str, phones: list[str]) -> str:
    stress = _stress(phones)
    return f"{word} : {' '.join(f'{phone}{stress}' if phone in FLITE_VOWELS else phone for phone in _cmu(phones))}\n"


def _cmu(phones: list[str]) -> list[str]:
    return [CMU_PHONES.get(phone, phone) for phone in phones]


def _stress(phones: list[str]) -> int:
    return int(phones == LETTER_A)  # function words have none


def _speak_festival(requests: list[Request], chunk: int = 40) -> Iterator[Request]:
    # Festival needs a second to start, so one process speaks many texts.
    for start in range(0, len(requests), chunk):
        part = requests[start : start + chunk]
        with tempfile.TemporaryDirectory() as folder:
            wavs = [Path(folder) / f"{i}.wav" for i in range(len(part))]
            script = Path(folder) / "speak.scm"
            script.write_text("\n".join(map(_festival_line, part, wavs)), encoding="utf-8")
            _call(["festival", "--batch", str(script)])
            yield from (request for request, wav in zip(part, wavs, strict=True) if _keep(wav, request.path))


def _festival_line(request: Request, wav: Path) -> str:
    text = request.text.replace("\\", " ").replace('"', " ")
    entries = "".join(
        f'(lex.add.entry \'("{word}" nil ((({" ".join(_cmu(phones))}) {_stress(phones)})))) '
        for word, phones in request.pronunciations().items()
    )
    return (
        f"(voice_{request.voice.name}) {entries}(Parameter.set 'Duration_Stretch {1 / request.voice.speed:.3f}) "
        f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{wav}" \'riff)'
    )


def _keep(wav: Path, path: Path) -> bool:
    try:
        return _keep_waveform(load_audio(wav), path)
    except AudioError:
        return False


def _keep_waveform(waveform_N: Waveform, path: Path) -> bool:
    if not 0.1 < len(waveform_N) / SAMPLE_RATE_HZ < MAX_S or abs(waveform_N).max() < 1e-3:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda unfinished: write_wav(unfinished, waveform_N))
    return True
