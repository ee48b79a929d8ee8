"""Command texts that no file holds, drawn at random: spelling, numbers, dates, moves, timers, sums, measures."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from num2words import num2words

from speechformer.grammar import Grammar
from speechformer.network import ANY_WORD
from speechformer.tokenizer import normalise

COMMAND_FILES = Path(__file__).resolve().parents[2] / "assets" / "commands"
COMMAND_SETS = tuple("computer home media timers".split())  # the other files hold letters and digits, drawn below
DOMAINS = Path(__file__).resolve().parent / "domains"  # command files that are there to be drawn from
DOMAIN_SETS = tuple("appliances cafe driver errands machines".split())

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
POLITE = ("", "", "", "", "please", "for me", "now", "thanks")
MEALS = "pasta rice eggs pizza chicken bread cake cookies tea coffee laundry oven potatoes soup nap workout".split()
MEASURES = (
    "inches feet yards miles millimeters centimeters meters kilometers",
    "ounces pounds stones grams kilograms milligrams tons",
    "teaspoons tablespoons cups pints quarts gallons milliliters liters",
    "celsius fahrenheit kelvin",
    "seconds minutes hours days weeks months years",
    "dollars euros pounds yen rupees",
    "bytes kilobytes megabytes gigabytes terabytes",
)  # each line's are converted into each other
OPERATIONS = {
    "plus": 5, "minus": 5, "times": 5, "divided by": 5, "multiplied by": 3, "over": 1, "to the power of": 1,
    "percent of": 2, "modulo": 1,
}  # fmt: skip
CLOCK = (("hour", 12), ("minute", 59), ("second", 59))  # and how many of them at most
FILLERS = "um uh".split()  # written by nobody


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


def number(draw: random.Random) -> str:
    """Draw a number as commands have them: small ones most of all, some of them negative or with decimals."""
    small, larger, large = draw.randint(0, 20), draw.randint(21, 999), draw.randint(1000, 99_999)
    words = spoken(draw.choices((small, larger, large), (4, 5, 1))[0])
    if draw.random() < 0.5:
        words = words.replace(" and ", " ")
    if draw.random() < 0.25:
        words += " point " + " ".join(draw.choice(DIGITS) for _ in range(draw.choice((1, 1, 2, 2, 3))))
    return f"negative {words}" if draw.random() < 0.04 else words


def duration(draw: random.Random) -> str:
    """Draw how long something takes: "one hour and twenty minutes", "half an hour", "ninety seconds"."""
    if draw.random() < 0.1:
        return draw.choice(("half an hour", "an hour and a half", "a quarter of an hour", "a minute and a half",
                            "two and a half hours", "three quarters of an hour", "a couple of minutes"))  # fmt: skip
    places = sorted(draw.sample(range(len(CLOCK)), draw.choices((1, 2, 3), (4, 5, 2))[0]))
    parts = list[str]()
    for unit, most in (CLOCK[place] for place in places):
        n = draw.randint(1, most)
        parts.append(f"{spoken(n)} {unit}{'s' if n > 1 else ''}")
    joint = draw.choice((" ", " and "))
    return f"{' '.join(parts[:-1])}{joint if len(parts) > 1 else ''}{parts[-1]}"


def timer(draw: random.Random) -> str:
    """Draw a request for a timer, or a reminder after a while."""
    start = draw.choice(("set", "set", "start", "create", "make", "begin", "add", "put on", "i need", "give me"))
    long, name = duration(draw), draw.choice(MEALS)
    said = draw.choice((
        f"{start} a timer for {long}", f"{start} a timer for {long}", f"{start} a {long} timer",
        f"{start} timer for {long}", f"{start} a timer for the {name} for {long}", f"timer for {long}",
        f"{start} a {name} timer for {long}", f"remind me in {long} to check the {name}", f"let me know in {long}",
        f"{start} another timer for {long}", f"count down {long}", f"add {long} to the {name} timer",
    ))  # fmt: skip
    return f"{said} {draw.choice(POLITE)}".strip()


def alarm(draw: random.Random) -> str:
    """Draw a request for an alarm at a time of a day."""
    hour, half = spoken(draw.randint(1, 12)), draw.choice(("half", "quarter"))
    when = draw.choice((
        time(draw), time(draw), f"{half} past {hour}", f"{hour} {draw.choice(('a m', 'p m'))}", "noon", "midnight",
    ))  # fmt: skip
    day = draw.choice((
        "", "", "tomorrow", "today", "tonight", "tomorrow morning", "every day", "on weekdays",
        f"{draw.choice(('on', 'next', 'every'))} {draw.choice(DAYS)}",
    ))  # fmt: skip
    said = draw.choice((
        f"set an alarm for {when} {day}", f"set an alarm for {day} {when}", f"set alarm for {when} {day}",
        f"wake me up at {when} {day}", f"wake me {day} at {when}", f"create an alarm at {when} {day}",
        f"set my alarm for {when} {day}", f"set the alarm {day} to {when}", f"i need an alarm at {when} {day}",
        f"can you wake me up {day} at {when}", f"cancel my {when} alarm {day}",
    ))  # fmt: skip
    return " ".join(f"{said} {draw.choice(POLITE)}".split())


def sum_of(draw: random.Random) -> str:
    """Draw a question for what some numbers come to."""
    operation = draw.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
    ask = draw.choice(("what is", "what is", "what's", "how much is", "calculate", "compute", "tell me", "what does",
                       "work out", "can you tell me what is", ""))  # fmt: skip
    end = "equal" if ask == "what does" else ""
    if draw.random() < 0.06:
        return f"{ask} the square root of {number(draw)} {end}".strip()
    more = f"{draw.choice(('plus', 'minus', 'times'))} {number(draw)}" if draw.random() < 0.08 else ""
    return " ".join(f"{ask} {number(draw)} {operation} {number(draw)} {more} {end}".split())


def conversion(draw: random.Random) -> str:
    """Draw a question for a measure in another unit."""
    kind = draw.choice(MEASURES).split()
    degrees = draw.choice(("", "degrees "))
    one, other = (degrees * (unit in ("celsius", "fahrenheit")) + unit for unit in draw.sample(kind, 2))
    much = number(draw)
    said = draw.choice((
        f"convert {much} {one} to {other}", f"convert {much} {one} into {other}",
        f"how many {other} are in {much} {one}", f"how many {other} in {much} {one}",
        f"what is {much} {one} in {other}", f"what's {much} {one} in {other}", f"how many {other} is {much} {one}",
        f"{much} {one} to {other}", f"how much is {much} {one} in {other}", f"change {much} {one} to {other}",
        f"tell me how many {other} there are in {much} {one}",
    ))  # fmt: skip
    return f"{said} {draw.choice(POLITE)}".strip() if draw.random() < 0.3 else said


def hesitant(draw: random.Random, text: str) -> str:
    """Say one or two fillers before or within a text."""
    words = text.split()
    for _ in range(draw.choice((1, 1, 2))):
        words.insert(draw.randrange(len(words)), draw.choice(FILLERS))
    return " ".join(words)


def fluent(text: str) -> str:
    """Leave out the fillers of a text, which are heard and not written."""
    return " ".join(word for word in text.split() if word not in FILLERS)


def drawn_words() -> list[str]:
    """Return the words of timers, sums and measures, which are drawn and hence in no file of texts."""
    return " ".join([*MEALS, *MEASURES, *OPERATIONS]).split()


@cache
def command_set(name: str) -> Grammar:
    """Load one of the command files that come with the application, or of the recipe's own."""
    return Grammar.load((COMMAND_FILES if name in COMMAND_SETS else DOMAINS) / f"{name}.yaml")


def command(draw: random.Random, dictated: list[str], names: Sequence[str] = COMMAND_SETS) -> str:
    """Draw a sentence of one of these command files; a wildcard is the first words of one of the texts `dictated`.

    After each word all that can follow are as likely as each other, and the end, however many sentences they lead to.
    """
    grammar = command_set(draw.choice(names))
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
