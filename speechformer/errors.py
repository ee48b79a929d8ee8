"""What can go wrong at a boundary, one class a boundary.

SpeechformerError
├── ConfigError        an unknown key, a value of the wrong type, a file that is not YAML
├── AudioError         a file that is missing, empty, truncated, or not audio
├── OutputError        a file that cannot be written
├── ManifestError      a manifest line that is not JSON or lacks a field
├── GrammarError       a command file with a mistake: file, line and column
├── CheckpointError    a model folder with a part missing, damaged, or of a newer format
├── TrainingError      a run that cannot start, resume, or go on
└── SynthesisError     a speech synthesiser that is not installed or fails
    └── UnspeakableError   a text of which a synthesiser knows no phone

Every message is one sentence: what, where, and what to do about it.
"""


class SpeechformerError(Exception):
    """Base of every error that speechformer raises on purpose."""


class ConfigError(SpeechformerError):
    """A setting is unknown, of the wrong type, or out of range."""


class AudioError(SpeechformerError):
    """Audio cannot be read or is not fit to transcribe."""


class OutputError(SpeechformerError):
    """A result cannot be written."""


class ManifestError(SpeechformerError):
    """A manifest cannot be read."""


class GrammarError(SpeechformerError):
    """A command file cannot be used."""


class CheckpointError(SpeechformerError):
    """A model folder cannot be loaded."""


class TrainingError(SpeechformerError):
    """A training run cannot start, resume, or go on."""


class SynthesisError(SpeechformerError):
    """A speech synthesiser is missing or failed."""


class UnspeakableError(SynthesisError):
    """A synthesiser knows no phone of a text; another may."""
