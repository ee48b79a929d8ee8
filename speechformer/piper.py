"""Speak phones with the voices of Piper (VITS: Kim, Kong and Son 2021), each learnt from people, by ONNX Runtime.

A voice is what is published for it: `<voice>.onnx` and `<voice>.onnx.json`. Some have a hundred speakers and more.
What is drawn in the network (prosody, breath) is not drawn from a seed: no voice says the same text twice alike.

Suffixes: L length of the phones, N samples.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from speechformer.audio import Waveform, convert
from speechformer.errors import SynthesisError, UnspeakableError
from speechformer.kokoro import MAX_PHONES, open_network

# What stands before, after and between all phones of a text.
BEGIN, END, BETWEEN = "^", "$", "_"


@dataclass
class _Voice:
    """What a voice says of itself, and its network, loaded when it first speaks."""

    network: Path
    accent: str
    rate_hz: int
    n_speakers: int
    ids_of: dict[str, list[int]]  # numbers of a phone
    noise: float  # of the sound
    length: float
    noise_of_length: float

    @classmethod
    def load(cls, network: Path) -> _Voice:
        """Read its description; raise SynthesisError for a file that is missing or no such thing."""
        path = network.with_name(f"{network.name}.json")
        try:
            settings: dict[str, Any] = json.loads(path.read_text("utf-8"))
            own, ids_of = settings.get("inference", {}), settings["phoneme_id_map"]
            voice = cls(
                network, settings["espeak"]["voice"], settings["audio"]["sample_rate"],
                settings.get("num_speakers", 1), ids_of,
                own.get("noise_scale", 0.667), own.get("length_scale", 1.0), own.get("noise_w", 0.8),
            )  # fmt: skip
            if not {BEGIN, END, BETWEEN} <= ids_of.keys():
                raise KeyError("phoneme_id_map")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise SynthesisError(f"{path}: is not the description of a voice of Piper ({error!r})") from error
        return voice

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        return open_network(self.network)

    def ids(self, ipa: str) -> list[int]:
        """Return the numbers of the phones and of what stands around them; nothing if none is known."""
        phones = [phone for phone in " ".join(ipa.split()) if phone in self.ids_of][:MAX_PHONES]
        if not any(phone.isalpha() for phone in phones):
            return []
        said = [BEGIN, *phones, *(["."] if "." in self.ids_of else [])]  # as the sentences that it learnt from end
        return [number for phone in said for number in (*self.ids_of[phone], *self.ids_of[BETWEEN])] + self.ids_of[END]


class Piper:
    """All voices of a folder; may be called from many threads at a time."""

    def __init__(self, folder: Path) -> None:
        """Find the voices; raise SynthesisError where there is none or one is not whole."""
        self.voices = {path.stem: _Voice.load(path) for path in sorted(folder.rglob("*.onnx"))}
        if not self.voices:
            raise SynthesisError(f"{folder}: has no voice of Piper; one is a file .onnx and its .onnx.json")

    def draw(self, draw: random.Random) -> str:
        """Draw a speaker of all there are, and how large: "en-us/en_US-joe-medium/0/1.08" has a shorter throat.

        Pitch and formants are higher by that factor, at the same pace.
        """
        voice = draw.choices(list(self.voices), [one.n_speakers for one in self.voices.values()])[0]
        speaker = draw.randrange(self.voices[voice].n_speakers)
        return f"{self.voices[voice].accent}/{voice}/{speaker}/{draw.uniform(0.85, 1.2):.2f}"

    def speak(self, ipa: str, name: str, speed: float = 1.0) -> Waveform:
        """Return `waveform_N` at 16 kHz, said by a voice that `draw` names; `ipa` as espeak-ng writes it."""
        _, voice_name, speaker, factor = name.split("/")
        if voice_name not in self.voices:
            raise SynthesisError(f"{voice_name}: there is no such voice of Piper; there are {', '.join(self.voices)}")
        voice, size = self.voices[voice_name], float(factor)
        ids_L = voice.ids(ipa)
        if not ids_L:
            raise UnspeakableError(f"there is no phone in {ipa!r} that {voice_name} knows")
        length = voice.length * size / speed  # played faster by `size` it is as long as it should be
        given = {
            "input": np.array([ids_L]),
            "input_lengths": np.array([len(ids_L)]),
            "scales": np.array([voice.noise, length, voice.noise_of_length], np.float32),
            **({"sid": np.array([int(speaker)])} if voice.n_speakers > 1 else {}),
        }
        waveform_N = voice.session.run(None, given)[0]
        return convert(waveform_N.ravel(), round(voice.rate_hz * size), voice_name)
