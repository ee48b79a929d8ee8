"""When each word was said: the CTC head's most probable path through the sound for the text that was found.

Suffixes: M encoder positions, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from speechformer.decoding import Floats
from speechformer.shape import ModelConfig
from speechformer.tokenizer import PAD as BLANK


@dataclass(frozen=True)
class Span:
    """The encoder positions of a token, from `first` up to but not including `end`."""

    first: int
    end: int


def align(log_probs_MV: Floats, tokens: Sequence[int]) -> list[Span]:
    """Return the span of each token on the best CTC path (Graves et al. 2006; Kürzinger et al. 2020).

    There are none where the tokens do not fit into the positions.
    """
    n_blanks_needed = sum(first == second for first, second in itertools.pairwise(tokens))
    if not tokens or len(tokens) + n_blanks_needed > len(log_probs_MV):
        return []
    import torch  # with torchaudio two seconds to load
    from torchaudio.functional import forced_align, merge_tokens

    path_1M, scores_1M = forced_align(torch.from_numpy(log_probs_MV)[None], torch.tensor([list(tokens)]), blank=BLANK)
    return [Span(one.start, one.end) for one in merge_tokens(path_1M[0], scores_1M[0], blank=BLANK)]


def seconds(span: Span, config: ModelConfig, frames_per_s: float, edge_s: float) -> tuple[float, float]:
    """Return when a span begins and ends: the middle of its windows, half a stride to each side."""
    middle = config.window_frames / 2 - config.pad_frames
    begin = (config.stride_frames * (span.first - 0.5) + middle) / frames_per_s - edge_s
    end = (config.stride_frames * (span.end - 0.5) + middle) / frames_per_s - edge_s
    return begin, end


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
