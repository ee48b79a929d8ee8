"""Score a model on dev speech while it is being trained: real corpora apart, synthetic speech apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechformer.beam_search import search
from speechformer.checkpoint import Checkpoint
from speechformer.ctc import ctc_greedy
from speechformer.data import Row, WaveformStore, read_folder
from speechformer.decoding import DecodingConfig
from speechformer.features import Array, FeatureConfig, collate, extract
from speechformer.metrics import score
from speechformer.tokenizer import normalise
from speechformer.torch_recogniser import TorchRecogniser
from speechformer.world import World

SYNTHETIC = "synthetic"


class DevSet:
    """Real dev speech, its features made once; synthetic speech is scored too and never chosen by."""

    def __init__(self, folder: Path, features: FeatureConfig, max_utterances: int) -> None:
        self.corpora: dict[str, tuple[list[Array], list[str]]] = {}
        for name, rows in read_folder(folder).items():
            rows = _spread(rows, max_utterances)
            store = WaveformStore(rows, folder / ".cache")
            rows_and_features = [(normalise(row["text"]), extract(store[i], features)) for i, row in enumerate(rows)]
            rows_and_features.sort(key=lambda pair: len(pair[1]))
            self.corpora[name] = (
                [pair[1] for pair in rows_and_features],
                [pair[0] for pair in rows_and_features],
            )

    def evaluate(self, checkpoint: Checkpoint, ctc_only: bool, world: World) -> dict[str, float]:
        """Return the greedy word error rate of every corpus, and "real": the mean over the real ones."""
        batches = [
            (name, start) for name, (features, _) in self.corpora.items() for start in range(0, len(features), 32)
        ]
        heard = {}
        for name, start in batches[world.rank :: world.size]:
            features = self.corpora[name][0][start : start + 32]
            heard[name, start] = transcribe_batch(checkpoint, features, ctc_only)
        heard = {key: texts for part in world.gather(heard) for key, texts in part.items()}
        rates = {}
        for name, (_, texts) in self.corpora.items():
            hypotheses = [text for corpus, start in batches if corpus == name for text in heard[corpus, start]]
            rates[name] = score(texts, hypotheses).wer
        real = [min(1.0, rate) for name, rate in rates.items() if name != SYNTHETIC] or list(rates.values())
        return {**rates, "real": float(np.mean(real))}


def _spread(rows: list[Row], n: int) -> list[Row]:
    """Take `n` rows evenly from all of them."""
    return [rows[i * len(rows) // n] for i in range(n)] if len(rows) > n else rows


def transcribe_batch(checkpoint: Checkpoint, features: Sequence[Array], ctc_only: bool) -> list[str]:
    """Return greedy texts of utterances' features."""
    recogniser = TorchRecogniser(checkpoint.model)
    memory = recogniser.listen(*collate(features))
    if ctc_only:
        return [checkpoint.tokenizer.decode(ids) for ids in ctc_greedy(memory.ctc_log_probs_BMV, memory.lengths_B)]
    found = search(recogniser, memory, DecodingConfig(beam=1))
    return [checkpoint.tokenizer.decode(hypotheses[0].tokens) for hypotheses in found]
