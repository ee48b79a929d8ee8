"""Where the errors are: by corpus, speaker, length and noise, and which words are taken for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import jiwer

from speechformer.metrics import score

LENGTHS_S = (1.0, 2.0, 4.0, 8.0)  # where one class of lengths ends and the next begins
N_SPEAKERS, N_WORDS = 10, 15


@dataclass(frozen=True)
class Heard:
    """One utterance: what was said and what was heard, normalised; who said it, where, and in how much noise."""

    said: str
    heard: str
    name: str
    duration_s: float
    speaker: str = ""
    corpus: str = ""
    snr_db: float | None = None

    @property
    def length(self) -> str:
        """The class of its length."""
        limits = [0.0, *LENGTHS_S]
        i = sum(self.duration_s >= limit for limit in LENGTHS_S)
        return f"{limits[i]:g}–{LENGTHS_S[i]:g} s" if i < len(LENGTHS_S) else f"from {limits[i]:g} s"

    @property
    def noise(self) -> str:
        """The condition it was heard under."""
        return "as recorded" if self.snr_db is None else f"{self.snr_db:g} dB"


@dataclass
class Words:
    """How often each word was said, missed, put in, and taken for another."""

    said: Counter[str] = field(default_factory=Counter)
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    added: Counter[str] = field(default_factory=Counter)

    @classmethod
    def count(cls, utterances: Sequence[Heard]) -> Words:
        """Align every utterance with the fewest errors."""
        words = cls()
        spoken = [one for one in utterances if one.said]
        for one in utterances:
            words.said.update(one.said.split())
            words.added.update([] if one.said else one.heard.split())
        if not spoken:
            return words
        aligned = jiwer.process_words([one.said for one in spoken], [one.heard for one in spoken])
        for said, heard, chunks in zip(aligned.references, aligned.hypotheses, aligned.alignments, strict=True):
            for chunk in chunks:
                old = said[chunk.ref_start_idx : chunk.ref_end_idx]
                new = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
                if chunk.type == "substitute":
                    words.taken.update(zip(old, new, strict=True))
                elif chunk.type == "delete":
                    words.missed.update(old)
                elif chunk.type == "insert":
                    words.added.update(new)
        return words

    def wrong(self, word: str) -> int:
        """How often a word that was said was not heard."""
        return self.missed[word] + sum(n for (old, _), n in self.taken.items() if old == word)


def aligned(said: str, heard: str) -> tuple[str, str]:
    """Return two texts with their words under each other; stars stand where one has none."""
    if not said:
        return said, heard
    words = jiwer.process_words(said, heard)
    above: list[str] = []
    below: list[str] = []
    for chunk in words.alignments[0]:
        old = words.references[0][chunk.ref_start_idx : chunk.ref_end_idx]
        new = words.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx]
        for first, second in zip_longest(old, new, fillvalue=""):
            width = max(len(first), len(second))
            above.append((first or "*" * width).ljust(width))
            below.append((second or "*" * width).ljust(width))
    return " ".join(above).rstrip(), " ".join(below).rstrip()


def groups(utterances: Sequence[Heard], key: Callable[[Heard], str]) -> dict[str, dict[str, float]]:
    """Score the utterances apart by a key: how many, their words, `wer` and `cer`; the most errors first."""
    parts: dict[str, list[Heard]] = {}
    for one in utterances:
        parts.setdefault(key(one), []).append(one)
    scores = {name: score([one.said for one in part], [one.heard for one in part]) for name, part in parts.items()}
    ordered = sorted(scores.items(), key=lambda item: -item[1].wer * item[1].n_words)
    return {
        name: {"utterances": one.n_utterances, "words": one.n_words, "wer": one.wer, "cer": one.cer}
        for name, one in ordered
    }


def report(utterances: Sequence[Heard]) -> dict[str, Any]:
    """Return every table as plain data."""
    words = Words.count(utterances)
    wrong = {word: words.wrong(word) for word in words.said}
    worst = sorted((word for word in wrong if wrong[word]), key=lambda word: (-wrong[word], word))
    return {
        "corpus": groups(utterances, lambda one: one.corpus or "?"),
        "noise": groups(utterances, lambda one: one.noise),
        "length": groups(utterances, lambda one: one.length),
        "speaker": groups(utterances, lambda one: one.speaker or "?"),
        "words": [{"word": word, "said": words.said[word], "wrong": wrong[word]} for word in worst],
        "taken_for": [{"said": old, "heard": new, "times": n} for (old, new), n in words.taken.most_common()],
        "missed": [{"word": word, "times": n} for word, n in words.missed.most_common()],
        "added": [{"word": word, "times": n} for word, n in words.added.most_common()],
    }


def write(tables: dict[str, Any]) -> str:
    """Return the tables as text, the long ones cut to their worst rows."""
    lines = []
    for name in ("corpus", "noise", "length", "speaker"):
        rows = tables[name]
        if name == "noise" and len(rows) == 1:
            continue
        shown = list(rows.items())[:N_SPEAKERS]
        title = f"{name} (the {N_SPEAKERS} with the most errors of {len(rows)})" if len(rows) > len(shown) else name
        lines.append(f"\n{title:<44}utterances   words    WER    CER")
        lines += [
            f"  {key:<42}{row['utterances']:>10}{row['words']:>8}{100 * row['wer']:>7.1f}{100 * row['cer']:>7.1f}"
            for key, row in shown
        ]
    lines.append("\nwords with the most errors                       said   wrong")
    lines += [f"  {row['word']:<45}{row['said']:>6}{row['wrong']:>8}" for row in tables["words"][:N_WORDS]]
    for name, title in (("taken_for", "said → heard"), ("missed", "missed"), ("added", "put in")):
        rows = tables[name][:N_WORDS]
        told = (f"{row.get('word') or row['said'] + ' → ' + row['heard']} {row['times']}" for row in rows)
        lines.append(f"\n{title}\n  " + (", ".join(told) or "none"))
    return "\n".join(lines) + "\n"
