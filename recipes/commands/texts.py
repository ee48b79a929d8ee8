"""Command texts that no file holds: spelling, numbers, dates, times and control words, drawn at random."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

from num2words import num2words

from speechformer.grammar import Grammar
from speechformer.network import ANY_WORD
from speechformer.tokenizer import normalise

COMMAND_FILES = Path(__file__).resolve().parents[2] / "assets" / "commands"
COMMAND_SETS = "computer home media timers".split()  # the other files hold letters and digits, which are drawn below

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "zero one two three four five six seven eight nine".split()
MONTHS = ("january february march april may june july august september october november december").split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
WORDS = (
    "yes no go stop enter erase help repeat start rubout up down left right on off forward backward follow learn "
    "visual bed bird cat dog happy house marvin sheila tree wow open close play pause next previous back home "
    "louder quieter mute cancel undo select delete copy paste save send call answer hang menu exit quit again"
).split()
COLOURS = "red blue green white black yellow orange purple pink brown grey".split()
VERBS = "bin lay place set put move take select show open".split()
PREPOSITIONS = "at by in with on to from".split()
PASSING = [*PREPOSITIONS, "at", "with"]
ADVERBS = "again now please soon today later".split()


def spoken(number: int) -> str:
    """Spell a number as people say it."""
    return normalise(str(number))


def word(draw: random.Random) -> str:
    """Draw one to three single words."""
    return " ".join(draw.choice(WORDS + DIGITS) for _ in range(draw.choice((1, 1, 1, 2, 3))))


def digits(draw: random.Random) -> str:
    """Draw one to eight digits."""
    return " ".join(draw.choice(DIGITS) for _ in range(draw.randint(1, 8)))


def spelling(draw: random.Random) -> str:
    """Draw one to seven letters."""
    return " ".join(draw.choice(LETTERS) for _ in range(draw.randint(1, 7)))


def code(draw: random.Random) -> str:
    """Draw letters and a number, with a control word before them at times."""
    letters = [draw.choice(LETTERS) for _ in range(draw.randint(1, 4))]
    number = draw.choice((draw.randint(0, 99), draw.randint(100, 9999), draw.randint(0, 999_999)))
    command = draw.choice(("", "", "enter", "erase", "rubout", "repeat", "go", "help"))
    return " ".join([*command.split(), *letters, *spoken(number).split()])


def date(draw: random.Random) -> str:
    """Draw a date, with its day of the week or its year at times."""
    ordinal = str(num2words(draw.randint(1, 31), to="ordinal")).replace("-", " ")
    year = draw.randint(1900, 2039)
    spoken_year = _spoken_year(year)
    parts = [
        draw.choice(("", draw.choice(DAYS))),
        draw.choice(MONTHS),
        ordinal,
        draw.choice(("", spoken_year)),
    ]
    return " ".join(part for part in parts if part)


def _spoken_year(year: int) -> str:
    century, rest = divmod(year, 100)
    if 2000 <= year < 2010:
        return spoken(year)
    return f"{spoken(century)} {'hundred' if not rest else f'oh {spoken(rest)}' if rest < 10 else spoken(rest)}"


def time(draw: random.Random) -> str:
    """Draw a time of the day."""
    hour, minute = spoken(draw.randint(1, 12)), draw.randint(0, 59)
    minutes = "o'clock" if minute == 0 else (f"oh {spoken(minute)}" if minute < 10 else spoken(minute))
    return " ".join([hour, minutes, draw.choice(("", "a m", "p m", "in the morning"))]).strip()


def move(draw: random.Random) -> str:
    """Draw a move on a board: what to do with which colour, where."""
    return " ".join(map(draw.choice, (VERBS, COLOURS, PREPOSITIONS, LETTERS, DIGITS, ADVERBS)))


def move_in_passing(draw: random.Random) -> str:
    """Draw a move, with those prepositions twice as often that are hardest to hear ("in" for "at", "by" for "with")."""
    return " ".join(map(draw.choice, (VERBS, COLOURS, PASSING, LETTERS, DIGITS, ADVERBS)))


@cache
def command_set(name: str) -> Grammar:
    """Load one of the command files that come with the application."""
    return Grammar.load(COMMAND_FILES / f"{name}.yaml")


def command(draw: random.Random, dictated: list[str]) -> str:
    """Draw a sentence of a ready command file; a wildcard is the first words of one of the texts `dictated`.

    After each word all that can follow are as likely as each other, and the end, however many sentences they lead to.
    """
    grammar = command_set(draw.choice(COMMAND_SETS))
    place, words, wild = grammar.start, list[str](), False
    while True:
        steps = grammar.steps(place)
        ways = {step.words: step for step in draw.sample(steps, len(steps))}
        ends = grammar.ending(place) is not None
        chosen = draw.choice([*sorted(ways), *([None] if ends else [])])
        if chosen is None:
            return " ".join(words)
        if chosen != (ANY_WORD,):
            words += chosen
        elif not wild:
            words += draw.choice(dictated).split()[: draw.randint(1, 5)]
        place, wild = ways[chosen].config, chosen == (ANY_WORD,)


def seldom_heard(lines: list[str], heard: Counter[str], least: int, seed: int = 0) -> list[str]:
    """Choose texts for their words: until each word has been heard `least` times, as far as there are texts.

    `heard` is how often training has said each word. Words of one text alone are misspelt too often to be asked for.
    """
    n_texts = Counter(word for line in lines for word in set(line.split()))
    heard, chosen = heard.copy(), list[str]()
    for line in random.Random(seed).sample(lines, len(lines)):
        words = line.split()
        if any(heard[word] < least and n_texts[word] > 1 for word in words):
            chosen.append(line)
            heard.update(words)
    return chosen


KINDS: dict[Callable[[random.Random], str], float] = {
    word: 4, digits: 3, spelling: 3, code: 2, date: 1, time: 1, move: 2,
}  # fmt: skip


def draw_text(draw: random.Random, kinds: dict[Callable[[random.Random], str], float] = KINDS) -> str:
    """Draw one text of these kinds, each as often as its weight says."""
    kind = draw.choices(list(kinds), list(kinds.values()))[0]
    return kind(draw)


def is_spelt(text: str) -> bool:
    """Tell whether no "a" of a text is the article: "seven a m" (a text that is drawn has none either)."""
    words = text.split()
    return all(after == "m" for word, after in zip(words, [*words[1:], ""], strict=True) if word == "a")
