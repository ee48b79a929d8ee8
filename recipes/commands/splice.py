"""Make new sentences of people's own words: aligned data augmentation.

    python recipes/commands/splice.py MODEL --data data/commands

A trained model says where the words of every training recording lie. Half of `train/word_splices.jsonl` are recordings
in which some words are replaced by others, of the same speaker where there are any (Lam et al. 2021, "On-the-fly
aligned data augmentation for sequence-to-sequence ASR"); half are command texts put together of single words, as fast
and as uneven as sentences are. `train/passing_splices.jsonl`, three quarters as many, are moves, timers and measures
put together so. Their audio is in folders of those names. Training hears then that it is the sound that decides, not
what usually comes next.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
import texts
from prepare import hours
from rich.progress import track
from script import at_least, parser_of, status_of

from speechformer import Transcriber
from speechformer.alignment import align, seconds, whole_span, word_bounds, word_groups
from speechformer.audio import SAMPLE_RATE_HZ, Waveform, load_audio
from speechformer.data import read_folder, write_manifest
from speechformer.errors import ManifestError
from speechformer.features import FRAMES_PER_S, collate
from speechformer.synthesis import WEAK_FORMS

CORPORA = (
    "an4", "common_voice", "duke_alnum", "fsdd", "hymel_keywords", "kathleen", "ljspeech", "speech_commands",
    "speechocean762",
)  # fmt: skip
SPELT = ("an4", "duke_alnum")  # where every "a" is the letter; elsewhere it is the article
LETTER_A = "A"  # as which it is kept
KINDS = {texts.move: 5, texts.code: 2, texts.spelling: 2, texts.digits: 1, texts.time: 1, texts.date: 1}
PASSING_KINDS = {
    texts.move_in_passing: 6, texts.move: 3, texts.code: 1, texts.spelling: 1, texts.timer: 1, texts.conversion: 1,
}  # fmt: skip
WITH_ARTICLES = (texts.timer, texts.conversion)  # of these kinds; the others have letters
PASSING_SHARE = 0.75  # as many as of the others
MIN_CONFIDENCE = 0.3  # of a word, the geometric mean of its tokens' highest probabilities on the path
SHORTEST_S, LONGEST_S = 0.06, 1.5
FADE_S = (0.01, 0.03)  # from one word into the next
BATCH = 24
MOST_LACKING = 1_000  # texts in a row that cannot be said before it ends
SOFTEST_DB = -10.0  # of what a word loses: it may have been said in passing where it comes from
LONG = 4  # words of a sentence in which some are replaced

Row = dict[str, Any]


@dataclass(frozen=True)
class SpokenWord:
    """A word in a recording, as loud as it is there beside the others: all together have a level (rms) of 0.05."""

    text: str
    speaker: str
    audio_N: Waveform
    is_letter: bool = False

    @property
    def kind(self) -> str:
        """What words it can stand for: a letter A is no article."""
        return LETTER_A if self.is_letter and self.text == "a" else self.text


def main() -> int:
    """Find the words, put them together, and print one sentence when that cannot be done."""
    return run("splice", __doc__, 12_000, write)


def run(name: str, description: str | None, n_utterances: int, write: Callable[[str, Path, int, int], None]) -> int:
    """Read the command line of a recipe that makes speech of words that a model finds, and do what `write` does."""
    parser = parser_of(description)
    parser.add_argument("model", help="folder of a trained model")
    parser.add_argument("--data", type=Path, required=True, help="what prepare.py wrote")
    parser.add_argument(
        "--utterances", type=at_least(1), default=n_utterances, help=f"how many to make ({n_utterances})"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    return status_of(name, lambda: write(args.model, args.data, args.utterances, args.seed))


def write(model: str, data: Path, n_utterances: int, seed: int) -> None:
    """Write the audio and its manifest."""
    transcriber = Transcriber.from_pretrained(model)
    rows = rows_of(data, CORPORA)
    sentences = [words for words in find_words(transcriber, rows) if words]
    if not any(len(words) >= LONG for words in sentences):
        raise ManifestError(f"{data / 'train'}: no recording of {LONG} words was understood; give a better model")
    lines = (data / "text.txt").read_text("utf-8").splitlines()
    print(f"{sum(map(len, sentences))} words found")
    vocabulary = Vocabulary(sentences)
    for corpus, n, chosen in (
        ("word_splices", n_utterances, splice(sentences, vocabulary, lines, seed)),
        ("passing_splices", round(PASSING_SHARE * n_utterances), composed(vocabulary, seed)),
    ):
        numbered = enumerate(itertools.islice(chosen, n))
        joined = ((words, join(words, random.Random(f"{corpus} {seed} {number}"))) for number, words in numbered)
        spliced = write_spoken(data, corpus, joined)
        print(f"{corpus}: {len(spliced)} utterances, {hours(spliced):.2f} h")


def rows_of(data: Path, corpora: Container[str]) -> list[Row]:
    """Return the training rows of some corpora."""
    return [row for name, part in read_folder(data / "train").items() if name in corpora for row in part]


def write_spoken(data: Path, corpus: str, spoken: Iterable[tuple[Sequence[SpokenWord], Waveform]]) -> list[Row]:
    """Write words put together as audio in `<corpus>/` and `train/<corpus>.jsonl`; return the rows of that."""
    folder = data / corpus
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for number, (words, waveform_N) in enumerate(spoken):
        path = folder / f"{number:06}.flac"
        soundfile.write(path, waveform_N, SAMPLE_RATE_HZ)
        rows.append(
            {
                "audio_filepath": str(path.resolve()),
                "duration": round(len(waveform_N) / SAMPLE_RATE_HZ, 3),
                "text": " ".join(word.text for word in words),
                "speaker": words[0].speaker,
                "corpus": corpus,
            }
        )
    write_manifest(data / "train" / f"{corpus}.jsonl", rows)
    return rows


def find_words(transcriber: Transcriber, rows: Sequence[Row]) -> Iterator[list[SpokenWord]]:
    """Yield the words of every recording where all of them are found, else none."""
    rows = sorted((row for row in rows if 0.1 < row["duration"] < 16), key=lambda row: row["duration"])
    settings = transcriber.settings
    for start in track(range(0, len(rows), BATCH), "finding words", disable=not sys.stderr.isatty()):
        part = rows[start : start + BATCH]
        waveforms = [load_audio(row["audio_filepath"]) for row in part]
        features_BTC, frames_B = collate([transcriber.extract(waveform_N) for waveform_N in waveforms])
        memory = transcriber.recogniser.listen(features_BTC, frames_B)
        heard = zip(part, waveforms, memory.ctc_log_probs_BMV, memory.lengths_B, strict=True)
        for row, waveform_N, log_probs_MV, length in heard:
            tokens = settings.tokenizer.encode(row["text"])
            log_probs_MV = log_probs_MV[:length]
            spans = align(log_probs_MV, tokens)
            groups = word_groups(settings.tokenizer.pieces(tokens))
            if not spans or len(groups) != len(row["text"].split()):
                continue
            sure = [
                float(np.exp(np.mean([log_probs_MV[spans[i].first : spans[i].end, tokens[i]].max() for i in group])))
                for group in groups
            ]
            bounds = word_bounds([whole_span(spans, group) for group in groups], reach=0.5)
            times = [
                tuple(seconds(one, settings.shape, FRAMES_PER_S, settings.features.edge_s) for one in both)
                for both in bounds
            ]
            pieces = cut(waveform_N, times)
            level = np.sqrt(np.mean(np.square(np.concatenate(pieces)))) + 1e-5
            yield [
                SpokenWord(text, row["speaker"], piece_N * np.float32(0.05 / level), row["corpus"] in SPELT)
                for text, piece_N, sure_of in zip(row["text"].split(), pieces, sure, strict=True)
                if sure_of >= MIN_CONFIDENCE and SHORTEST_S <= len(piece_N) / SAMPLE_RATE_HZ <= LONGEST_S
            ]


def cut(waveform_N: Waveform, times: Sequence[tuple[float, float]]) -> list[Waveform]:
    """Cut a recording between its words, where it is quietest between the end of one and the start of the next."""
    hop = SAMPLE_RATE_HZ // 200
    power = np.convolve(np.square(waveform_N), np.ones(4 * hop) / (4 * hop), "same")[::hop]

    def quietest(first_s: float, last_s: float) -> int:
        first, last = (int(np.clip(time * 200, 0, len(power) - 1)) for time in (first_s, last_s))
        return (first + int(power[first : max(first, last) + 1].argmin())) * hop

    inner = [quietest(end_s, start_s) for (_, end_s), (start_s, _) in itertools.pairwise(times)]
    begin = int(max(0.0, times[0][0] - 0.12) * SAMPLE_RATE_HZ)
    end = min(len(waveform_N), int((times[-1][1] + 0.16) * SAMPLE_RATE_HZ))
    edges = [begin, *inner, end]
    return [waveform_N[first:last] for first, last in itertools.pairwise(edges)]


class Vocabulary:
    """Words that were found, by who says them and by what they can stand for."""

    def __init__(self, sentences: Iterable[Iterable[SpokenWord]]) -> None:
        self.by_speaker: dict[str, dict[str, list[SpokenWord]]] = defaultdict(lambda: defaultdict(list))
        self.anywhere: dict[str, list[SpokenWord]] = defaultdict(list)
        for word in itertools.chain.from_iterable(sentences):
            self.by_speaker[word.speaker][word.kind].append(word)
            self.anywhere[word.kind].append(word)
        self.speakers = list(self.by_speaker)
        self.sizes = [len(self.by_speaker[speaker]) ** 0.5 for speaker in self.speakers]

    def has(self, wanted: Iterable[str]) -> bool:
        """Tell whether somebody says each of these words."""
        return all(word in self.anywhere for word in wanted)

    def compose(self, wanted: Sequence[str], draw: random.Random, n_speakers: int) -> list[SpokenWord]:
        """Say words as a sentence, by who has most of them among so many speakers drawn; others say what they lack."""
        drawn = draw.choices(self.speakers, self.sizes, k=n_speakers)
        own = self.by_speaker[max(drawn, key=lambda one: sum(word in self.by_speaker[one] for word in wanted))]
        return fluent([draw.choice(own.get(word) or self.anywhere[word]) for word in wanted], draw)


def splice(
    sentences: Sequence[Sequence[SpokenWord]], vocabulary: Vocabulary, lines: Sequence[str], seed: int
) -> Iterator[list[SpokenWord]]:
    """Yield sentences without end: changed ones and composed ones in turn."""
    draw = random.Random(seed)
    long = [words for words in sentences if len(words) >= LONG]
    covered = [line for line in lines if 3 <= len(line.split()) <= 12 and vocabulary.has(kinds_of(line))]
    while True:
        yield changed(draw.choice(long), vocabulary.by_speaker, vocabulary.anywhere, draw)
        drawn = draw.random() < 0.6 or not covered
        wanted = kinds_of(texts.draw_text(draw, KINDS) if drawn else draw.choice(covered), drawn)
        if vocabulary.has(wanted):
            yield vocabulary.compose(wanted, draw, n_speakers=8)


def composed(vocabulary: Vocabulary, seed: int) -> Iterator[list[SpokenWord]]:
    """Yield moves, timers and measures without end, as many as their words allow; none where there are none."""
    draw = random.Random(f"passing {seed}")
    n_lacking = 0
    while n_lacking < MOST_LACKING:
        kind = draw.choices(list(PASSING_KINDS), list(PASSING_KINDS.values()))[0]
        wanted = kinds_of(kind(draw), drawn=kind not in WITH_ARTICLES)
        if vocabulary.has(wanted):
            n_lacking = 0
            yield vocabulary.compose(wanted, draw, n_speakers=12)
        else:
            n_lacking += 1


def kinds_of(text: str, drawn: bool = False) -> list[str]:
    """Return the kinds of its words: what is `drawn` has letters and no article."""
    return [LETTER_A if word == "a" and (drawn or texts.is_spelt(text)) else word for word in text.split()]


def changed(
    words: Sequence[SpokenWord],
    by_speaker: dict[str, dict[str, list[SpokenWord]]],
    anywhere: dict[str, list[SpokenWord]],
    draw: random.Random,
) -> list[SpokenWord]:
    """Replace about a third of the words by any others, and half of the function words by other function words.

    Those are said in passing, and what usually comes next gives away more of them than the sound does.
    """
    own = by_speaker[words[0].speaker]
    source = own if len(own) > 30 else anywhere
    choices = list(source)
    small = [text for text in choices if text in WEAK_FORMS] or choices

    def other(word: SpokenWord) -> SpokenWord:
        passing = word.text in WEAK_FORMS
        if draw.random() >= (0.5 if passing else 0.3):
            return word
        return draw.choice(source[draw.choice(small if passing else choices)])

    return [other(word) for word in words]


def fluent(words: Sequence[SpokenWord], draw: random.Random) -> list[SpokenWord]:
    """Say single words as they come in a sentence: no slower than a pace, function words in passing, ever softer.

    What is measured in fluent commands: a preposition takes 0.04-0.2 s and lies 5 dB under the other words, the last
    word as much under the first. Nothing gets faster than twice its own speed.
    """
    pace_s, fall_db = draw.uniform(0.15, 0.5), draw.uniform(0, 8)
    said = []
    for place, word in enumerate(words):
        level_db, wanted_s = draw.uniform(-2, 2) - fall_db * place / len(words), pace_s * draw.uniform(0.8, 1.25)
        if word.text in WEAK_FORMS and 0 < place < len(words) - 1 and draw.random() < 0.8:
            level_db, wanted_s = level_db - draw.uniform(0, 8), wanted_s * draw.uniform(0.35, 1)
        rate = min(2.0, len(word.audio_N) / SAMPLE_RATE_HZ / max(wanted_s, SHORTEST_S))
        audio_N = librosa.effects.time_stretch(word.audio_N, rate=rate, n_fft=512) if rate > 1.05 else word.audio_N
        said.append(replace(word, audio_N=audio_N * np.float32(10 ** (max(SOFTEST_DB, level_db) / 20))))
    return said


def join(words: Sequence[SpokenWord], draw: random.Random) -> Waveform:
    """Put words side by side, each fading into the next, with short pauses here and there."""
    whole_N = np.zeros(0, np.float32)
    for word in words:
        fade = min(int(draw.uniform(*FADE_S) * SAMPLE_RATE_HZ), len(word.audio_N) // 3)
        fade = min(fade, len(whole_N) // 3 or fade)
        overlap = min(fade, len(whole_N))
        whole_N = faded(whole_N, 0, overlap)
        if len(whole_N) and draw.random() < 0.15:
            whole_N = np.pad(whole_N, (0, int(draw.uniform(0.02, 0.25) * SAMPLE_RATE_HZ)))
        whole_N = overlapped(whole_N, faded(word.audio_N, fade, 0), overlap)
    return whole_N * np.float32(0.9 / max(0.9, float(np.abs(whole_N).max(initial=0.0))))


def faded(sound_N: Waveform, n_first: int, n_last: int) -> Waveform:
    """Let a sound begin and end softly, over so many samples."""
    sound_N = sound_N.copy()
    sound_N[:n_first] *= np.linspace(0, 1, n_first, dtype=np.float32)
    sound_N[len(sound_N) - n_last :] *= np.linspace(0, 1, n_last, dtype=np.float32)[::-1]
    return sound_N


def overlapped(first_N: Waveform, second_N: Waveform, n_samples: int) -> Waveform:
    """Put a sound after another, the last samples of that and its first ones on top of each other."""
    joined_N = np.concatenate((first_N, second_N[n_samples:]))
    joined_N[len(first_N) - n_samples : len(first_N)] += second_N[:n_samples]
    return joined_N


if __name__ == "__main__":
    sys.exit(main())
