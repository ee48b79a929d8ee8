"""Speak phones with Kokoro-82M, a text-to-speech network of many voices (hexgrad 2025, Apache-2.0), by ONNX Runtime.

The engines of `speechformer.synthesis` say each phone as it is said alone; a network that has heard people runs words
into each other as people do. The folder holds what is published: `model.onnx`, `config.json` (for its table of
phones, `vocab`) and `voices/<name>.bin`.

Suffixes: L length of the phones, D width of a style, N samples.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from speechformer.audio import Waveform, convert
from speechformer.errors import SynthesisError, UnspeakableError

KOKORO_RATE_HZ = 24_000
MAX_PHONES = 500
STYLE_SIZE = 256

# What espeak-ng writes → what the network learnt from: one letter for a diphthong (the alphabet of `misaki`).
_BOTH = (("aɪ", "I"), ("aʊ", "W"), ("dʒ", "ʤ"), ("eɪ", "A"), ("tʃ", "ʧ"), ("ɔɪ", "Y"), ("əl", "ᵊl"), ("ɚ", "əɹ"),
         ("r", "ɹ"), ("x", "k"), ("ç", "k"), ("ɐ", "ə"), ("ɬ", "l"), ("ɾ", "T"))  # fmt: skip
_BRITISH = (("eə", "ɛː"), ("iə", "ɪə"), ("əʊ", "Q"), ("oʊ", "Q"))
_AMERICAN = (("oʊ", "O"), ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("ɪə", "iə"), ("ː", ""), ("o", "ɔ"))


def phones_from_espeak(ipa: str, accent: str) -> str:
    """Write in Kokoro's alphabet what `espeak-ng --ipa` wrote in an accent, "en-gb" or "en-us"."""
    phones = " ".join(ipa.split())
    for theirs, ours in (*_BOTH, *(_BRITISH if accent == "en-gb" else _AMERICAN)):
        phones = phones.replace(theirs, ours)
    return phones


def open_network(path: Path) -> onnxruntime.InferenceSession:
    """Load a network that speaks; as many utterances are computed at a time as there are threads that ask."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Kokoro:
    """The network and its voices; may be called from many threads at a time."""

    def __init__(self, folder: Path) -> None:
        """Load the network; raise SynthesisError that names what the folder lacks."""
        missing = [name for name in ("model.onnx", "config.json", "voices") if not (folder / name).exists()]
        if missing:
            raise SynthesisError(
                f"{folder}: has no {' nor '.join(missing)}; Kokoro-82M is model.onnx, config.json and voices/"
            )
        self.folder = folder
        self.ids: dict[str, int] = json.loads((folder / "config.json").read_text("utf-8"))["vocab"]
        self.session = open_network(folder / "model.onnx")
        self.inputs = [given.name for given in self.session.get_inputs()]  # phones, style, speed, whatever their names
        self._style = cache(self._read_style)
        self._names = sorted(path.stem for path in (folder / "voices").glob("*.bin"))

    def voices(self) -> list[str]:
        """Names of the voices: a letter for the language, f or m, a name ("bm_george")."""
        return list(self._names)

    def _read_style(self, name: str) -> npt.NDArray[np.float32]:
        path = self.folder / "voices" / f"{name}.bin"
        if not path.exists():
            raise SynthesisError(f"{path}: there is no such voice; there are {', '.join(self.voices())}")
        return np.fromfile(path, np.float32).reshape(-1, STYLE_SIZE)

    def draw(self, draw: random.Random) -> str:
        """Draw the name of a voice: English, or English with some of another, so that hardly two are alike.

        "en-gb/bm_george/zf_xiaoni/0.25" is a quarter of the second. One in five has something of a voice of another
        language, and its accent.
        """
        english = [name for name in self._names if name[0] in "ab"]
        british = [name for name in english if name[0] == "b"]
        first = draw.choice(british if british and draw.random() < 0.4 else english)
        foreign = [name for name in self._names if name not in english]
        second = draw.choice(foreign if foreign and draw.random() < 0.2 else english)
        accent = "en-gb" if first[0] == "b" or (second[0] != "a" and draw.random() < 0.3) else "en-us"
        return f"{accent}/{first}/{second}/{draw.choice((0.0, 0.25, 0.4, 0.55))}"

    def speak(self, ipa: str, name: str, speed: float = 1.0) -> Waveform:
        """Return `waveform_N` at 16 kHz, said by a voice that `draw` names; `ipa` as espeak-ng writes it."""
        accent, first, second, share = name.split("/")
        phones = phones_from_espeak(ipa, accent)
        ids_L = [self.ids[phone] for phone in phones if phone in self.ids][:MAX_PHONES]
        if not ids_L:
            raise UnspeakableError(f"there is no phone in {phones!r} that Kokoro knows")
        style_D = self._of_length(first, len(ids_L))
        if float(share):
            style_D = style_D + np.float32(share) * (self._of_length(second, len(ids_L)) - style_D)
        given = (np.array([[0, *ids_L, 0]]), style_D[None], np.array([speed], np.float32))
        waveform_N = self.session.run(None, dict(zip(self.inputs, given, strict=True)))[0]
        return convert(waveform_N.ravel(), KOKORO_RATE_HZ, "Kokoro")

    def _of_length(self, name: str, length: int) -> npt.NDArray[np.float32]:
        style_LD = self._style(name)  # one for each number of phones
        return style_LD[min(length, len(style_LD)) - 1]
