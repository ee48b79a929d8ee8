"""A command file → a network of words; a sentence → its intent and slots.

The file is YAML in Home Assistant's sentence templates (parsed by `hassil`), or plain text with a phrase a line:

    intents:
      TurnOn:
        data:
          - sentences: ["turn on [the] {area} (light|lights)"]
    lists:
      area: {values: [kitchen, {in: "living room|lounge", out: living_room}]}

Templates are never expanded. Lists and rules are networks of their own that are called and returned from, so a
`Config`, a state with the states to return to, says where in the grammar a speaker is.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

from hassil.expression import (
    Alternative,
    Expression,
    Group,
    ListReference,
    Permutation,
    RuleReference,
    TextChunk,
)

from speechformer.command_file import CommandFile, Slot, Template, ValueList, parse_command_file, read_command_file
from speechformer.tokenizer import normalise

SPACE, ANY_WORD = " ", "\0"
MAX_PERMUTED = 6

Config = tuple[int, Any]  # a state, and None or the Config to return to


@dataclass(frozen=True)
class Mark:
    """What passing a place in the network means: an intent, a fixed slot, a slot's begin, value or end."""

    kind: str
    name: str = ""
    value: Slot | None = None


@dataclass(frozen=True)
class Call:
    """An arc that goes through the network which begins at `start`."""

    start: int


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


Arc = tuple[str | Mark | Call | None, int]
# How a sentence's words led to a Config: the way's place in the file's order, and the last step's begin.
Arrival = tuple[tuple[int, ...], int, Config, Step | None]


@cache
def _words(text: str) -> tuple[str, ...]:
    return tuple(normalise(text).split())


class Grammar:
    """The sentences of a command file. `n_sentences` counts every way through the templates, a wildcard as one."""

    def __init__(self, file: CommandFile) -> None:
        self.name, self.file = file.name, file
        self.arcs: list[list[Arc]] = []
        self.intents = list(dict.fromkeys(template.intent for template in file.templates))
        self.n_templates = len(file.templates)
        builder = _Builder(file, self.arcs)
        start, self.n_sentences = builder.root()
        self.start: Config = (start, None)
        self.has_wildcards = builder.has_wildcards
        self._steps: dict[Config, tuple[list[Step], tuple[Mark, ...] | None]] = {}

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
                elif label == ANY_WORD:
                    todo.append((onward, ANY_WORD, before + after, (), True))
                elif label == SPACE and words:
                    todo.append((onward, text, before, after, True))
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
                for n, step in enumerate(self.steps(config)):
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

    def pass_marks(marks: tuple[Mark, ...]) -> None:
        nonlocal intent
        for mark in marks:
            if mark.kind == "intent":
                intent = mark.name
            elif mark.kind == "fixed" and mark.value is not None:
                slots[mark.name] = mark.value
            elif mark.kind == "open":
                opened.append((mark.name, []))
            elif mark.kind == "value" and opened and mark.value is not None:
                slots[opened[-1][0]] = mark.value
            elif mark.kind == "close":
                name, heard = opened.pop()
                slots.setdefault(name, " ".join(heard))

    for i, step in path:
        pass_marks(step.before)
        for _, heard in opened:
            heard += words[i : i + len(step.words)]
        pass_marks(step.after)
    pass_marks(ending)
    return Interpretation(intent, slots)


class _Builder:
    """Makes the network: one state after the other (Thompson's construction), lists and rules once each."""

    def __init__(self, file: CommandFile, arcs: list[list[Arc]]) -> None:
        self.file, self.arcs = file, arcs
        self.networks: dict[tuple[str, int, int], tuple[int, int, bool]] = {}
        self.calling: list[tuple[str, int, int]] = []
        self.has_wildcards = False  # in what has been built last

    def root(self) -> tuple[int, int]:
        start, n_sentences = self.state(), 0
        begins: list[tuple[bool, int]] = []
        for template in self.file.templates:
            self.has_wildcards = False
            begin = self.state()
            state = self.follow(begin, Mark("intent", template.intent))
            for name, value in template.slots.items():
                state = self.follow(state, Mark("fixed", name, value))
            try:
                # Each template has an end of its own, so that two which say the same can be told apart.
                n_sentences += self.add(template.expression, template, state)[1]
            except RecursionError as error:
                raise template.error("brackets or rules are nested too deep; split the template") from error
            begins.append((self.has_wildcards, begin))
        # Templates with wildcards come last: what they would swallow may be a command of its own.
        for _, begin in sorted(begins):
            self.arcs[start].append((None, begin))
        self.has_wildcards = any(is_open for is_open, _ in begins)
        return start, n_sentences

    def state(self) -> int:
        self.arcs.append([])
        return len(self.arcs) - 1

    def follow(self, state: int, label: str | Mark | Call | None) -> int:
        """Return a new state behind a new arc."""
        target = self.state()
        self.arcs[state].append((label, target))
        return target

    def add(self, expression: Expression, at: Template, state: int) -> tuple[int, int]:
        """Add what an expression says after a state; return the state behind it and how many ways lead there."""
        if isinstance(expression, TextChunk):
            return self._text(expression.original_text, at, state), 1
        if isinstance(expression, ListReference):
            return self._list(expression, at, state)
        if isinstance(expression, RuleReference):
            start, n = self._rule(expression.rule_name, at)
            return self.follow(state, Call(start)), n
        if isinstance(expression, Permutation):
            return self._permutation(expression.items, at, state)
        items = cast(Group, expression).items
        if isinstance(expression, Alternative):
            ends = [self.add(item, at, state) for item in items]
            end = self.state()
            for branch, _ in ends:
                self.arcs[branch].append((None, end))
            return end, sum(n for _, n in ends)
        n_ways = 1
        for item in items:
            state, n = self.add(item, at, state)
            n_ways *= n
        return state, n_ways

    def _text(self, text: str, at: Template, state: int) -> int:
        for is_space, letters in itertools.groupby(text, str.isspace):
            word = "".join(letters)
            strange = [letter for letter in word if not letter.isascii() and letter.isalpha() and not normalise(letter)]
            if strange:
                raise at.error(f'"{word}" has the letter {strange[0]}, which is not English; write it with a–z', word)
            state = self.follow(state, SPACE if is_space else word)
        # A fresh state, so that what follows cannot run back into this one.
        return self.follow(state, None)

    def _permutation(self, items: list[Expression], at: Template, state: int) -> tuple[int, int]:
        if len(items) > MAX_PERMUTED:
            raise at.error(f"{len(items)} parts in any order are too many (up to {MAX_PERMUTED}); split the template")
        done = {frozenset[int](): state}
        n_ways = math.factorial(len(items))
        for size in range(len(items)):
            for gone in [key for key in done if len(key) == size]:
                for i in set(range(len(items))) - gone:
                    end, n = self.add(items[i], at, done[gone])
                    n_ways *= n if not gone else 1
                    target = done.setdefault(gone | {i}, self.state())
                    self.arcs[end].append((None, target))
        return done[frozenset(range(len(items)))], n_ways

    def _rule(self, name: str, at: Template) -> tuple[int, int]:
        rule = at.scope.rules.get(name)
        if rule is None:
            raise at.error(f"there is no rule <{name}>; write it under expansion_rules", f"<{name}>")
        return self._network(f"<{name}>", rule, lambda state: self.add(rule.expression, rule, state), at)

    def _list(self, reference: ListReference, at: Template, state: int) -> tuple[int, int]:
        name = reference.list_name
        inline = reference.get_inline_range()
        values = ValueList.of_range(at, *inline) if inline else at.scope.lists.get(name)
        if values is None:
            raise at.error(f"there is no list {{{name}}}; write it under lists", f"{{{name}")
        start, n = self._network(f"{{{name}}}", values.at, lambda inner: self._values(values, inner), at)
        state = self.follow(state, Mark("open", reference.slot_name))
        return self.follow(self.follow(state, Call(start)), Mark("close", reference.slot_name)), n

    def _values(self, values: ValueList, state: int) -> tuple[int, int]:
        if values.wildcard:
            self.has_wildcards = True
            heard = self.follow(state, ANY_WORD)
            self.arcs[heard].append((ANY_WORD, heard))
            return self.follow(heard, None), 1
        end, n_ways = self.state(), 0
        for template, value in values:
            behind, n = self.add(template.expression, template, state)
            self.arcs[behind].append((Mark("value", value=value), end))
            n_ways += n
        return end, n_ways

    def _network(
        self, name: str, body: Template, build: Callable[[int], tuple[int, int]], at: Template
    ) -> tuple[int, int]:
        key = name, body.line, body.column
        if key in self.calling:
            circle = " → ".join([*(name for name, _, _ in self.calling[self.calling.index(key) :]), name])
            raise at.error(f"{circle} goes round in a circle; take one of the references out", name[:-1])
        if key not in self.networks:
            outer, self.has_wildcards = self.has_wildcards, False
            self.calling.append(key)
            start = self.state()
            end, n = build(start)
            self.follow(end, None)
            self.networks[key] = start, n, self.has_wildcards
            self.calling.pop()
            self.has_wildcards = outer
        start, n, has_wildcards = self.networks[key]
        self.has_wildcards |= has_wildcards
        return start, n
