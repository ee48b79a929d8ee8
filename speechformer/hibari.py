"""Speak phones with hibari (pip install hibari-tts, Apache-2.0), a hundred times faster than real time, in any voice.

hibari is one voice, distilled from Kokoro; but what its network gives is how open each part of the spectrum is to the
voice and to noise, and the pitch. So the pitch can be another's, and the spectrum be that of a longer or shorter
vocal tract (as WORLD's vocoder allows: Morise et al. 2016), while words run into each other as they do.

Suffixes: L length of the phones, K bins of the spectrum, T frames, N samples.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from speechformer.audio import Waveform, convert
from speechformer.errors import SynthesisError, UnspeakableError
from speechformer.kokoro import phones_from_espeak

UNFIT = 1.0  # nats by which the rest is less where there is voice

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Throat:
    """Whose voice it is: factors of hibari's own pitch, of its liveliness, of the length of its vocal tract.

    `tone_db` lifts regions of the spectrum, a value for each eighth of it; `breath` is how much noise there is.
    """

    pitch: float = 1.0
    liveliness: float = 1.0
    tract: float = 1.0
    tone_db: tuple[float, ...] = (0.0,) * 8
    breath: float = 1.0

    @classmethod
    def random(cls, draw: random.Random) -> Throat:
        """Draw a woman's, a man's or a child's."""
        kind = draw.random()
        pitch, tract = (0.58, 1.14) if kind < 0.5 else (1.0, 1.0) if kind < 0.85 else (1.3, 0.88)
        return cls(
            pitch * draw.uniform(0.85, 1.18), draw.uniform(0.5, 1.3), tract * draw.uniform(0.93, 1.07),
            tuple(round(draw.gauss(0, 3), 1) for _ in range(8)), draw.uniform(0.7, 1.6),
        )  # fmt: skip


class Hibari:
    """The network; may be called from many threads at a time."""

    def __init__(self) -> None:
        """Load the network that comes with the package; raise SynthesisError where it is not installed."""
        try:
            import hibari
            from hibari import dsp
        except ImportError as error:
            raise SynthesisError(
                "hibari is not installed; pip install hibari-tts, or ask for no speech of its"
            ) from error
        self.network: Any = hibari.Hibari(threads=1)
        self.dsp: Any = dsp
        self.rate_hz: int = hibari.SAMPLE_RATE

    def draw(self, draw: random.Random) -> str:
        """Draw the name of a voice, "en-gb/271828": an accent and what its throat is drawn from."""
        return f"{draw.choice(('en-gb', 'en-us'))}/{draw.randrange(10**6)}"

    def speak(self, ipa: str, name: str, speed: float = 1.0) -> Waveform:
        """Return `waveform_N` at 16 kHz, said by a voice that `draw` names; `ipa` as espeak-ng writes it."""
        accent, _, throat = name.partition("/")
        return self.speak_with(Throat.random(random.Random(throat)), phones_from_espeak(ipa, accent), speed)

    def speak_with(self, throat: Throat, phones: str, speed: float = 1.0) -> Waveform:
        """Return `waveform_N` at 16 kHz; phones as those of Kokoro."""
        ids_1L = np.array([self.network.ids(phones)])
        if ids_1L.shape[1] < 3:
            raise UnspeakableError(f"there is no phone in {phones!r} that hibari knows")
        outputs = self.network.sess.run(None, {"ids": ids_1L, "speed": np.array([speed], np.float32)})
        voiced_KT, phase_KT, noise_KT, rest_KT, rest_phase_KT, pitch_T = (output[0] for output in outputs)
        sounding_T = pitch_T > 40
        if sounding_T.any():
            middle = np.exp(np.log(pitch_T[sounding_T]).mean())
            contour_T = (np.maximum(pitch_T, 1) / middle) ** throat.liveliness
            pitch_T = np.where(sounding_T, middle * throat.pitch * contour_T, 0).astype(np.float32)
        # The rest is consonants, but also what fits hibari's own pitch alone, harmonic by harmonic.
        rest_KT = self._stretched(rest_KT, throat.tract) - np.where(sounding_T, np.float32(UNFIT), np.float32(0))
        tone_K1 = self._tone(throat, len(voiced_KT))
        waveform_N = self.dsp.synth(
            self._stretched(voiced_KT, throat.tract) + tone_K1,
            self._stretched(phase_KT, throat.tract),
            self._stretched(noise_KT, throat.tract) + tone_K1 + np.float32(np.log(throat.breath)),
            rest_KT + tone_K1, rest_phase_KT, pitch_T, np.random.default_rng(0),
        )  # fmt: skip
        return convert(waveform_N.astype(np.float32), self.rate_hz, "hibari")

    def _tone(self, throat: Throat, n_bins: int) -> Array:
        db_K = np.interp(np.linspace(0, 7, n_bins), np.arange(8), throat.tone_db)
        return (db_K * (np.log(10) / 20)).astype(np.float32)[:, None]

    @staticmethod
    def _stretched(values_KT: Array, tract: float) -> Array:
        """Move formants: a tract twice as long has them at half the frequency."""
        at_K = np.minimum(np.arange(len(values_KT)) * tract, len(values_KT) - 1)
        low_K = at_K.astype(int)
        high_K = np.minimum(low_K + 1, len(values_KT) - 1)
        share_K1 = (at_K - low_K).astype(np.float32)[:, None]
        return values_KT[low_K] * (1 - share_K1) + values_KT[high_K] * share_K1
