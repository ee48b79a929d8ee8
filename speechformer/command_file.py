"""A command file as it is written: templates, lists and rules, each with its line and column.

YAML is read node by node, so that every mistake can be pointed at, and words such as `on` and `no` stay words.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from hassil.expression import Expression, TextChunk
from hassil.parse_expression import parse_sentence
from hassil.parser import ParseError

from speechformer.errors import GrammarError
from speechformer.tokenizer import normalise

MAX_BYTES = 16_000_000
MAX_RANGE = 10_000
MAX_DEPTH = 50
TOP_KEYS = ("language", "intents", "lists", "expansion_rules", "skip_words", "settings", "responses")
DATA_KEYS = (
    "sentences", "slots", "lists", "expansion_rules", "response", "requires_context", "excludes_context",
    "metadata", "required_keywords", "settings", "inferred_domain", "name_domains",
)  # fmt: skip
BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}
SYNTAX = "()[]{}<>|;\\"

Slot = str | int | float | bool


@dataclass(frozen=True)
class Template:
    """A sentence template and where it stands."""

    text: str
    name: str
    line: int
    column: int
    scope: Scope = field(repr=False, compare=False)
    intent: str = ""
    slots: dict[str, Slot] = field(default_factory=dict, compare=False)

    @cached_property
    def expression(self) -> Expression:
        """The template, parsed. Raises GrammarError."""
        if not any(sign in self.text for sign in SYNTAX):
            return TextChunk(self.text.strip())  # by far most values of lists: no need to parse them
        self._check_brackets()
        try:
            return parse_sentence(self.text).expression
        except (ParseError, ValueError, AssertionError) as error:
            raise self.error(f'"{self.text}" is not a template; see the README for the language') from error

    def _check_brackets(self) -> None:
        opened: list[tuple[str, int]] = []
        escaped = False
        for i, char in enumerate(self.text):
            if escaped or char == "\\":
                escaped = not escaped
            elif char in BRACKETS:
                opened.append((char, i))
            elif char in BRACKETS.values() and (not opened or BRACKETS[opened.pop()[0]] != char):
                raise self.error(f'"{char}" closes nothing in "{self.text}"; take it out or open it', i)
        if opened:
            bracket, i = opened[-1]
            raise self.error(f'"{bracket}" is not closed in "{self.text}"; close it with {BRACKETS[bracket]}', i)

    def error(self, message: str, part: str | int = 0) -> GrammarError:
        """Return an error that points at a part of the template."""
        offset = part if isinstance(part, int) else max(0, self.text.find(part))
        return GrammarError(f"{self.name}:{self.line}:{self.column + offset}: {message}")


@dataclass(frozen=True)
class ValueList:
    """What a slot can be: texts with their values (None: the words that were heard), or any words."""

    at: Template
    entries: Sequence[tuple[Template, Slot | None]] = ()
    wildcard: bool = False

    def __iter__(self) -> Iterator[tuple[Template, Slot | None]]:
        return iter(self.entries)

    @classmethod
    def of_range(cls, at: Template, start: int, stop: int, step: int = 1, multiplier: float = 1) -> ValueList:
        """Return the numbers from `start` to `stop`, both included, as they are said."""
        n_numbers = max(0, (stop - start) // step + 1) if step else 0
        if not 0 < n_numbers <= MAX_RANGE:
            raise at.error(f"a range has 1 to {MAX_RANGE} numbers, not {n_numbers}; correct from, to and step")
        numbers = range(start, start + n_numbers * step, step)
        entries: list[tuple[Template, Slot | None]] = []
        for number in numbers:
            value: Slot = number if multiplier == 1 else round(number * multiplier, 10)
            entries += [(Template(text, at.name, at.line, at.column, at.scope), value) for text in spell(number)]
        return cls(at, entries)


@dataclass(frozen=True)
class Scope:
    """The lists and rules that a template can name."""

    lists: dict[str, ValueList] = field(default_factory=dict)
    rules: dict[str, Template] = field(default_factory=dict)


@dataclass(frozen=True)
class CommandFile:
    """All templates of a file, in its order."""

    name: str
    templates: Sequence[Template]


def spell(number: int) -> list[str]:
    """Return the ways to say a whole number."""
    words = ("minus " if number < 0 else "") + normalise(str(abs(number)))
    ways = [words]
    head, hundred, tail = words.rpartition(" hundred ")
    if hundred and not tail.startswith("thousand"):
        ways.append(f"{head} hundred and {tail}")
    return ways + [f"a {way.removeprefix('one ')}" for way in ways if way.startswith(("one hundred", "one thousand"))]


def read_command_file(path: Path) -> CommandFile:
    """Read YAML, or a phrase a line from any other suffix. Raises GrammarError with line and column."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise GrammarError(
                f"{path}:1:1: has more than {MAX_BYTES // 1_000_000} MB; write templates and lists, not every sentence"
            )
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise GrammarError(f"{path}: the command file cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise GrammarError(f"{path}:1:1: is not text in UTF-8; save it as UTF-8") from error
    return parse_command_file(text, str(path), path.suffix.lower() in (".yaml", ".yml"))


def parse_command_file(text: str, name: str, is_yaml: bool) -> CommandFile:
    """Parse the text of a command file; `name` stands in the errors."""
    templates = _Yaml(name).templates(text) if is_yaml else _phrases(text, name)
    if not templates:
        raise GrammarError(f"{name}:1:1: holds no sentences; write at least one")
    return CommandFile(name, templates)


def _phrases(text: str, name: str) -> list[Template]:
    templates: list[Template] = []
    scope = Scope()
    for number, line in enumerate(text.splitlines(), 1):
        phrase = line.strip()
        if not phrase or phrase.startswith("#"):
            continue
        template = Template(phrase, name, number, 1 + line.index(phrase), scope, phrase)
        for bracket in SYNTAX:
            if bracket in phrase:
                raise template.error(f'"{bracket}" belongs in templates; write them in a .yaml file', bracket)
        if not normalise(phrase):
            raise template.error(f'"{phrase}" has no letters a–z or digits; write English words')
        templates.append(template)
    return templates


def _place(node: Any) -> tuple[int, int]:
    """Return line and column of a node, from 1."""
    return (node.start_mark.line + 1, node.start_mark.column + 1) if node.start_mark else (1, 1)


class _Yaml:
    """Walks the nodes of a YAML command file."""

    def __init__(self, name: str) -> None:
        self.name = name

    def error(self, node: Any, message: str) -> GrammarError:
        line, column = _place(node)
        return GrammarError(f"{self.name}:{line}:{column}: {message}")

    def templates(self, text: str) -> list[Template]:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            self.check_depth(text, loader)
            root = yaml.compose(text, loader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
            problem = getattr(error, "problem", None) or "a character that YAML does not allow"
            raise GrammarError(f"{self.name}:{where}: is not YAML ({problem}); correct the line") from error
        if root is None:
            return []
        parts = self.mapping(root, "a command file", TOP_KEYS)
        scope = self.scope(parts, Scope())
        if "intents" not in parts:
            raise self.error(root, 'has no "intents"; write them as intents: name: data: - sentences: [...]')
        intents = self.mapping(parts["intents"], "intents")
        return [one for intent, node in intents.items() for one in self.intent(intent, node, scope)]

    def check_depth(self, text: str, loader: type[Any]) -> None:
        depth = 0
        for event in yaml.parse(text, loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:  # composing goes deeper by recursion, in C, and would crash
                raise self.error(event, f"is nested more than {MAX_DEPTH} deep; take the brackets or dashes out")

    def intent(self, intent: str, node: yaml.Node, scope: Scope) -> Iterator[Template]:
        if isinstance(node, yaml.SequenceNode):  # the short form, name: [sentence, ...]
            yield from (self.template(item, scope, intent) for item in self.items(node, f"intent {intent}"))
            return
        data = self.mapping(node, f"intent {intent}").get("data")
        if data is None:
            raise self.error(node, f'intent {intent} has no "data"; write data: - sentences: [...]')
        for block in self.items(data, f"data of {intent}"):
            parts = self.mapping(block, f"data of {intent}", DATA_KEYS)
            if "sentences" not in parts:
                raise self.error(block, f'a block of {intent} has no "sentences"; write at least one')
            inner = self.scope(parts, scope)
            slots = self.slots(parts.get("slots"), intent)
            for item in self.items(parts["sentences"], f"sentences of {intent}"):
                yield self.template(item, inner, intent, slots)

    def scope(self, parts: dict[str, yaml.Node], outer: Scope) -> Scope:
        """Return what a block may name: its own lists and rules before the outer ones."""
        if "lists" not in parts and "expansion_rules" not in parts:
            return outer
        scope = Scope(dict(outer.lists), dict(outer.rules))
        for name, node in self.mapping(parts.get("expansion_rules"), "expansion_rules").items():
            scope.rules[name] = self.template(node, scope)
        for name, node in self.mapping(parts.get("lists"), "lists").items():
            scope.lists[name] = self.values(name, node, scope)
        return scope

    def slots(self, node: yaml.Node | None, intent: str) -> dict[str, Slot]:
        return {name: self.value(item) for name, item in self.mapping(node, f"slots of {intent}").items()}

    def values(self, name: str, node: yaml.Node, scope: Scope) -> ValueList:
        at = Template(f"{{{name}}}", self.name, *_place(node), scope)
        parts = self.mapping(node, f"list {name}", ("values", "range", "wildcard"))
        if "range" in parts:
            keys = ("from", "to", "step", "multiplier", "type", "digits", "words", "words_language", "fractions")
            limits = self.mapping(parts["range"], f"range of {name}", keys)
            start, stop, step = (int(self.number(limits.get(key), name)) for key in ("from", "to", "step"))
            return ValueList.of_range(at, start, stop, step, self.number(limits.get("multiplier"), name, float))
        if "wildcard" in parts and self.value(parts["wildcard"]) is True:
            return ValueList(at, wildcard=True)
        entries = [self.entry(item, name, scope) for item in self.items(parts.get("values"), f"list {name}")]
        if not entries:
            raise at.error(f"list {name} has no values; write values, a range, or wildcard: true")
        return ValueList(at, entries)

    def entry(self, node: yaml.Node, name: str, scope: Scope) -> tuple[Template, Slot | None]:
        if isinstance(node, yaml.MappingNode):
            parts = self.mapping(node, f"a value of {name}", ("in", "out", "context", "metadata"))
            if "in" not in parts:
                raise self.error(node, f'a value of list {name} has no "in"; write what is said')
            return self.template(parts["in"], scope), self.value(parts["out"]) if "out" in parts else None
        template = self.template(node, scope)
        is_plain = not any(char in template.text for char in SYNTAX)
        return template, template.text if is_plain else None

    def number(self, node: yaml.Node | None, name: str, kind: type[int] | type[float] = int) -> float:
        if node is None:
            return 1
        try:
            number = kind(str(self.value(node)))
        except ValueError:
            number = math.nan
        if not abs(number) < 1e300:
            raise self.error(node, f"the range of {name} is made of {'whole ' * (kind is int)}numbers; correct it")
        return number

    def template(
        self, node: yaml.Node, scope: Scope, intent: str = "", slots: dict[str, Slot] | None = None
    ) -> Template:
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(node, "a sentence is text; put it in quotes")
        quoted = 1 if node.style in ("'", '"') else 0
        line, column = _place(node)
        template = Template(node.value, self.name, line, column + quoted, scope, intent, slots or {})
        if not re.search("[A-Za-z0-9]", node.value) and not normalise(node.value):
            raise template.error(f'"{node.value}" has no letters a–z or digits; write English words')
        return template

    def mapping(self, node: yaml.Node | None, what: str, known: Sequence[str] = ()) -> dict[str, yaml.Node]:
        if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"{what} is written as name: value; correct it")
        parts: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in parts:
                raise self.error(key, f'"{name}" is given twice in {what}; take one out')
            if known and name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise self.error(key, f'"{name}" means nothing in {what}; use {near[0] if near else ", ".join(known)}')
            parts[name] = value
        return parts

    def items(self, node: yaml.Node | None, what: str) -> list[yaml.Node]:
        if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, f"{what} is a list; begin its lines with -")
        return list(node.value)

    def value(self, node: yaml.Node) -> Slot:
        """Return a scalar as a number, true or false where it is written so, and as its text otherwise."""
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(node, "a slot's value is a number or a text; correct it")
        text = str(node.value)
        kinds: dict[str, Any] = {"tag:yaml.org,2002:int": int, "tag:yaml.org,2002:float": float}
        if node.tag == "tag:yaml.org,2002:bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        try:
            return kinds[node.tag](text) if node.tag in kinds else text
        except ValueError:
            return text
