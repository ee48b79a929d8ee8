"""When each word was said: the CTC head's most probable path through the sound for the text that was found.

Suffixes: M encoder positions, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from speechformer.decoding import Floats, Ints
from speechformer.shape import ModelConfig
from speechformer.tokenizer import PAD as BLANK

AROUND_S = 0.2  # how far from a word's span its cross-attention may look and still agree
LEAD, TAIL = 1, 5  # positions of a word before its first piece is written, and after its last
HEARD = 0.2  # a blank's probability under which something is heard
FAR_DB = 12.0  # under who speaks to the microphone is who speaks behind them
DOUBTFUL = 0.5  # the agreement under which a word's times are doubtful


@dataclass(frozen=True)
class Span:
    """The encoder positions of a token, from `first` up to but not including `end`."""

    first: int
    end: int


class Spoken(NamedTuple):
    """The encoder positions in which somebody speaks to the microphone, from `first` up to but not including `end`.

    `before` and `after` them are so many places where something is heard, too: others, further away.
    """

    first: int
    end: int
    before: int = 0
    after: int = 0


def spoken(log_probs_MV: Floats, gap: int, short: float = 0.0, level_db_M: Floats | None = None) -> Spoken:
    """Return where the CTC head hears somebody; from 0 to 0, where it does not.

    It hears something where a blank is improbable. What is `FAR_DB` under the loudest of that, by the level around each
    position, is further away. Places no more than `gap` apart are one stretch; stretches that have less than the share
    `short` of the places of the longest are taken for no speech.
    """
    places = near = np.flatnonzero(log_probs_MV[:, BLANK] < math.log(HEARD))
    if not len(places):
        return Spoken(0, 0)
    if level_db_M is not None:
        near = places[level_db_M[places] >= level_db_M[places].max() - FAR_DB]
    stretches = np.split(near, np.flatnonzero(np.diff(near) > gap) + 1)
    least = short * max(map(len, stretches))
    kept = [stretch for stretch in stretches if len(stretch) >= least]
    first, last = int(kept[0][0]), int(kept[-1][-1])
    return Spoken(first, last + 1, int((places < first).sum()), int((places > last).sum()))


def align(log_probs_MV: Floats, tokens: Sequence[int]) -> list[Span]:
    """Return the span of each token on the best CTC path (Graves et al. 2006; Kürzinger et al. 2020).

    There are none where the tokens do not fit into the positions. It is torchaudio's `forced_align`, to which a test
    holds it, without the half gigabyte that loading torch takes.
    """
    n_blanks_needed = sum(first == second for first, second in itertools.pairwise(tokens))
    if not tokens or len(tokens) + n_blanks_needed > len(log_probs_MV):
        return []
    path = _best_path(log_probs_MV, np.array([BLANK, *(part for token in tokens for part in (token, BLANK))]))
    places = [np.flatnonzero(path == 2 * i + 1) for i in range(len(tokens))]
    return [Span(int(place[0]), int(place[-1]) + 1) for place in places]


def _best_path(log_probs_MV: Floats, labels_S: Ints) -> Ints:
    """Return which of the labels, tokens with blanks around them, each position is in (Viterbi)."""
    emissions_MS = log_probs_MV[:, labels_S].astype(np.float64)
    skips_S = np.concatenate(([False, False], (labels_S[2:] != BLANK) & (labels_S[2:] != labels_S[:-2])))
    score_S = np.full(len(labels_S), -np.inf)
    score_S[:2] = emissions_MS[0, :2]
    steps_MS = np.zeros(emissions_MS.shape, np.int8)
    for position in range(1, len(emissions_MS)):
        before_S = np.concatenate(([-np.inf], score_S[:-1]))
        skipped_S = np.where(skips_S, np.concatenate(([-np.inf, -np.inf], score_S[:-2])), -np.inf)
        choices_3S = np.stack((score_S, before_S, skipped_S))
        steps_MS[position] = choices_3S.argmax(0)
        score_S = choices_3S.max(0) + emissions_MS[position]
    state = len(labels_S) - (1 if score_S[-1] >= score_S[-2] else 2)
    path = np.empty(len(emissions_MS), np.int64)
    for position in range(len(emissions_MS) - 1, -1, -1):
        path[position] = state
        state -= int(steps_MS[position, state])
    return path


def agreement(looks_LHM: Floats, span: Span, around: int) -> float:
    """Return which share of the looks for a word's tokens falls on its span and `around` positions on each side.

    That of the head which looks there most: not every head reads along. Of 1,686 words of dev speech 99.8 % have more
    than a half of it within 0.2 s.
    """
    there = slice(max(0, span.first - around), span.end + around)
    return float(looks_LHM[:, :, there].sum(-1).mean(0).max())


def seconds(position: float, config: ModelConfig, frames_per_s: float, edge_s: float) -> float:
    """Return when an encoder position begins: half a stride before the middle of its window."""
    middle = config.window_frames / 2 - config.pad_frames
    return (config.stride_frames * (position - 0.5) + middle) / frames_per_s - edge_s


def whole_span(spans: Sequence[Span], group: Sequence[int]) -> Span:
    """Return the span of a word from those of its tokens."""
    return Span(spans[group[0]].first, spans[group[-1]].end)


def word_bounds(spans: Sequence[Span], reach: float = 1.0) -> list[tuple[float, float]]:
    """Return where words begin and end, in positions, from the spans of what is written of them.

    The CTC head writes a piece at one or two positions somewhere in its sound (Graves et al. 2006, figure 1), rather
    early. So a word reaches `LEAD` and `TAIL` positions further, or a part of that; where two want the same, each has
    its share.
    """
    gaps = [math.inf, *(after.first - before.end for before, after in itertools.pairwise(spans)), math.inf]
    free = [min(1.0, gap / (LEAD + TAIL)) * reach for gap in gaps]
    return [
        (span.first - LEAD * before, span.end + TAIL * after)
        for span, before, after in zip(spans, free, free[1:], strict=False)
    ]


def word_groups(pieces: Sequence[str]) -> list[list[int]]:
    """Return, for each word, which pieces it is made of; a leading `▁` starts a word."""
    groups: list[list[int]] = []
    for i, piece in enumerate(pieces):
        if piece.startswith("▁") or not groups:
            groups.append([])
        groups[-1].append(i)
    return [group for group in groups if "".join(pieces[i] for i in group).strip("▁")]


def confidence(token_log_probabilities: Sequence[float]) -> float:
    """Return the probability of a word's tokens together, by both heads; it is not calibrated."""
    return math.exp(min(0.0, sum(token_log_probabilities)))
