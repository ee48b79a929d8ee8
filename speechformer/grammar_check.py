"""Look a command file over before anyone speaks: what was loaded, what says the same, what sounds alike."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jellyfish
import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from speechformer.grammar import Config, Grammar, Interpretation
from speechformer.network import ANY_WORD, MANY
from speechformer.tokenizer import Tokenizer, normalise

MAX_PLACES = 20_000  # places in a grammar that are looked at
MAX_COMPARED = 800  # sentences that are compared with each other


@dataclass(frozen=True)
class Check:
    """What is to be known of a grammar.

    `repeated`: sentences with two meanings or twice the same one. `shared`: sentences of two intents.
    `odd_words`: words that the tokenizer spells letter by letter, with their pieces. `confusable`: pairs
    of sentences with different meanings and their distance, 0 the same sound, 1 nothing in common. `whole` is
    False where the grammar is so large that only a part of it was looked at; `sound` says how sound was compared.
    """

    n_sentences: int
    n_templates: int
    intents: dict[str, int]
    words: list[str]
    repeated: list[str]
    shared: list[tuple[str, list[str]]]
    odd_words: list[tuple[str, str]]
    confusable: list[tuple[float, str, str]]
    whole: bool
    sound: str
    has_wildcards: bool = False

    def __str__(self) -> str:
        part = "" if self.whole else f" (of the first {MAX_PLACES} places looked at; the grammar is larger)"
        lines = [
            f"{count(self.n_sentences)} sentences from {self.n_templates} templates in {len(self.intents)} intents, "
            f"{len(self.words)} words{' and any others at wildcards' if self.has_wildcards else ''}{part}",
            *_listed("intents (templates)", [f"{intent} ({n})" for intent, n in self.intents.items()]),
            *_listed("said twice", self.repeated),
            *_listed("in more than one intent", [f"{text}: {', '.join(names)}" for text, names in self.shared]),
            *_listed("spelt letter by letter", [f"{word} ({pieces})" for word, pieces in self.odd_words]),
            *_listed(
                f"sound alike (0: the same; {self.sound})",
                [f"{distance:.2f}  {a} | {b}" for distance, a, b in self.confusable],
            ),
        ]
        return "\n".join(lines)


def count(n_sentences: int) -> str:
    """Return a number of sentences as it is shown."""
    return f"{n_sentences:,}" if n_sentences < MANY else f"more than {MANY:.0e}"


def _listed(title: str, items: Sequence[str], n: int = 20) -> list[str]:
    if not items:
        return [f"{title}: none"]
    more = [f"  … and {len(items) - n} more"] if len(items) > n else []
    return [f"{title}:", *(f"  {item}" for item in items[:n]), *more]


def check_grammar(grammar: Grammar, tokenizer: Tokenizer, n_pairs: int = 10) -> Check:
    """Look a grammar over; of a very large one, a part that is drawn by a fixed seed."""
    words, doubtful, whole = _explore(grammar)
    shared: list[tuple[str, list[str]]] = []
    repeated: list[str] = _repeated_values(grammar)
    for sentence in doubtful:
        intents = [meaning.intent for meaning in grammar.interpretations(sentence.replace(ANY_WORD, "anything"))]
        if len(set(intents)) > 1:
            shared.append((_shown(sentence), sorted(set(intents))))
        elif len(intents) > 1:
            repeated.append(_shown(sentence))
    odd = [(word, tokenizer.pieces(tokenizer.encode(word))) for word in words]
    confusable, sound = _confusable(grammar, n_pairs)
    templates = Counter(template.intent for template in grammar.file.templates)
    return Check(
        n_sentences=grammar.n_sentences,
        n_templates=grammar.n_templates,
        intents=dict(templates),
        words=words,
        repeated=repeated,
        shared=shared,
        odd_words=[(word, " ".join(pieces)) for word, pieces in odd if len(pieces) >= max(5, len(word))],
        confusable=confusable,
        whole=whole,
        sound=sound,
        has_wildcards=grammar.has_wildcards,
    )


def _explore(grammar: Grammar) -> tuple[list[str], list[str], bool]:
    """Return all words, the sentences that can be read by two templates, and whether everything was seen.

    Two templates say the same where a set of places that one sentence leads to has two ends.
    """
    words: dict[str, None] = {}
    doubtful: list[str] = []
    Place = tuple[tuple[str, ...], Config]  # words of a step that are still to be said, and where they lead
    todo: list[tuple[frozenset[Place], str]] = [(frozenset([((), grammar.start)]), "")]
    seen = {todo[0][0]}
    for places, sentence in todo:  # grows while it is read: breadth first
        if sum(not rest and grammar.ending(config) is not None for rest, config in places) > 1:
            doubtful.append(sentence)
        onward: dict[str, set[Place]] = {}
        for rest, config in places:
            steps = [(rest, config)] if rest else [(step.words, step.config) for step in grammar.steps(config)]
            for (word, *more), reached in steps:
                onward.setdefault(word, set()).add((tuple(more), reached))
        words.update(dict.fromkeys(word for word in onward if word != ANY_WORD))
        for word, group in onward.items():
            key = frozenset(group)
            if key not in seen and len(seen) < MAX_PLACES:
                seen.add(key)
                todo.append((key, f"{sentence} {word}".strip()))
    return sorted(words), doubtful, len(seen) < MAX_PLACES


def _repeated_values(grammar: Grammar) -> list[str]:
    repeated: list[str] = []
    scopes = {id(template.scope): template.scope for template in grammar.file.templates}
    for name, values in ((name, values) for scope in scopes.values() for name, values in scope.lists.items()):
        texts = Counter(normalise(template.text) for template, _ in values)
        repeated += [f"{text} (in the list {name})" for text, n in texts.items() if n > 1]
    return list(dict.fromkeys(repeated))


def draw_sentences(grammar: Grammar, n: int, seed: int = 0) -> list[str]:
    """Return up to `n` different sentences: all of a small grammar, else drawn word by word; wildcards as "…"."""
    if grammar.n_sentences <= n:
        return list(dict.fromkeys(map(_shown, grammar.sentences())))
    draw = np.random.default_rng(seed)
    drawn: dict[str, None] = {}
    for _ in range(3 * n):
        config, words = grammar.start, list[str]()
        while True:
            steps = grammar.steps(config)
            if grammar.ending(config) is not None and (not steps or draw.random() < 0.5 or words[-1] == ANY_WORD):
                break
            step = steps[int(draw.integers(len(steps)))]
            config, words = step.config, [*words, *step.words]
        drawn[_shown(" ".join(words))] = None
        if len(drawn) == n:
            break
    return list(drawn)


def _shown(sentence: str) -> str:
    return sentence.replace(ANY_WORD, "…")


def _confusable(grammar: Grammar, n_pairs: int) -> tuple[list[tuple[float, str, str]], str]:
    sentences = [one for one in draw_sentences(grammar, MAX_COMPARED) if "…" not in one]
    sounds, how = phones(sentences)
    if len(sentences) < 2:
        return [], how
    distances = cdist(sounds, sounds, scorer=Levenshtein.normalized_distance, dtype=np.float32)
    first, second = np.triu_indices(len(sentences), 1)
    pairs: list[tuple[float, str, str]] = []
    meanings: dict[str, Interpretation | None] = {}
    for i in np.argsort(distances[first, second], kind="stable")[: 100 * n_pairs]:
        a, b = sentences[first[i]], sentences[second[i]]
        for one in (a, b):
            meanings.setdefault(one, grammar.interpret(one))
        if meanings[a] != meanings[b] and len(pairs) < n_pairs:
            pairs.append((float(distances[first[i], second[i]]), a, b))
    return pairs, how


def phones(sentences: Sequence[str]) -> tuple[list[str], str]:
    """Return how sentences sound, a symbol a phone, and by what: espeak-ng where it is installed, else metaphone."""
    program = shutil.which("espeak-ng")
    if program and sentences:
        text = "".join(f"{sentence}.\n" for sentence in sentences)
        run = subprocess.run([program, "-q", "--ipa", "-v", "en-us"], input=text, capture_output=True, text=True)
        lines = [line.translate({ord(mark): None for mark in "ˈˌː‍ "}) for line in run.stdout.splitlines()]
        lines = [line for line in lines if line]
        if len(lines) == len(sentences):
            return lines, "phones by espeak-ng"
    return [f"{jellyfish.metaphone(one)} {one}" for one in sentences], "spelling and metaphone codes"
