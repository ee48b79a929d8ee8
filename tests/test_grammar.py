"""What a command file says is what is understood, and every mistake in one is pointed at."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechformer import command_file
from speechformer.command_file import Slot
from speechformer.errors import GrammarError
from speechformer.grammar import Grammar, Interpretation
from speechformer.network import ANY_WORD
from speechformer.tokenizer import normalise

ASSETS = sorted((Path(__file__).parents[1] / "assets" / "commands").glob("*.yaml"))
LISTS = """
lists:
  area:
    values:
      - kitchen
      - in: (living room|lounge)
        out: lounge
      - in: "[big] garden"
  level: {range: {from: 0, to: 100, step: 50}}
  degrees: {range: {from: -5, to: 5, step: 5, multiplier: 0.5}}
  count: {range: {from: 105, to: 105}}
  down: {range: {from: 3, to: 1, step: -1}}
  title: {wildcard: true}
  switch: {values: [on, off, {in: maybe, out: no}, {in: seven, out: 7}, {in: sure, out: true}, 2.5]}
expansion_rules:
  turn: (turn|switch)
  the: "[the|my]"
  polite: "[<please>]"
  please: please
"""


def of(*templates: str, more: str = LISTS) -> Grammar:
    """Return the grammar of one intent, `Do`."""
    return Grammar.parse(f"intents:\n  Do: {json.dumps(templates)}\n{more}")


def slots_of(grammar: Grammar, sentence: str) -> dict[str, Slot] | None:
    meaning = grammar.interpret(sentence)
    return meaning.slots if meaning else None


def heard(grammar: Grammar) -> list[str]:
    """Return every sentence, a word of nobody's in the place of a wildcard."""
    return [sentence.replace(ANY_WORD, "xylophone") for sentence in grammar.sentences()]


@pytest.mark.parametrize(
    ("template", "sentences"),
    [
        ("Lock  the DOOR!", "lock the door"),
        ("(on|off) now", "on now|off now"),
        ("[please] stop [it]", "please stop it|please stop|stop it|stop"),
        ("[very [very]] big", "very very big|very big|big"),
        ("(a;b;c)", "a b c|a c b|b a c|b c a|c a b|c b a"),
        ("(go [now];left)", "go now left|go left|left go now|left go"),
        ("light[s]", "lights|light"),
        ("[un]lock(ed|)", "unlocked|unlock|locked|lock"),
        ("light[s| up] now", "lights now|light up now|light now"),
        ("on[ the| a] light", "on the light|on a light|on light"),
        ("<turn> <the> tv", "turn the tv|turn my tv|turn tv|switch the tv|switch my tv|switch tv"),
        ("stop <polite>", "stop please|stop"),
        ("in {area}", "in kitchen|in living room|in lounge|in big garden|in garden"),
        ("{area}'s light", "|".join(f"{a}'s light" for a in "kitchen/living room/lounge/big garden/garden".split("/"))),
        ("to {level}%", "to zero percent|to fifty percent|to one hundred percent|to a hundred percent"),
        ("{degrees}", "minus five|zero|five"),
        ("{down}", "three|two|one"),
        ("{0..2:n} [time]s", "zero times|zero s|one times|one s|two times|two s"),
        ("{10..30,10:n}", "ten|twenty|thirty"),
        ("{count}", "one hundred five|one hundred and five|a hundred five|a hundred and five"),
        ("at 7:30", "at seven thirty"),
        ("wi-fi it's 5 °C", "wi fi it's five degrees c"),
        ("{switch}", "on|off|maybe|seven|sure|two point five"),
        ("play {title}", "play xylophone"),
        ("{title} by {title:artist}", "xylophone by xylophone"),
    ],
)  # fmt: skip
def test_a_template_says_these_sentences_and_no_others(template: str, sentences: str) -> None:
    grammar = of(template)
    assert sorted(heard(grammar)) == sorted(sentences.split("|"))
    assert grammar.n_sentences == len(sentences.split("|"))
    assert all(grammar.interpret(sentence) for sentence in sentences.split("|"))
    for sentence in sentences.split("|"):
        assert grammar.interpret(f"{sentence} qq") is None or "title" in template
        assert grammar.interpret(f"qq {sentence}") is None or template.startswith("{title}")


Ways = tuple[str, list[str]]  # a template, and every way to say it


def in_order(parts: list[Ways], between: str = "") -> Ways:
    ways = itertools.product(*(ways for _, ways in parts))
    return between.join(template for template, _ in parts), [between.join(way) for way in ways]


def in_any_order(parts: list[Ways]) -> Ways:
    ways = [way for order in itertools.permutations(parts) for way in in_order(list(order), " ")[1]]
    return f"({';'.join(template for template, _ in parts)})", [f" {way} " for way in ways]


def one_of(parts: list[Ways]) -> Ways:
    return f"({'|'.join(template for template, _ in parts)})", [way for _, ways in parts for way in ways]


def perhaps(part: Ways) -> Ways:
    return f"[{part[0]}]", [*part[1], ""]


def larger(part: st.SearchStrategy[Ways]) -> st.SearchStrategy[Ways]:
    several = st.lists(part, min_size=2, max_size=3)
    spaced = several.map(lambda parts: in_order(parts, " "))
    return part.map(perhaps) | several.map(in_order) | spaced | several.map(one_of) | several.map(in_any_order)


TEMPLATES = st.recursive(st.sampled_from("a b cd e'f g".split()).map(lambda word: (word, [word])), larger, max_leaves=7)


@settings(deadline=None, max_examples=150)
@given(TEMPLATES.filter(lambda pair: len(pair[1]) < 1000))
def test_any_template_says_what_writing_out_its_ways_says(pair: Ways) -> None:
    template, ways = pair
    expected = [normalise(way) for way in ways]
    grammar = of(template, more="")
    assert grammar.n_sentences == len(ways)
    assert set(grammar.sentences()) == {*expected} - {""}
    if len({*expected}) == len(expected):
        assert len(list(grammar.sentences())) == len([*filter(None, expected)])
    assert all(grammar.interpret(sentence) == Interpretation("Do") for sentence in expected if sentence)
    assert grammar.interpret("") is None


@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.stem)
def test_the_files_that_come_along_understand_themselves(path: Path) -> None:
    grammar = Grammar.load(path)
    for sentence in itertools.islice(grammar.sentences(), 0, 2000, 7):
        meaning = grammar.interpret(sentence.replace(ANY_WORD, "xylophone"))
        assert meaning is not None
        assert meaning.intent in grammar.intents


@pytest.mark.parametrize(
    ("template", "sentence", "slots"),
    [
        ("in {area}", "In the kitchen.", None),
        ("in {area}", "In  KITCHEN.", {"area": "kitchen"}),
        ("in {area}", "in living room", {"area": "lounge"}),
        ("in {area:where}", "in lounge", {"where": "lounge"}),
        ("in {area}", "in big garden", {"area": "big garden"}),
        ("from {area:a} to {area:b}", "from garden to lounge", {"a": "garden", "b": "lounge"}),
        ("the {area}'s light", "the living room's light", {"area": "lounge"}),
        ("to {level}", "to 50", {"level": 50}),
        ("to {level}", "to a hundred", {"level": 100}),
        ("{degrees}", "minus five", {"degrees": -2.5}),
        ("{count}", "one hundred and five", {"count": 105}),
        ("{0..10:level}", "seven", {"level": 7}),
        ("{0..10,5:level}", "seven", None),
        ("{switch}", "on", {"switch": "on"}),
        ("{switch}", "maybe", {"switch": "no"}),
        ("{switch}", "seven", {"switch": 7}),
        ("{switch}", "sure", {"switch": True}),
        ("{switch}", "2.5", {"switch": "2.5"}),
        ("play {title}", "play", None),
        ("play {title}", "play Let It Be", {"title": "let it be"}),
        ("play {title} in {area}", "play let it be in kitchen", {"title": "let it be", "area": "kitchen"}),
        ("play {title} in {area}", "play in in in kitchen", {"title": "in in", "area": "kitchen"}),
        ("play {title} in {area}", "play let it be in", None),
        ("play {title} by {title:artist}", "play help by the fab four", {"title": "help", "artist": "the fab four"}),
        ("[{level}] {title}", "fifty ways", {"level": 50, "title": "ways"}),
    ],
)
def test_a_sentence_fills_its_slots(template: str, sentence: str, slots: dict[str, Slot] | None) -> None:
    found = slots_of(of(template), sentence)
    assert found == slots
    assert found is None or slots is None or [*map(type, found.values())] == [*map(type, slots.values())]


@pytest.mark.parametrize("wildcard", ["play {title}", "play <title>", "[please] play {titles}"])
def test_a_sentence_wins_over_a_wildcard_that_would_swallow_it(wildcard: str) -> None:
    grammar = Grammar.parse(f"""
intents:
  Title: ["{wildcard}"]
  Music: ["play [some] music"]
expansion_rules: {{title: "{{title}}"}}
lists: {{title: {{wildcard: true}}, titles: {{values: [{{in: "{{title}}"}}]}}}}
""")
    for sentence in ("play music", "play some music"):
        assert grammar.interpret(sentence) == Interpretation("Music")
    for words in ("some", "music now"):
        meaning = grammar.interpret(f"play {words}")
        assert meaning is not None
        assert meaning.intent == "Title"
        assert {*meaning.slots.values()} == {words}
    assert grammar.has_wildcards
    assert not of("play music").has_wildcards


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ("stop", "(stop|halt)", "stop"),
        ("wi fi", "wi-fi", "wi fi"),
        ("wi-fi", "wi fi", "wi fi"),
        ("[at] seven thirty", "7:30", "7:30"),
        ("light(s| up)", "light[ up]", "light up"),
        ("a {title}", "{title}", "a a"),
    ],
)
def test_of_two_meanings_the_first_in_the_file_counts(first: str, second: str, sentence: str) -> None:
    text = f"intents: {{First: [{json.dumps(first)}], Second: [{json.dumps(second)}]}}"
    assert Grammar.parse(text + LISTS).interpret(sentence) == Interpretation(
        "First", {"title": "a"} if "title" in first else {}
    )


def test_a_block_has_its_own_slots_lists_and_rules() -> None:
    grammar = Grammar.parse("""
language: en
intents:
  Local:
    data:
      - sentences: ["<please> dim {area}"]
        slots: {action: dim, on: yes, level: 5}
        expansion_rules: {please: "would you <polite>"}
        lists: {area: {values: [cellar]}}
      - sentences:
          - <please> open {area}
  Other: ["<please> close {area}"]
lists: {area: {values: [attic]}}
expansion_rules: {please: please, polite: "<please>"}
""")
    assert list(grammar.sentences()) == ["would you please dim cellar", "please open attic", "please close attic"]
    slots: dict[str, Slot] = {"action": "dim", "on": "yes", "level": 5, "area": "cellar"}
    assert grammar.interpret("would you please dim cellar") == Interpretation("Local", slots)
    assert grammar.interpret("please open attic") == Interpretation("Local", {"area": "attic"})
    assert grammar.interpret("please close attic") == Interpretation("Other", {"area": "attic"})
    assert (grammar.intents, grammar.n_templates) == (["Local", "Other"], 3)


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "y", "n", "null", "true", "Off"])
def test_words_that_yaml_reads_as_something_else_stay_words(word: str) -> None:
    grammar = Grammar.parse(f"""
intents: {{{word}: [{word}, "go {{x}}"], A: {{data: [{{sentences: [say {word}], slots: {{s: {word}}}}}]}}}}
lists: {{x: {{values: [{word}]}}}}
""")
    assert list(grammar.sentences()) == [word.lower(), f"go {word.lower()}", f"say {word.lower()}"]
    assert grammar.interpret(word) == Interpretation(word)
    assert slots_of(grammar, f"go {word}") == {"x": word}
    assert slots_of(grammar, f"say {word}") == {"s": True if word == "true" else word}


def test_plain_text_is_a_phrase_a_line(tmp_path: Path) -> None:
    path = tmp_path / "commands.txt"
    path.write_text("\ufeff# a comment\r\n\r\n  Turn on\r\nno # 1\n\nset it to 7:30", "utf-8")
    grammar = Grammar.load(path)
    assert list(grammar.sentences()) == ["turn on", "no one", "set it to seven thirty"]
    assert grammar.interpret("turn on") == Interpretation("Turn on")
    assert grammar.n_sentences == grammar.n_templates == 3


def test_numbers_are_said_in_every_usual_way() -> None:
    for number, ways in {
        0: "zero",
        -100: "minus one hundred",
        100: "one hundred|a hundred",
        215: "two hundred fifteen|two hundred and fifteen",
        1000: "one thousand|a thousand",
        1105: "one thousand one hundred five|one thousand one hundred and five"
        "|a thousand one hundred five|a thousand one hundred and five",
        200_000: "two hundred thousand",
    }.items():
        assert command_file.spell(number) == ways.split("|")


BAD = {
    "YAML that is not YAML": ("intents:\n  A: [go}\n", "2:9", r"is not YAML \(.*\); correct the line"),
    "a tab": ("intents:\n\tA: [go]\n", "2:1", "is not YAML"),
    "a control character": ("intents: {A: [g\x01o]}", "1:1", "is not YAML"),
    "two documents": ("intents: {A: [go]}\n---\nintents: {}\n", "2:1", "is not YAML"),
    "brackets by the hundred": ("intents: " + "[" * 500, "1:59", "is nested more than 50 deep"),
    "empty": ("", "1:1", "holds no sentences"),
    "only a comment": ("# nothing\n", "1:1", "holds no sentences"),
    "no intents": ("\nlanguage: en\n", "2:1", 'has no "intents"'),
    "empty intents": ("intents:\n", "1:1", "holds no sentences"),
    "a list of intents": ("intents:\n  - go\n", "2:3", "intents is written as name: value"),
    "a text": ("go\n", "1:1", "a command file is written as name: value"),
    "no data": ("intents:\n  A: {}\n", "2:6", 'intent A has no "data"'),
    "no sentences": ("intents:\n  A:\n    data:\n      - slots: {}\n", "4:9", 'a block of A has no "sentences"'),
    "one sentence": ("intents:\n  A:\n    data:\n      - sentences: go\n", "4:20", "sentences of A is a list"),
    "a sentence that is none": ("intents:\n  A: [go, [stop]]\n", "2:11", "a sentence is text"),
    "no letters": ("intents:\n  A: ['?!']\n", "2:8", r'"\?!" has no letters a–z or digits'),
    "not closed": ("intents:\n  A: ['go (left|right']\n", "2:11", r'"\(" is not closed in .*; close it with \)'),
    "not closed, inner": ("intents:\n  A:\n    - go [now (or] not\n", "3:18", r'"\]" closes nothing'),
    "stray": ("intents:\n  A:\n    - go left)\n", "3:14", r'"\)" closes nothing in "go left\)"'),
    "crossed": ("intents:\n  A: ['(go] now)']\n", "2:11", r'"\]" closes nothing'),
    "empty brackets": ("intents:\n  A: [go, 'go ()']\n", "2:12", "is not a template"),
    "deep brackets": (f"intents:\n  A: ['{'(' * 700}go{')' * 700}']\n", "2:8", "nested too deep"),
    "no such list": ("intents:\n  A: ['go to {room}']\n", "2:14", "there is no list {room}; write it under lists"),
    "no such slot's list": ("intents:\n  A: ['to {room:where}']\n", "2:11", "there is no list {room}"),
    "no such rule": ("intents:\n  A: [go, 'now <please>']\n", "2:16", "there is no rule <please>; .* expansion_rules"),
    "recursion": ("intents: {A: [<a>]}\nexpansion_rules:\n  a: go [<a>]\n", "3:10", "<a> → <a> goes round in a circle"),
    "recursion through two": (
        "intents: {A: [<a>]}\nexpansion_rules:\n  a: go <b>\n  b: and <a>\n", "4:10", "<a> → <b> → <a> goes round",
    ),
    "recursion of a list": (
        "intents: {A: ['{x}']}\nlists:\n  x:\n    values:\n      - so {x:y}\n", "5:12", "{x} → {x} goes round",
    ),
    "an endless chain of rules": (
        "intents:\n  A: [<r0>]\nexpansion_rules:\n" + "".join(f"  r{i}: go <r{i + 1}>\n" for i in range(999)),
        "2:7", "nested too deep",
    ),
    "empty list": ("intents: {A: ['{x}']}\nlists:\n  x: {values: []}\n", "3:6", "list x has no values"),
    "list of nothing": ("intents: {A: ['{x}']}\nlists:\n  x:\n", "3:5", "list x has no values"),
    "no in": ("intents: {A: ['{x}']}\nlists:\n  x: {values: [{out: a}]}\n", "3:16", 'a value of list x has no "in"'),
    "empty range": (
        "intents: {A: ['{x}']}\nlists:\n  x: {range: {from: 3, to: 1}}\n", "3:6", "a range has .*, not 0",
    ),
    "a range without steps": (
        "intents: {A: ['{x}']}\nlists:\n  x: {range: {from: 1, to: 3, step: 0}}\n", "3:6", "a range has .*, not 0",
    ),
    "a range of too many": (
        "intents: {A: ['{x}']}\nlists:\n  x: {range: {from: 0, to: 9999999999999999999}}\n", "3:6", "range has 1 to",
    ),
    "inline range of nothing": ("intents:\n  A: ['{5..1:n}']\n", "2:8", "a range has 1 to 10000 numbers, not 0"),
    "inline range of too many": ("intents:\n  A: ['{0..10000:n}']\n", "2:8", "1 to 10000 numbers, not 10001"),
    "half a number": (
        "intents: {A: ['{x}']}\nlists:\n  x: {range: {from: 0.5, to: 3}}\n", "3:21", "the range of x is made of whole",
    ),
    "no number": ("intents: {A: ['{x}']}\nlists:\n  x: {range: {to: inf}}\n", "3:19", "made of whole numbers"),
    "foreign letters": ("intents:\n  A: ['go домой']\n", "2:11", '"домой" has the letter д, which is not English'),
    "too many in any order": ("intents:\n  A: ['(a;b;c;d;e;f;g)']\n", "2:8", "7 parts in any order are too many"),
    "unknown key": ("intent:\n  A: [go]\n", "1:1", '"intent" means nothing in a command file; use intents$'),
    "unknown key of a block": (
        "intents:\n  A:\n    data:\n      - sentence: [go]\n", "4:9", '"sentence" means nothing in .*; use sentences$',
    ),
    "unknown key of a list": (
        "intents: {A: ['{x}']}\nlists:\n  x: {valeus: [a]}\n", "3:7", '"valeus" means nothing in list x; use values$',
    ),
    "given twice": ("intents:\n  A: [go]\n  A: [stop]\n", "3:3", '"A" is given twice in intents; take one out'),
}  # fmt: skip


def mistake(path: Path) -> str:
    """Return what is said about a bad file, without the file's name."""
    with pytest.raises(GrammarError) as caught:
        Grammar.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:")


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_named_with_its_line_and_column(tmp_path: Path, name: str) -> None:
    text, where, message = BAD[name]
    path = tmp_path / "commands.yaml"
    path.write_text(text, "utf-8")
    found = mistake(path)
    assert found.startswith(f"{where}: ")
    assert re.search(message, found)
    assert re.fullmatch(r"[^\n]+; [^\n]+[^.\n]", found), "one sentence: what is wrong, and what to do"


def test_brackets_without_end_are_a_mistake_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "commands.yaml"
    path.write_text("intents: " + "[" * 100_000, "utf-8")
    # Newer releases of libyaml stop at the thousandth themselves, and name its column.
    said = r"1:\d+: is (nested more than 50 deep|not YAML \(.*nesting depth\)); [^\n]+[^.\n]"
    assert re.fullmatch(said, mistake(path))


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        (b"go\n stop [now]\n", "2:7", r'"\[" belongs in templates; write them in a .yaml file'),
        (b"go (left|right)\n", "1:4", r'"\(" belongs in templates'),
        (b"go; stop\n", "1:3", '";" belongs in templates'),
        (b"go\n# no\n  ?!\n", "3:3", r'"\?!" has no letters a–z or digits; write English words'),
        ("go\nдомой go домой\n".encode(), "2:1", '"домой" has the letter д'),
        (b"# nothing\n\n", "1:1", "holds no sentences; write at least one"),
        (b"go\xff\n", "1:1", "is not text in UTF-8; save it as UTF-8"),
        ("go".encode("utf-16"), "1:1", "is not text in UTF-8"),
    ],
)
def test_a_mistake_in_plain_text_is_named(tmp_path: Path, text: bytes, where: str, message: str) -> None:
    path = tmp_path / "commands.txt"
    path.write_bytes(text)
    found = mistake(path)
    assert found.startswith(f"{where}: ")
    assert re.search(message, found)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_file, "MAX_BYTES", 2_000_000)
    path = tmp_path / "commands.txt"
    path.write_bytes(b"go\n" * 666_667)
    assert mistake(path) == "1:1: has more than 2 MB; write templates and lists, not every sentence"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert mistake(tmp_path / "missing.yaml").endswith("check the path")
    assert mistake(tmp_path).endswith("check the path")


@pytest.mark.parametrize("is_yaml", [True, False])
@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="go {}[]()<>|;:'\"\\-\n#&*x0.,"))
def test_whatever_is_typed_is_a_grammar_or_a_mistake_with_its_place(is_yaml: bool, text: str) -> None:
    for written in (text, f"intents: {{A: [{json.dumps(text)}]}}"):
        try:
            grammar = Grammar.parse(written, "typed", is_yaml)
        except GrammarError as error:
            assert re.match(r"typed:\d+:\d+: ", str(error))  # noqa: PT017
        else:
            assert all(map(grammar.interpret, itertools.islice(grammar.sentences(), 20)))


@pytest.mark.parametrize(
    ("template", "sentence", "slots"),
    [
        ("play {s} [in {room}]", "play some jazz in kitchen", {"s": "some jazz", "room": "kitchen"}),
        ("play {s} [please]", "play jazz please", {"s": "jazz"}),
        ("take a note:{s}", "take a note buy milk", {"s": "buy milk"}),
        ("lock {door}", "lock rear", {"door": "rear"}),
    ],
)
def test_what_a_slot_holds(template: str, sentence: str, slots: dict[str, Slot]) -> None:
    grammar = Grammar.parse(
        f'intents: {{A: {{data: [{{sentences: ["{template}"], slots: {{door: all}}}}]}}}}\n'
        "lists: {s: {wildcard: true}, room: {values: [kitchen]}, door: {values: ['back|rear']}}\n"
    )
    assert grammar.interpret(sentence) == Interpretation("A", {"door": "all", **slots})
    assert grammar.interpret("take a banana split") is None
