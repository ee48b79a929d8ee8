"""A command file → a network of words; a sentence → its intent and slots.

The file is YAML in Home Assistant's sentence templates (parsed by `hassil`), or plain text with a phrase a line:

    intents:
      TurnOn:
        data:
          - sentences: ["turn on [the] {area} (light|lights)"]
    lists:
      area: {values: [kitchen, {in: "living room|lounge", out: living_room}]}

Templates are never expanded: a `Config`, a state of the network with the states to return to, says where in the
grammar a speaker is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from speechformer.command_file import CommandFile, Slot, parse_command_file, read_command_file
from speechformer.network import ANY_WORD, SPACE, Arc, Call, Mark, NetworkBuilder
from speechformer.tokenizer import normalise

Config = tuple[int, Any]  # a state, and None or the Config to return to


@dataclass(frozen=True)
class Step:
    """One way on from a Config: words (ANY_WORD stands for one), the marks before and after, where it leads."""

    words: tuple[str, ...]
    before: tuple[Mark, ...]
    after: tuple[Mark, ...]
    config: Config


@dataclass(frozen=True)
class Interpretation:
    """What a sentence means."""

    intent: str
    slots: dict[str, Slot] = field(default_factory=dict)


# How a sentence's words led to a Config: the way's place in the file's order, and the last step's begin.
Arrival = tuple[tuple[int, ...], int, Config, Step | None]


@cache
def _words(text: str) -> tuple[str, ...]:
    return tuple(normalise(text).split())


class Grammar:
    """The sentences of a command file.

    `n_sentences` counts every way through the templates, a wildcard as one, up to `network.MANY`.
    """

    def __init__(self, file: CommandFile) -> None:
        self.name, self.file = file.name, file
        self.arcs: list[list[Arc]] = []
        self.intents = list(dict.fromkeys(template.intent for template in file.templates))
        self.n_templates = len(file.templates)
        builder = NetworkBuilder(file, self.arcs)
        start, self.n_sentences = builder.root()
        self.start: Config = (start, None)
        self.has_wildcards = builder.has_wildcards
        self._steps: dict[Config, tuple[list[Step], tuple[Mark, ...] | None]] = {}
        self._ways: dict[Config, dict[str, list[tuple[int, Step]]]] = {}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Grammar:
        """Read a command file. Raises GrammarError with file, line and column."""
        return cls(read_command_file(Path(path)))

    @classmethod
    def parse(cls, text: str, name: str = "commands", is_yaml: bool = True) -> Grammar:
        """Read a command file's text. Raises GrammarError with line and column."""
        return cls(parse_command_file(text, name, is_yaml))

    def steps(self, config: Config) -> list[Step]:
        """Return every next word, in the file's order."""
        return self._explore(config)[0]

    def ending(self, config: Config) -> tuple[Mark, ...] | None:
        """Return the marks on the way to the end, or None where a sentence cannot end."""
        return self._explore(config)[1]

    def _begun_by(self, word: str, config: Config) -> list[tuple[int, Step]]:
        """Return the steps that may begin with a word, each with its place in the file's order."""
        if config not in self._ways:
            ways: dict[str, list[tuple[int, Step]]] = {}
            for n, step in enumerate(self.steps(config)):
                ways.setdefault(step.words[0], []).append((n, step))
            self._ways[config] = ways
        return self._ways[config].get(word, []) + self._ways[config].get(ANY_WORD, [])

    def _explore(self, config: Config) -> tuple[list[Step], tuple[Mark, ...] | None]:
        if config in self._steps:
            return self._steps[config]
        steps: list[Step] = []
        ending: tuple[Mark, ...] | None = None
        seen = set()
        todo: list[tuple[Config, str, tuple[Mark, ...], tuple[Mark, ...], bool]] = [(config, "", (), (), False)]
        while todo:
            place, text, before, after, is_whole = todo.pop()
            if (place, text, is_whole) in seen:
                continue
            seen.add((place, text, is_whole))
            state, back = place
            words = (ANY_WORD,) if text == ANY_WORD else _words(text)
            if is_whole:
                steps.append(Step(words, before, after, place))
                continue
            if not self.arcs[state]:
                if back is not None:
                    todo.append((back, text, before, after, False))
                elif words:
                    steps.append(Step(words, before, after, place))
                elif ending is None and config != self.start:  # an empty sentence is none
                    ending = before + after
            for label, target in reversed(self.arcs[state]):
                onward = (target, back)
                if isinstance(label, Call):
                    todo.append(((label.start, onward), text, before, after, False))
                elif isinstance(label, Mark):
                    marks = (before, (*after, label)) if text else ((*before, label), after)
                    todo.append((onward, text, *marks, False))
                elif label == ANY_WORD and not words:
                    todo.append((onward, ANY_WORD, before + after, (), True))
                elif label in (SPACE, ANY_WORD) and words:  # a word that touches a wildcard ends before it
                    todo.append((onward if label == SPACE else place, text, before, after, True))
                else:  # a piece of a word, or nothing; a space at a word's begin is nothing too
                    todo.append((onward, text if label in (SPACE, None) else text + str(label), before, after, False))
        self._steps[config] = steps, ending
        return steps, ending

    def interpret(self, text: str) -> Interpretation | None:
        """Return intent and slots of a sentence, or None where it is none of the grammar's.

        Of several meanings the one that the file gives first counts, those with wildcards last.
        """
        return next(self.interpretations(text), None)

    def interpretations(self, text: str) -> Iterator[Interpretation]:
        """Yield what a sentence means by every template that has it, in the order in which they count."""
        words = normalise(text).split()
        chart: list[dict[Config, Arrival]] = [{} for _ in range(len(words) + 1)]
        chart[0][self.start] = (), 0, self.start, None
        for i in range(len(words)):
            for config, (rank, *_) in chart[i].items():
                for n, step in self._begun_by(words[i], config):
                    end = i + len(step.words)
                    if step.words == (ANY_WORD,) or tuple(words[i:end]) == step.words:
                        new = (*rank, n), i, config, step
                        chart[end][step.config] = min(chart[end].get(step.config, new), new)
        for config in sorted(chart[-1], key=chart[-1].__getitem__):
            ending = self.ending(config)
            if ending is not None:
                yield _read_marks(words, _path(chart, config), ending)

    def sentences(self) -> Iterator[str]:
        """Yield every sentence, a wildcard as the word ANY_WORD; there can be very many."""
        todo: list[tuple[Config, tuple[str, ...]]] = [(self.start, ())]
        while todo:
            config, words = todo.pop()
            if self.ending(config) is not None and words:
                yield " ".join(words)
            for step in reversed(self.steps(config)):
                if not (step.words == (ANY_WORD,) and words[-1:] == (ANY_WORD,)):
                    todo.append((step.config, words + step.words))


def _path(chart: list[dict[Config, Arrival]], config: Config) -> list[tuple[int, Step]]:
    path: list[tuple[int, Step]] = []
    _, begin, config, step = chart[-1][config]
    while step is not None:
        path.append((begin, step))
        _, begin, config, step = chart[begin][config]
    return path[::-1]


def _read_marks(words: list[str], path: list[tuple[int, Step]], ending: tuple[Mark, ...]) -> Interpretation:
    """Collect intent and slots; a slot without a value of its own holds the words that began inside it."""
    intent = ""
    slots: dict[str, Slot] = {}
    opened: list[tuple[str, list[str]]] = []
    valued: set[str] = set()

    def pass_marks(marks: tuple[Mark, ...]) -> None:
        nonlocal intent
        for mark in marks:
            if mark.kind == "intent":
                intent = mark.name
            elif mark.kind == "fixed" and mark.value is not None:
                slots[mark.name] = mark.value
            elif mark.kind == "open":
                opened.append((mark.name, []))
                valued.discard(mark.name)
            elif mark.kind == "value" and opened and mark.value is not None:
                slots[opened[-1][0]] = mark.value
                valued.add(opened[-1][0])
            elif mark.kind == "close":
                name, heard = opened.pop()
                if name not in valued:
                    slots[name] = " ".join(heard)

    for i, step in path:
        pass_marks(step.before)
        for _, heard in opened:
            heard += words[i : i + len(step.words)]
        pass_marks(step.after)
    pass_marks(ending)
    return Interpretation(intent, slots)
