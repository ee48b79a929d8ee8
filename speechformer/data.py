"""From a manifest to batches: rows of JSON lines → waveforms in one file → augmented, bucketed `Batch`es.

What a batch holds depends on the seed, the epoch and its place in the epoch alone, so a run that was cut off
goes on with the very batch it would have seen.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from speechformer.audio import SAMPLE_RATE_HZ, Waveform, load_audio
from speechformer.augment import (
    AugmentConfig,
    Sounds,
    augment_channel,
    augment_speech,
    draw_hop,
    mask_mel,
    wait_around,
)
from speechformer.config import check_within
from speechformer.errors import ConfigError, ManifestError
from speechformer.features import FeatureConfig, add_hiss, collate, log_mel, mfcc, normalise
from speechformer.files import replace_file
from speechformer.tokenizer import BOS, EOS, PAD, Tokenizer

Row = dict[str, Any]


@dataclass(frozen=True)
class DataConfig:
    """Where the manifests are and how utterances are drawn from them.

    `train` and `dev` are folders of manifests, one a corpus; files whose names begin with `_` are sounds.
    `weights` says how often an epoch sees each utterance of a corpus (1 where it is not named). `phrase_share` of the
    utterances shorter than `phrase_part_s` begin a phrase: two to five of them with pauses of up to `pause_s` between.
    A batch holds every utterance in `views` versions, as it would be heard in other rooms, noises and masks.
    """

    train: Path = Path("data/train")
    dev: Path = Path("data/dev")
    weights: dict[str, float] = field(default_factory=dict)
    max_s: float = 16.0
    batch_s: float = 90.0
    phrase_share: float = 0.3
    phrase_part_s: float = 4.0
    pause_s: float = 0.6
    noise_share: float = 0.02
    views: int = 1
    n_workers: int = 1

    def __post_init__(self) -> None:
        check_within(self, "data.", "max_s batch_s", 0, exclusive=True)
        check_within(self, "data.", "phrase_part_s pause_s n_workers", 0)
        check_within(self, "data.", "phrase_share noise_share", 0, 1)
        check_within(self, "data.", "views", 1)
        for corpus, weight in self.weights.items():
            if not 0 <= weight < math.inf:
                raise ConfigError(f"data.weights.{corpus} is 0 or more, not {weight}")


@dataclass(frozen=True)
class Batch:
    """Utterances side by side. `tokens_BL` has begin and end; `tokens_B` counts them without those two.

    Where there are views of one utterance, all first ones come before all second ones.
    """

    features_BTC: Tensor
    frames_B: Tensor
    tokens_BL: Tensor
    tokens_B: Tensor

    def to(self, device: str) -> Batch:
        """Return the batch on a device."""
        return Batch(*(part.to(device) for part in vars(self).values()))


def read_manifest(path: Path) -> list[Row]:
    """Read a NeMo-style manifest: JSON lines with `audio_filepath`, and `duration`, `text`, `speaker`, `corpus`.

    Relative audio paths are taken from the manifest's folder. Raises ManifestError, naming the line.
    """
    try:
        lines = Path(path).read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: the manifest cannot be read as text; check the path") from error
    return [_parse_row(line, f"{path}:{i}", Path(path).parent) for i, line in enumerate(lines, 1) if line.strip()]


def _parse_row(line: str, where: str, folder: Path) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"{where}: not JSON ({error.msg} at column {error.colno}); write one object a line"
        ) from error
    if not isinstance(row, dict) or not isinstance(row.get("audio_filepath"), str):
        raise ManifestError(f'{where}: has no "audio_filepath"; write one in every line')
    for key, kind in (("duration", int | float), ("text", str)):
        if key in row and not isinstance(row[key], kind):
            raise ManifestError(
                f'{where}: "{key}" is {row[key]!r}; write {"a number" if key == "duration" else "text"}'
            )
    return {**row, "audio_filepath": str(folder / row["audio_filepath"])}


def write_manifest(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON lines, replacing the file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    replace_file(path, lambda unfinished: unfinished.write_text(text, "utf-8"))


def read_folder(folder: Path, sounds: bool = False) -> dict[str, list[Row]]:
    """Read every manifest of a folder, by name: those of speech, or those of sounds (`_noise`, `_rir`)."""
    paths = [path for path in sorted(folder.glob("*.jsonl")) if path.name.startswith("_") == sounds]
    if not paths and not sounds:
        raise ManifestError(f"{folder}: holds no manifests; run the recipe's prepare.py first")
    return {path.stem.removeprefix("_"): read_manifest(path) for path in paths}


class WaveformStore:
    """The audio of many rows in one 16-bit file that is mapped, not read: made once, then instant.

    Indexing gives a row's `waveform_N`.
    """

    def __init__(self, rows: Sequence[Row], cache: Path) -> None:
        names = [(row["audio_filepath"], *_version(row["audio_filepath"])) for row in rows]
        key = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]
        path, index = cache / f"{key}.pcm", cache / f"{key}.npy"
        if not index.exists():
            self._build(rows, path, index)
        self.offsets: npt.NDArray[np.int64] = np.load(index)
        self.samples: npt.NDArray[np.int16] = (
            np.memmap(path, np.int16, "r") if self.offsets[-1] else np.zeros(0, np.int16)
        )

    @staticmethod
    def _build(rows: Sequence[Row], path: Path, index: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        offsets = [0]
        # Two runs may build the same store at once: each writes its own file, and both are equal.
        unfinished = path.with_suffix(f".{os.getpid()}.pcm"), path.with_suffix(f".{os.getpid()}.npy")
        with unfinished[0].open("wb") as file:
            for row in rows:
                waveform_N = load_audio(row["audio_filepath"])
                file.write((waveform_N * 32767).clip(-32768, 32767).astype(np.int16).tobytes())
                offsets.append(offsets[-1] + len(waveform_N))
        np.save(unfinished[1], np.array(offsets))
        unfinished[0].replace(path)
        unfinished[1].replace(index)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> Waveform:
        return self.samples[self.offsets[i] : self.offsets[i + 1]].astype(np.float32) / np.float32(32768)

    def views(self) -> list[npt.NDArray[np.int16]]:
        """Return every row's samples as they lie in the file: nothing is read before it is used."""
        return [self.samples[start:end] for start, end in itertools.pairwise(self.offsets)]

    def waveforms(self) -> list[Waveform]:
        """Read every row's `waveform_N`."""
        return [self[i] for i in range(len(self))]

    def seconds(self, i: int) -> float:
        """Length of a row's audio."""
        return float(self.offsets[i + 1] - self.offsets[i]) / SAMPLE_RATE_HZ


def _version(path: str) -> tuple[int, int]:
    """Return size and time of a file, which change when it is recorded again."""
    try:
        status = Path(path).stat()
    except OSError:
        return 0, 0  # reading it will say what is wrong
    return status.st_size, int(status.st_mtime)


Item = tuple[int, ...]  # rows said one after the other; none: noise alone


class TrainingSet(Dataset[Batch]):
    """Batches by (epoch, number): `plan` lists an epoch's batches, `[epoch, number]` makes one."""

    def __init__(
        self,
        config: DataConfig,
        augment: AugmentConfig,
        features: FeatureConfig,
        tokenizer: Tokenizer,
        seed: int,
    ) -> None:
        self.config, self.augment, self.features, self.tokenizer = config, augment, features, tokenizer
        self.seed = seed
        cache = config.train / ".cache"
        rows = [row for part in read_folder(config.train).values() for row in part]
        for row, key in itertools.product(rows, ("duration", "text")):
            if key not in row:
                raise ManifestError(f'{row["audio_filepath"]}: its manifest line lacks "{key}"; write it for training')
        self.rows = [row for row in rows if row["duration"] <= config.max_s]
        if not self.rows:
            raise ManifestError(f"{config.train}: no utterance is as short as data.max_s = {config.max_s}; raise it")
        if not any(self._weight(row) for row in self.rows):
            raise ConfigError(f"data.weights: {config.train} has nothing that weighs more than 0; give a corpus more")
        self.store = WaveformStore(self.rows, cache)
        sounds = read_folder(config.train, sounds=True)
        noises = WaveformStore(sounds.get("noise", []), cache).views()
        rooms = WaveformStore(sounds.get("rir", []), cache).waveforms()
        self.sounds = Sounds(noises, rooms, voices=self.store.views())
        self.tokens = [tokenizer.encode(row["text"]) for row in self.rows]
        self.plans: dict[int, list[list[Item]]] = {}

    def plan(self, epoch: int) -> list[list[Item]]:
        """Draw an epoch: which utterances, which of them in one phrase, bucketed by length into batches."""
        if epoch not in self.plans:
            draw = np.random.default_rng((self.seed, epoch))
            weights = np.array([self._weight(row) for row in self.rows])
            counts = np.floor(weights + draw.random(len(weights))).astype(int)
            rows = draw.permutation(np.repeat(np.arange(len(counts)), counts)).tolist()
            items = self._phrases(rows, draw)
            items += [() for _ in range(int(self.config.noise_share * len(items)))]
            self.plans = {epoch: self._bucket(items, draw)}
        return self.plans[epoch]

    def _weight(self, row: Row) -> float:
        return self.config.weights.get(row.get("corpus", ""), 1.0)

    def _phrases(self, rows: list[int], draw: np.random.Generator) -> list[Item]:
        # Single words outnumber sentences, and people pause: some utterances are strung into phrases.
        items: list[Item] = []
        phrase: list[int] = []
        wanted = 0
        for row in rows:
            short = self.store.seconds(row) < self.config.phrase_part_s
            if short and (phrase or draw.random() < self.config.phrase_share):
                wanted = wanted if phrase else int(draw.integers(2, 6))
                phrase.append(row)
                longest = self._seconds(tuple(phrase)) + self.config.phrase_part_s + self.config.pause_s
                if len(phrase) == wanted or longest > self.config.max_s:
                    items.append(tuple(phrase))
                    phrase = []
            else:
                items.append((row,))
        return items + [(row,) for row in phrase]

    def _seconds(self, item: Item) -> float:
        pauses = 0.3 + self.config.pause_s / 2 * (len(item) - 1)
        return sum(map(self.store.seconds, item)) + pauses if item else 2.0

    def _bucket(self, items: list[Item], draw: np.random.Generator) -> list[list[Item]]:
        seconds = np.array([self._seconds(item) for item in items])
        order = np.argsort(seconds * draw.uniform(0.9, 1.1, len(items)))
        batches: list[list[Item]] = []
        longest = 0.0
        for i in order:
            longest = max(longest, seconds[i])
            if not batches or longest * (len(batches[-1]) + 1) * self.config.views > self.config.batch_s:
                batches.append([])
                longest = seconds[i]
            batches[-1].append(items[i])
        # Two processes that train together take neighbours: of about one length, neither waits for the other.
        pairs = draw.permutation(len(batches) // 2)
        return [batches[2 * pair + i] for pair in pairs for i in (0, 1)] + batches[2 * len(pairs) :]

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, number = key
        items = self.plan(epoch)[number]
        shared = np.random.default_rng((self.seed, epoch, number // 2))  # neighbours stay alike
        hop, waits = draw_hop(self.augment, shared), bool(shared.random() < self.augment.wait)
        draws = [np.random.default_rng((self.seed, epoch, number, i)) for i in range(len(items))]
        each = (self._views(item, hop, waits, draw) for item, draw in zip(items, draws, strict=True))
        views = zip(*each, strict=True)
        tokens = [[token for row in item for token in self.tokens[row]] for item in items]
        return make_batch([features_TC for view in views for features_TC in view], tokens * self.config.views)

    def _views(self, item: Item, hop: int, waits: bool, draw: np.random.Generator) -> list[npt.NDArray[np.float32]]:
        speech_N = augment_speech(self._phrase(item, draw) if item else self._noise(draw), self.augment, draw)
        if waits:
            speech_N = wait_around(speech_N, self.augment, draw)
        views = []
        for _ in range(self.config.views):
            waveform_N = add_hiss(augment_channel(speech_N, self.augment, self.sounds, draw), self.features)
            mel_TF = mask_mel(log_mel(waveform_N, self.features, hop), self.augment, draw)
            views.append(normalise(mfcc(mel_TF, self.features), self.features))
        return views

    def _phrase(self, item: Item, draw: np.random.Generator) -> Waveform:
        if len(item) == 1:
            return self.store[item[0]]
        parts = []
        for row in item:
            waveform_N = self.store[row]
            # Speakers of one phrase are brought to one level.
            level = float(np.sqrt(np.mean(np.square(waveform_N)))) + 1e-6
            pause = int(draw.uniform(0, self.config.pause_s) * SAMPLE_RATE_HZ)
            parts += [waveform_N * np.float32(0.05 / level), np.zeros(pause, np.float32)]
        return np.concatenate(parts[:-1])

    def _noise(self, draw: np.random.Generator) -> Waveform:
        n_samples = int(draw.uniform(0.5, 4.0) * SAMPLE_RATE_HZ)
        if not self.sounds.noises or draw.random() < 0.2:
            return np.zeros(n_samples, np.float32)
        return self.sounds.draw_noise(n_samples, draw)

    def loader(self, epoch: int, start: int = 0, rank: int = 0, size: int = 1) -> Iterator[Batch]:
        """Yield an epoch's batches from number `start` on, every `size`-th, made ahead by worker processes."""
        end = len(self.plan(epoch)) // size * size
        if not end:
            raise ManifestError(f"{self.config.train}: too few utterances for {size} batches; lower data.batch_s")
        keys = [(epoch, number) for number in range(start + rank, end, size)]
        n_workers = self.config.n_workers
        loader: DataLoader[Batch] = DataLoader(
            self, batch_size=None, sampler=keys, num_workers=n_workers,
            prefetch_factor=8 if n_workers else None,
            generator=torch.Generator(),  # the global one is dropout's: a resumed run must not draw from it once more
        )  # fmt: skip
        return iter(loader)


def make_batch(features: Sequence[npt.NDArray[np.float32]], tokens: Sequence[Sequence[int]]) -> Batch:
    """Pad utterances and their token ids into a batch."""
    features_BTC, frames_B = map(torch.from_numpy, collate(features))
    tokens_B = torch.tensor([len(ids) for ids in tokens])
    tokens_BL = torch.full((len(tokens), int(tokens_B.max()) + 2), PAD)
    for row_L, ids in zip(tokens_BL, tokens, strict=True):
        row_L[: len(ids) + 2] = torch.tensor([BOS, *ids, EOS])
    return Batch(features_BTC, frames_B, tokens_BL, tokens_B)
