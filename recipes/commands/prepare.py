"""Prepare everything `train.py` reads: manifests of real speech, synthesised commands, a tokenizer.

    python recipes/commands/prepare.py --data DIR --out DIR

DIR is laid out as the recipe's README says. It can be stopped and started again: files that stand are kept.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import soundfile
import texts
from rich.progress import Progress, TimeElapsedColumn
from script import at_least, parser_of, status_of

from speechformer.data import read_manifest, write_manifest
from speechformer.errors import ManifestError
from speechformer.hibari import Hibari
from speechformer.kokoro import Kokoro
from speechformer.piper import Piper
from speechformer.synthesis import (
    BRITISH_ACCENTS,
    ESPEAK_ACCENTS,
    NEURAL,
    NO_NETWORKS,
    PROGRAMS,
    Network,
    Request,
    Voice,
    random_voice,
    require,
    synthesise,
)
from speechformer.tokenizer import Tokenizer, normalise

DEV_VOICES = ("espeak_en-us+f2", "espeak_en-gb+m3")
N_DEV_SYNTHETIC = 300

# Said in passing or in strings: a piece each, as "the" and "in" have by their number.
WHOLE_WORDS = (
    *texts.DIGITS, *texts.LETTERS,
    *"are but by could from had has have his not should some that there this was were will would with your".split(),
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True)
class Mix:
    """What is synthesised: by which engines, how much of it drawn texts and of which kinds, how long the others are.

    `reduced`: faster, with the weak forms of function words; `glottal`: and their last t seldom released; `accents`:
    those of espeak-ng (see speechformer.synthesis); `commands`: the others are sentences of these command files;
    `least`: they are texts with words that training has heard less often than that, each text once, then again;
    `letters`: every "a" of a drawn text is the letter; `hesitant`: so many hesitate aloud, which is not written;
    `instead`: the engines where none of the others is at hand.
    """

    engines: dict[str, float]
    drawn_share: float
    kinds: dict[Callable[[random.Random], str], float]
    n_words: tuple[int, int]
    reduced: bool = False
    glottal: bool = False
    accents: tuple[str, ...] = ESPEAK_ACCENTS
    commands: tuple[str, ...] = ()
    least: int = 0
    letters: bool = True
    hesitant: float = 0.0
    instead: dict[str, float] = field(default_factory=dict)


# Texts and drawn ones of all kinds, for engines so fast that all can be said.
VARIED = Mix(
    {}, 0.4,
    {texts.move: 0.18, texts.code: 0.05, texts.spelling: 0.06, texts.digits: 0.03, texts.date: 0.03,
     texts.time: 0.02, texts.word: 0.03}, (2, 24), reduced=True,
)  # fmt: skip
MIXES = {
    "synthetic": Mix({"espeak": 0.55, "flite": 0.27, "festival": 0.18}, 0.4, texts.KINDS, (1, 14)),
    # Moves, codes and spelling by more natural voices, and longer sentences.
    "synthetic2": Mix(
        {"espeak": 0.4, "flite": 0.38, "festival": 0.22}, 0.56,
        {texts.move: 0.42, texts.code: 0.08, texts.spelling: 0.06}, (4, 20),
    ),
    # Fluent speakers do not say "at" as they say it alone; the engines do, unless told otherwise.
    "synthetic3": Mix(
        {"espeak": 0.4, "flite": 0.34, "festival": 0.26}, 0.5,
        {texts.move: 0.42, texts.code: 0.08}, (4, 20), reduced=True,
    ),
    # Nor do they release the t of "at": espeak-ng alone can leave it out as people do.
    "synthetic4": Mix(
        {"espeak": 1.0}, 0.6, {texts.move: 0.5, texts.code: 0.1}, (4, 20), reduced=True, glottal=True,
    ),
    # Half of the accents above are American, as are the people who spell in training: o, u, r and z sound otherwise.
    "synthetic5": Mix(
        {"espeak": 1.0}, 0.7, {texts.move: 0.5, texts.code: 0.1, texts.spelling: 0.1}, (4, 20), reduced=True,
        accents=BRITISH_ACCENTS,
    ),
    # What the application's own command files say: hardly any other text has "files", none "directories".
    "synthetic6": Mix(
        {"espeak": 0.45, "flite": 0.33, "festival": 0.22}, 0.0, {}, (1, 14), reduced=True, commands=texts.COMMAND_SETS,
    ),
    # Of the 22,000 words of the texts, the mixes above say half: "degrees" four times, "latte" never.
    "synthetic7": Mix(
        {"espeak": 0.45, "flite": 0.33, "festival": 0.22}, 0.0, {}, (1, 20), reduced=True, least=10,
    ),
    # By a network that has learnt from people how words run into each other, and in voices without number.
    "synthetic8": Mix(
        {"kokoro": 1.0}, 0.5,
        {texts.move: 0.26, texts.code: 0.05, texts.spelling: 0.07, texts.digits: 0.04, texts.date: 0.03,
         texts.time: 0.02, texts.word: 0.03}, (2, 24), reduced=True,
    ),
    # The same, so fast that all texts can be said: one voice's way to speak, in any pitch and vocal tract.
    "synthetic9": replace(VARIED, engines={"hibari": 1.0}),
    # Two women who were recorded, not drawn up: nearly as hard as people to a model that had heard the others.
    "synthetic10": replace(VARIED, engines={"pico": 1.0}),
    # By as many people as there are voices, those of a hundred speakers and more first of all.
    "synthetic11": replace(VARIED, engines={"piper": 1.0}),
    # What is short, by the voices most like people: single words, digits, letters, and moves.
    "synthetic12": Mix(
        {"kokoro": 1.0}, 0.92,
        {texts.move_in_passing: 0.36, texts.word: 0.2, texts.digits: 0.12, texts.code: 0.08, texts.spelling: 0.08,
         texts.date: 0.04, texts.time: 0.04}, (2, 24), reduced=True, instead={"hibari": 1.0},
    ),
    # Words that commands seldom have, in sentences of a dictionary, by all engines that are fast: what people say is
    # taken for words that training has, however clearly they say it.
    "synthetic13": Mix(
        {"hibari": 0.32, "pico": 0.2, "espeak": 0.16, "piper": 0.14, "flite": 0.11, "festival": 0.07}, 0.0, {},
        (2, 20), reduced=True, least=30,
    ),
    # What people ask a speaker in a kitchen for, thinking aloud: "celsius" had been said three times, "minus" 25 times.
    "synthetic14": Mix(
        {"kokoro": 0.2, "hibari": 0.24, "pico": 0.18, "piper": 0.14, "espeak": 0.12, "flite": 0.07, "festival": 0.05},
        0.65, {texts.timer: 3, texts.alarm: 2, texts.sum_of: 3, texts.conversion: 3}, (4, 24), reduced=True,
        letters=False, hesitant=0.3,
    ),
    # Requests whose ends are optional and whose slots are alike ("with no milk", "with whole milk"), of things that
    # the texts seldom name: orders at a counter, appliances, cars, machines, errands.
    "synthetic15": Mix(
        {"kokoro": 0.25, "hibari": 0.23, "pico": 0.17, "piper": 0.14, "espeak": 0.11, "flite": 0.06, "festival": 0.04},
        0.0, {}, (1, 24), reduced=True, commands=texts.DOMAIN_SETS, hesitant=0.25,
    ),
}  # fmt: skip
FLUENT = ("pico", *NEURAL)


def main() -> int:
    """Run the steps in order and print one sentence when one cannot be done."""
    args = parse_arguments()
    return status_of("prepare", lambda: prepare(args))


def prepare(args: argparse.Namespace) -> None:
    """Run the steps in order."""
    networks: dict[str, Network] = {"kokoro": Kokoro(args.kokoro)} if args.kokoro else {}
    if any(getattr(args, name) and "hibari" in {*mix.engines, *mix.instead} for name, mix in MIXES.items()):
        networks["hibari"] = Hibari()
    if args.piper:
        networks["piper"] = Piper(args.piper)
    prepare_real(args.data, args.out)
    for kind in ("noise", "rir"):
        prepare_sounds(args.data / kind, args.out, kind)
    lines = read_texts(args.data / "text")
    prepare_tokenizer(lines, args.out, args.vocab_size, WHOLE_WORDS if args.whole_words else ())
    for name in MIXES:
        prepare_synthetic(name, lines, args.out, getattr(args, name), args.seed, args.jobs, networks)


def absent(mix: Mix, networks: Mapping[str, Network]) -> list[str]:
    """Return which of its engines that not everyone can have are not there: networks, and Pico, which is non-free."""
    lacking = {name for name in NEURAL if name not in networks}
    if shutil.which(PROGRAMS["pico"]) is None:
        lacking.add("pico")
    return [engine for engine in mix.engines if engine in lacking]


def at_hand(mix: Mix, networks: Mapping[str, Network]) -> Mix:
    """Return the mix with the engines that are there, or where none is, with those that can stand in for them."""
    lacking = absent(mix, networks)
    if len(lacking) == len(mix.engines) and mix.instead:
        return at_hand(replace(mix, engines=mix.instead, instead={}), networks)
    return replace(mix, engines={engine: share for engine, share in mix.engines.items() if engine not in lacking})


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with speech/, noise/, rir/ and text/")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    count = at_least(0)
    parser.add_argument("--synthetic", type=count, default=14_000, help="utterances to synthesise (14000)")
    parser.add_argument("--synthetic2", type=count, default=5_000, help="moves, codes and long sentences (5000)")
    parser.add_argument("--synthetic3", type=count, default=8_000, help="fast, with weak forms (8000)")
    parser.add_argument(
        "--synthetic4", type=count, default=4_000, help="the same, the t of at and it unreleased (4000)"
    )
    parser.add_argument("--synthetic5", type=count, default=8_000, help="moves, codes and spelling by Britons (8000)")
    parser.add_argument("--synthetic6", type=count, default=4_000, help="of the ready command files (4000)")
    parser.add_argument("--synthetic7", type=count, default=6_000, help="texts with words seldom heard (6000)")
    parser.add_argument("--synthetic8", type=count, default=14_800, help="by Kokoro, if it is given (14800)")
    parser.add_argument("--kokoro", type=Path, help="folder of Kokoro-82M: model.onnx, config.json, voices/")
    parser.add_argument("--synthetic9", type=count, default=14_000, help="by hibari (pip install hibari-tts; 14000)")
    parser.add_argument("--synthetic10", type=count, default=8_000, help="by SVOX Pico, if it is installed (8000)")
    parser.add_argument("--synthetic11", type=count, default=8_000, help="by voices of Piper, if they are given (8000)")
    parser.add_argument("--synthetic12", type=count, default=11_600, help="what is short, by Kokoro or hibari (11600)")
    parser.add_argument("--piper", type=Path, help="folder of voices of Piper: .onnx and .onnx.json of each")
    parser.add_argument(
        "--synthetic13", type=count, default=80_000, help="of a wide vocabulary, by all of these (80000)"
    )
    parser.add_argument("--synthetic14", type=count, default=12_000, help="timers, sums, measures, hesitantly (12000)")
    parser.add_argument("--synthetic15", type=count, default=12_000, help="orders, appliances, cars, machines (12000)")
    parser.add_argument("--vocab-size", type=at_least(1), default=128, help="BPE pieces (128)")
    parser.add_argument(
        "--whole-words", action=argparse.BooleanOptionalAction, default=True,
        help="also one for each digit, letter and word in passing (yes)",
    )  # fmt: skip
    parser.add_argument("--jobs", type=at_least(1), default=2, help="synthesisers that run at a time (2)")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def prepare_real(data: Path, out: Path) -> None:
    """Gather the corpora into `train/`, `dev/` and `test/`, one manifest a corpus."""
    corpora = sorted(path for path in (data / "speech").glob("*") if path.is_dir())
    if not corpora:
        raise ManifestError(f"{data / 'speech'}: holds no corpora; give --data a folder laid out as the README says")
    for corpus in corpora:
        for split in ("train", "dev", "test"):
            manifest = corpus / f"{split}.jsonl"
            rows = [real_row(row, corpus) for row in read_manifest(manifest)] if manifest.exists() else []
            if rows:
                write_manifest(out / split / f"{corpus.name}.jsonl", rows)
                print(f"{split:5} {corpus.name:20} {len(rows):6} utterances {hours(rows):6.2f} h")


def real_row(row: Row, corpus: Path) -> Row:
    """Keep what training needs of a row, its text normalised."""
    return {
        "audio_filepath": row["audio_filepath"],
        "duration": row["duration"],
        "text": normalise(row["text"]),
        "speaker": row["speaker"],
        "corpus": corpus.name,
    }


def prepare_sounds(folder: Path, out: Path, kind: str) -> None:
    """Gather noises or impulse responses; the set that is kept for testing gets a manifest of its own."""
    for split in ("train", "test"):
        sets = [path for path in sorted(folder.glob("*/manifest.jsonl")) if is_test(path) == (split == "test")]
        rows = [{**row, "corpus": path.parent.name} for path in sets for row in read_manifest(path)]
        rows = [row for row in rows if row.get("use") != "effect"]  # reversed and gated ones are no rooms
        if rows:
            write_manifest(out / split / f"_{kind}.jsonl", rows)


def is_test(manifest: Path) -> bool:
    """Tell whether a set of noises is kept for testing."""
    return manifest.parent.name == "noisekun"


def read_texts(folder: Path) -> list[str]:
    """Read every text file, one utterance a line, normalised, without doubles, in a fixed order."""
    lines = (line for path in sorted(folder.glob("*.txt")) for line in path.read_text("utf-8").splitlines())
    return list(dict.fromkeys(text for text in map(normalise, lines) if text))


def prepare_tokenizer(lines: list[str], out: Path, vocab_size: int, whole_words: Iterable[str] = ()) -> None:
    """Train the BPE model, give some words a piece each, and keep the text."""
    tokenizer = Tokenizer.train(lines, vocab_size).with_words(whole_words)
    tokenizer.save(out / "tokenizer.model")
    (out / "text.txt").write_text("\n".join(lines) + "\n", "utf-8")
    print(f"tokenizer: {len(tokenizer)} pieces from {len(lines)} texts")


def prepare_synthetic(
    name: str,
    lines: list[str],
    out: Path,
    n_utterances: int,
    seed: int,
    jobs: int,
    networks: Mapping[str, Network] = NO_NETWORKS,
) -> None:
    """Synthesise a mix; voices of `DEV_VOICES` speak the dev set and are never trained on."""
    if not n_utterances:
        return
    mix = at_hand(MIXES[name], networks)
    if mix != MIXES[name]:
        if not mix.engines:
            fate = "is left out"
        elif mix.engines.keys() <= MIXES[name].engines.keys():
            fate = "goes without some of its voices"
        else:
            fate = f"is by {' and '.join(mix.engines)}"
        print(f"train {name:20} {fate}: there is no {' and no '.join(absent(MIXES[name], networks))}")
    if not mix.engines:
        return
    require(mix.engines)
    fitting = [line for line in lines if mix.n_words[0] <= len(line.split()) <= mix.n_words[1]]
    if mix.least:
        manifests = [path for path in (out / "train").glob("[!_]*.jsonl") if path.stem != name]
        heard = Counter(word for path in manifests for row in read_manifest(path) for word in row["text"].split())
        fitting = texts.seldom_heard(fitting, heard, mix.least, seed)
    requests = list(islice(plan(mix, fitting, out / "synthetic", seed, networks), n_utterances))
    rows: list[Row] = []
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn()) as progress:
        task = progress.add_task("synthesising", total=len(requests))
        chunks = [requests[start : start + 200] for start in range(0, len(requests), 200)]
        with ThreadPoolExecutor(jobs) as pool:
            for chunk, spoken in zip(chunks, pool.map(partial(speak, networks=networks), chunks), strict=True):
                rows.extend({**row, "corpus": name} for row in spoken)
                progress.advance(task, len(chunk))
    dev = [row for row in rows if row["speaker"] in DEV_VOICES][:N_DEV_SYNTHETIC]
    train = [row for row in rows if row["speaker"] not in DEV_VOICES]
    for split, part in (("train", train), ("dev", dev if name == "synthetic" else [])):
        if part:
            write_manifest(out / split / f"{name}.jsonl", part)
            print(f"{split:5} {name:20} {len(part):6} utterances {hours(part):6.2f} h")


def plan(
    mix: Mix, lines: list[str], folder: Path, seed: int, networks: Mapping[str, Network] = NO_NETWORKS
) -> Iterator[Request]:
    """Draw requests without end: the first n are the same whatever n is."""
    draw, in_order = random.Random(seed), cycle(lines)
    while True:
        engine = draw.choices(list(mix.engines), list(mix.engines.values()))[0]
        if engine in networks:
            voice = Voice(engine, networks[engine].draw(draw))
        else:
            voice = draw_dev_voice(draw) if draw.random() < 0.01 else random_voice(engine, draw, mix.accents)
        drawn = draw.random() < mix.drawn_share or not lines
        if drawn:
            text = texts.draw_text(draw, mix.kinds)
        elif mix.commands:
            # Each word that can be the last is, as often as not: of two sentences the longer.
            text = max((texts.command(draw, lines, mix.commands) for _ in range(2)), key=len)
        else:
            text = next(in_order) if mix.least else draw.choice(lines)
        if mix.hesitant and draw.random() < mix.hesitant:
            text = texts.hesitant(draw, text)
        if mix.reduced:
            voice = replace(voice, speed=draw.uniform(0.9, 1.6))
        # Some run words together by themselves; in half of their sentences function words are weak beyond that.
        reduced = mix.reduced and (engine not in FLUENT or draw.random() < 0.5)
        spelt = (drawn and mix.letters) or texts.is_spelt(text)
        yield Request.within(folder, text, voice, reduced, mix.glottal, spelt)


def draw_dev_voice(draw: random.Random) -> Voice:
    """Draw a voice that only dev utterances have."""
    engine, name = draw.choice(DEV_VOICES).split("_", 1)
    return Voice(engine, name)


def speak(requests: list[Request], networks: Mapping[str, Network] = NO_NETWORKS) -> list[Row]:
    """Synthesise a chunk; return the rows of what could be spoken."""
    return [synthetic_row(request) for request in synthesise(requests, networks)]


def synthetic_row(request: Request) -> Row:
    """Describe a file that was synthesised."""
    return {
        "audio_filepath": str(request.path.resolve()),
        "duration": round(soundfile.info(request.path).duration, 3),
        "text": texts.fluent(request.text),
        "speaker": request.voice.speaker,
    }


def hours(rows: Iterable[Row]) -> float:
    """Add up durations."""
    return sum(row["duration"] for row in rows) / 3600


if __name__ == "__main__":
    sys.exit(main())
