"""Let people hesitate: pauses between the words of a sentence, and "uh" and "um" of their own vowels.

    python recipes/commands/hesitate.py MODEL --data data/commands

Who reads aloud does not hesitate; who commands does. A trained model says where the words of real sentences lie. Before
one to three of them comes a pause, half of the time with a hesitation in it: the vowel of an article
("a", "the") of the same speaker where there is one, held for as long as people hold it, closed by the end of a word
in "m" half of the time. It is heard and not written. Writes `train/hesitations.jsonl` with its audio in
`hesitations/`.
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import librosa
import numpy as np
from prepare import hours
from splice import SpokenWord, faded, find_words, join, overlapped, rows_of, run, write_spoken

from speechformer import Transcriber
from speechformer.audio import SAMPLE_RATE_HZ, Waveform
from speechformer.errors import ManifestError

CORPORA = ("an4", "common_voice", "kathleen", "ljspeech", "speechocean762")
FEWEST = 3  # words
VOWELS = ("a", "the")  # whose vowel is that of "uh"
HUMS = tuple("from them him some time room am same name seem come home team".split())
HELD_S, HUMMED_S = (0.15, 0.6), (0.08, 0.3)
VOWEL_S, HUM_S = 0.07, 0.06  # of a word, what is held
PAUSE_S = (0.1, 1.0)
SOFT_S = 0.03  # how a hesitation begins and ends


@dataclass
class Voice:
    """What a speaker hesitates with."""

    vowels: list[Waveform] = field(default_factory=list)
    hums: list[Waveform] = field(default_factory=list)


def main() -> int:
    """Write the audio and its manifest, or one sentence about what cannot be done."""
    return run("hesitate", __doc__, 8_000, write)


def write(model: str, data: Path, n_utterances: int, seed: int) -> None:
    """Write sentences with hesitations in them."""
    found = find_words(Transcriber.from_pretrained(model), rows_of(data, CORPORA))
    sentences = [words for words in found if words]
    voices = voices_of(sentences)
    long = [words for words in sentences if len(words) >= FEWEST]
    if not long or not any(voice.vowels for voice in voices.values()):
        raise ManifestError(f"{data / 'train'}: no sentence with an article was understood; give a better model")
    said = write_spoken(data, "hesitations", islice(hesitations(long, voices, seed), n_utterances))
    print(f"{len(long)} sentences, {len(said)} utterances, {hours(said):.2f} h")


def hesitations(
    sentences: Sequence[Sequence[SpokenWord]], voices: Mapping[str, Voice], seed: int
) -> Iterator[tuple[Sequence[SpokenWord], Waveform]]:
    """Yield sentences without end, each about as often as any other, with their audio."""
    draw = random.Random(seed)
    while True:
        for words in draw.sample(sentences, len(sentences)):
            yield words, join(hesitate(words, voices, draw), draw)


def hesitate(words: Sequence[SpokenWord], voices: Mapping[str, Voice], draw: random.Random) -> list[SpokenWord]:
    """Put a pause, often with a hesitation in it, before one to three of the words."""
    places = draw.sample(range(len(words)), min(len(words), draw.choice((1, 1, 2, 2, 3))))
    said = []
    for place, word in enumerate(words):
        if place in places:
            said.append(replace(word, text="", audio_N=hesitation(word.speaker, voices, draw)))
        said.append(word)
    return said


def hesitation(speaker: str, voices: Mapping[str, Voice], draw: random.Random) -> Waveform:
    """Return a pause, half of the time with a vowel held in it, alone or with an "m" at its end."""
    before_N, after_N = (silence(draw.uniform(*PAUSE_S) * draw.random()) for _ in range(2))
    if draw.random() < 0.5:
        return np.concatenate((before_N, after_N))
    able = [voice for voice in voices.values() if voice.vowels]
    voice = voices[speaker] if voices[speaker].vowels else draw.choice(able)
    sound_N = held(draw.choice(voice.vowels), draw.uniform(*HELD_S))
    if voice.hums and draw.random() < 0.5:
        hum_N = held(draw.choice(voice.hums), draw.uniform(*HUMMED_S))
        fade = min(len(sound_N), len(hum_N)) // 3
        sound_N = overlapped(faded(sound_N, 0, fade), faded(hum_N, fade, 0), fade)
    sound_N = sound_N * np.float32(10 ** (draw.uniform(-8, 2) / 20))
    soft = min(len(sound_N) // 3, int(SOFT_S * SAMPLE_RATE_HZ))
    return np.concatenate((before_N, faded(sound_N, soft, soft), after_N))


def voices_of(sentences: Sequence[Sequence[SpokenWord]]) -> dict[str, Voice]:
    """Collect the vowels of articles and the ends of words in "m" of every speaker."""
    voices: dict[str, Voice] = defaultdict(Voice)
    for words in sentences:
        for word in words:
            voice = voices[word.speaker]
            if word.text in VOWELS and not word.is_letter:
                voice.vowels += loudest(word.audio_N, VOWEL_S)
            elif word.text in HUMS:
                n = int(0.6 * len(word.audio_N))
                voice.hums += loudest(word.audio_N[n:], HUM_S)
    return voices


def loudest(word_N: Waveform, length_s: float) -> list[Waveform]:
    """Return the loudest part of so many seconds, or nothing if the word is not as long."""
    n = int(length_s * SAMPLE_RATE_HZ)
    if len(word_N) <= n:
        return []
    power = np.convolve(np.square(word_N), np.ones(n), "valid")
    first = int(power.argmax())
    return [word_N[first : first + n]]


def held(sound_N: Waveform, length_s: float) -> Waveform:
    """Hold a short sound for so many seconds."""
    rate = len(sound_N) / SAMPLE_RATE_HZ / length_s
    return librosa.effects.time_stretch(sound_N, rate=rate, n_fft=512).astype(np.float32)


def silence(length_s: float) -> Waveform:
    """Return so many seconds of nothing."""
    return np.zeros(int(length_s * SAMPLE_RATE_HZ), np.float32)


if __name__ == "__main__":
    sys.exit(main())
