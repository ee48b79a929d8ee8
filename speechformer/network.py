"""Templates → states and arcs.

Lists and rules are networks of their own, each built once, that are called and returned from, so that the network
is no larger than the file (a recursive transition network, Woods 1970, without recursion).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from hassil.expression import (
    Alternative,
    Expression,
    Group,
    ListReference,
    Permutation,
    RuleReference,
    TextChunk,
)

from speechformer.command_file import CommandFile, Slot, Template, ValueList
from speechformer.tokenizer import normalise

SPACE, ANY_WORD = " ", "\0"
MAX_PERMUTED = 6
MANY = 10**18  # sentences are not counted beyond


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


# A label is a piece of a word, SPACE, ANY_WORD, a Mark, a Call, or None for nothing at all.
Arc = tuple[str | Mark | Call | None, int]


class NetworkBuilder:
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
            n_ways = min(n_ways * n, MANY)
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
                    n_ways = min(n_ways * (n if not gone else 1), MANY)
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
            end = self.follow(heard, None)  # the way out comes first: what follows is not swallowed
            self.arcs[heard].append((ANY_WORD, heard))
            return end, 1
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
