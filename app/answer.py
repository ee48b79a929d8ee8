"""How an answer is drawn: HTML with everything escaped, and a word beside every colour."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Literal

from speechformer.transcript import Alternative, Command, Slots, Status

N_OTHERS = 3

NO_SPEECH = "No speech was heard."
NOT_A_COMMAND = "That is not one of the commands"
SPEAK_UP = "Speak clearly, closer to the microphone, and try again."
BADGES: dict[Status, tuple[str, str]] = {
    "accepted": ("✓", "Understood"),
    "unsure": ("?", "Not sure"),
    "not_a_command": ("✕", "Refused"),
    "no_speech": ("○", "Silence or noise"),
}
# What each probability is of, and the status of an answer for which it was too low.
DECISIONS: tuple[tuple[str, str, Status], ...] = (
    ("speech", "Speech", "no_speech"),
    ("command", "A command", "not_a_command"),
    ("right", "The right one", "unsure"),
)

# What an element holds is announced by screen readers when it changes.
ANNOUNCE = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"

Tone = Literal["plain", "warning"]


def note(text: str, tone: Tone) -> str:
    """Return one sentence as HTML."""
    return f'<p class="{tone}">{escape(text)}</p>'


def draw(command: Command) -> str:
    """Return what became of an utterance: the command with its slots, or why there is none."""
    sign, title = BADGES[command.status]
    badge = f'<p class="badge"><span aria-hidden="true">{sign}</span> {title}</p>'
    parts = {
        "accepted": _draw_accepted,
        "unsure": _draw_unsure,
        "not_a_command": _draw_refused,
        "no_speech": _draw_silence,
    }[command.status](command)
    return f'<div class="answer {command.status}">{badge}{parts}</div>'


def _draw_accepted(command: Command) -> str:
    best, *others = command.alternatives
    more = f"<h2>What else it could be</h2>{_draw_list(others[:N_OTHERS])}" if others else ""
    return (
        f'<p class="words">{escape(best.text)}</p>'
        f'<p class="intent">Intent <b>{escape(best.intent)}</b></p>'
        f"{_draw_slots(best.slots)}{_draw_table([('Confidence', command.confidence, '')])}{more}"
    )


def _draw_unsure(command: Command) -> str:
    options = _draw_list(command.alternatives[:N_OTHERS])
    return f'<p class="words">Did you mean …?</p>{options}{_draw_decision(command)}'


def _draw_refused(command: Command) -> str:
    heard = f"; it sounded like “{command.heard}”" if command.heard else ""
    return f'<p class="words">{escape(NOT_A_COMMAND + heard)}.</p>{_draw_decision(command)}'


def _draw_silence(command: Command) -> str:
    return f'<p class="words">{NO_SPEECH}</p><p>{SPEAK_UP}</p>{_draw_decision(command)}'


def _draw_slots(slots: Slots) -> str:
    if not slots:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(_plain(value))}</td></tr>' for name, value in slots.items()
    )
    return f'<table class="slots"><tr><th scope="col">Slot</th><th scope="col">Value</th></tr>{rows}</table>'


def _draw_decision(command: Command) -> str:
    """Return the probabilities that decided, up to the one that was too low."""
    rows = []
    for key, question, status in DECISIONS:
        if key in command.numbers:
            rows.append((question, command.numbers[key], "too low" if status == command.status else ""))
        if status == command.status:
            break
    return f"<h2>What decided</h2>{_draw_table(rows)}" if rows else ""


def _draw_table(rows: Sequence[tuple[str, float, str]]) -> str:
    """Return names, probabilities as bars and numbers, and remarks."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="track">{_draw_bar(probability)}</td>'
        f"<td>{escape(percent(probability))}{f' <b>{escape(remark)}</b>' if remark else ''}</td></tr>"
        for name, probability, remark in rows
    )
    return f'<table class="numbers">{lines}</table>'


def _draw_bar(probability: float) -> str:
    width = 100 * min(max(probability, 0.0), 1.0)
    return f'<span class="bar" aria-hidden="true"><span style="width: {width:.1f}%"></span></span>'


def _draw_list(alternatives: Sequence[Alternative]) -> str:
    items = "".join(
        f'<li><span class="option">{escape(one.text)}</span> <span class="chance">{escape(percent(one.probability))}'
        f'</span> <span class="meaning">{escape(_describe(one))}</span></li>'
        for one in alternatives
    )
    return f'<ul class="others">{items}</ul>'


def _describe(one: Alternative) -> str:
    slots = ", ".join(f"{name}: {_plain(value)}" for name, value in one.slots.items())
    return f"{one.intent} ({slots})" if slots else one.intent


def _plain(value: str | int | float | bool) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def percent(probability: float) -> str:
    """Return a probability in whole percent, never rounded to certainty."""
    if 0 < probability < 0.01:
        return "under 1 %"
    return "over 99 %" if 0.99 < probability < 1 else f"{100 * probability:.0f} %"
