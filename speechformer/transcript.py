"""What was said: segments, commands, and what is known of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["accepted", "unsure", "not_a_command", "no_speech"]
Slots = dict[str, str | int | float | bool]


@dataclass(frozen=True)
class Alternative:
    """A command that it could be, with its probability."""

    text: str
    intent: str
    slots: Slots
    probability: float


@dataclass(frozen=True)
class Command:
    """The command that was understood, or why there is none.

    `unsure`: one of the alternatives, but which? `not_a_command`: speech that is none of the commands;
    `heard` is what it sounded like. `no_speech`: silence, noise, music. `confidence` is the calibrated
    probability that the first alternative is what was said; `numbers` are what it was made of.
    """

    status: Status
    confidence: float
    alternatives: tuple[Alternative, ...]
    heard: str
    numbers: dict[str, float]

    @property
    def accepted(self) -> bool:
        """Whether to act on it."""
        return self.status == "accepted"

    def __str__(self) -> str:
        if self.status == "no_speech":
            return f"no speech ({1 - self.numbers.get('speech', 0.0):.2f})"
        if self.status == "not_a_command":
            return f'not a command, sounds like "{self.heard}" ({1 - self.numbers.get("command", 0.0):.2f})'
        if self.status == "unsure":
            options = " or ".join(f'"{one.text}" ({one.probability:.2f})' for one in self.alternatives[:2])
            return f"unsure: {options}"
        best = self.alternatives[0]
        slots = ", ".join(f"{name}={value}" for name, value in best.slots.items())
        return f"{best.text}\t{best.intent}({slots})\t{self.confidence:.2f}"


@dataclass(frozen=True)
class Word:
    """A word, when it was said, and the probability of its tokens by the model; it is not calibrated.

    The times are CTC's. `agreement` is how much of the word's cross-attention falls there, 0…1 (see `alignment`); with
    less than a half the two halves of the model do not mean the same place, and the times are `doubtful`.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float
    agreement: float = 1.0
    doubtful: bool = False


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording and its text.

    `log_probability` is the joint log probability of the text given the sound; it is not calibrated. With a
    command set, `command` is what became of it, and the text of a refused one is empty. `words` are there if they
    were asked for.
    """

    text: str
    start_s: float
    end_s: float
    log_probability: float
    command: Command | None = None
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """The text of one recording. `name` is where it came from, `elapsed_s` what its batch took to transcribe."""

    name: str
    text: str
    duration_s: float
    elapsed_s: float
    segments: tuple[Segment, ...]

    @property
    def command(self) -> Command | None:
        """The first command that was accepted; where none was, the first that came nearest to it."""
        nearest = ("accepted", "unsure", "not_a_command", "no_speech")
        commands = [segment.command for segment in self.segments if segment.command]
        return min(commands, key=lambda command: nearest.index(command.status), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values with times rounded to milliseconds; with a command set, its answer on top."""
        plain: dict[str, Any] = _rounded(asdict(self))
        for segment in plain["segments"]:
            for key in ("command", "words"):
                if not segment[key]:
                    del segment[key]
        if self.command:
            plain |= {"status": self.command.status, "confidence": round(self.command.confidence, 3)}
            if self.command.accepted:
                best = self.command.alternatives[0]
                plain |= {"intent": best.intent, "slots": best.slots}
        return plain


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key == "slots" else _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value
