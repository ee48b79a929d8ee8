"""Spoken commands to text with an encoder-decoder transformer.

    from speechformer import Transcriber
    print(Transcriber.from_pretrained().transcribe("command.wav").text)

Names are imported when they are first used, so that `speechformer --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechformer.decoding import DecodingConfig
    from speechformer.errors import SpeechformerError
    from speechformer.grammar import Grammar
    from speechformer.transcribe import Transcriber
    from speechformer.transcript import Command, Segment, Transcript

__version__ = "0.1.0"
__all__ = [
    "Command", "DecodingConfig", "Grammar", "Segment", "SpeechformerError", "Transcriber", "Transcript", "__version__",
]  # fmt: skip

_HOMES = {
    "Command": "transcript",
    "Grammar": "grammar",
    "DecodingConfig": "decoding",
    "Segment": "transcript",
    "SpeechformerError": "errors",
    "Transcriber": "transcribe",
    "Transcript": "transcript",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
