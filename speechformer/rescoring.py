"""Score token sequences that are given as a search would score them, all tokens at once.

Suffixes: B utterances, W texts of each, R rows (B × W), V vocabulary, U tokens of it, L tokens, N hearings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechformer.ctc import CtcPrefix
from speechformer.decoding import NEVER, DecodingConfig, Doubles, Hypothesis, Ints, Memory, Recogniser, lay_out
from speechformer.tokenizer import EOS


def rescore(
    recogniser: Recogniser, memory: Memory, config: DecodingConfig, found: Sequence[Sequence[Hypothesis]]
) -> list[list[Hypothesis]]:
    """Give what the CTC head alone has found or scored the joint scores that `search` would give it, best first.

    The decoder reads all tokens of all texts at once.
    """
    tokens_BWL = _grid([[one.tokens for one in some] for some in found])
    if not tokens_BWL.size or config.ctc_weight == 1:
        return [_ranked(some, config) for some in found]
    n_texts, tokens_RL = tokens_BWL.shape[1], tokens_BWL.reshape(-1, tokens_BWL.shape[2])
    cache = memory.cache.select(np.repeat(np.arange(len(found)), n_texts))
    log_probs_RLV, _ = recogniser.read(tokens_RL[:, :-1], cache)
    shares_RL1 = np.take_along_axis(log_probs_RLV, tokens_RL[:, 1:, None], -1).astype(np.float64)
    shares_BWL = shares_RL1.reshape(len(found), n_texts, -1)
    return [
        _ranked(
            [_joint(one, shares_L, config.ctc_weight) for one, shares_L in zip(some, shares_WL, strict=False)], config
        )
        for some, shares_WL in zip(found, shares_BWL, strict=True)
    ]


def _grid(texts: Sequence[Sequence[tuple[int, ...]]]) -> Ints:
    """Return begin, tokens and ends of each utterance's texts, `tokens_BWL`; empty texts fill up the rest."""
    n_texts = max(map(len, texts), default=0)
    filled = [text for some in texts for text in (*some, *[()] * (n_texts - len(some)))]
    tokens_RL = lay_out([(*text, EOS) for text in filled])
    return tokens_RL.reshape(len(texts), n_texts, tokens_RL.shape[1])


def _ranked(some: Sequence[Hypothesis], config: DecodingConfig) -> list[Hypothesis]:
    """Return hypotheses with what their tokens earn, best first."""
    earning = [one._replace(earned=config.token_reward * len(one.tokens)) for one in some]
    return sorted(earning, key=lambda one: -one.score)


def _joint(one: Hypothesis, attention_L: Doubles, weight: float) -> Hypothesis:
    """Return a hypothesis of the CTC head's with what the decoder says of each of its tokens, and of its end."""
    attention_L = attention_L[: len(one.tokens) + 1]
    shares_L = (1 - weight) * attention_L + weight * np.array(one.token_log_probabilities)
    return Hypothesis(
        one.tokens,
        float(shares_L.sum()),
        tuple(shares_L.tolist()),
        float(attention_L.sum()),
        one.ctc if weight else 0.0,
    )


def ctc_score(memory: Memory, texts: Sequence[Sequence[tuple[int, ...]]]) -> list[list[Hypothesis]]:
    """Return of each utterance's texts the hypotheses that a search by the CTC head alone would make of them.

    What an utterance has no room for has no hypothesis.
    """
    tokens_BWL = _grid(texts)
    if not tokens_BWL.size:
        return [[] for _ in texts]
    prefixes_BWL = _ctc_prefixes(memory, tokens_BWL[..., 1:])
    return [
        [
            Hypothesis(
                text,
                float(prefix_L[len(text)]),
                tuple(np.diff(prefix_L[: len(text) + 1], prepend=0.0).tolist()),
                0.0,
                float(prefix_L[len(text)]),
            )
            for text, prefix_L in zip(some, prefixes_WL, strict=False)
            if prefix_L[len(text)] > NEVER / 10
        ]
        for some, prefixes_WL in zip(texts, prefixes_BWL, strict=True)
    ]


def _ctc_prefixes(memory: Memory, next_BWL: Ints) -> Doubles:
    """Return the log probability of every sentence that begins with so many tokens of a text, `prefixes_BWL`."""
    n_utterances, n_texts, n_tokens = next_BWL.shape
    state = CtcPrefix(memory.ctc_log_probs_BMV, memory.lengths_B, n_texts)
    all_A, all_AW = np.arange(n_utterances), np.tile(np.arange(n_texts), (n_utterances, 1))
    prefixes_BWL = np.empty(next_BWL.shape)
    for place in range(n_tokens):
        if place:
            state = state.advance(all_A, all_AW, next_BWL[..., place - 1])
        tokens_U, places_AW = np.unique(next_BWL[..., place], return_inverse=True)
        prefix_AWU = state.extensions(tokens_U)
        prefix_AWU[..., tokens_U == EOS] = state.ending()[..., None]
        places_AW1 = places_AW.reshape(n_utterances, n_texts, 1)
        prefixes_BWL[..., place] = np.take_along_axis(prefix_AWU, places_AW1, -1)[..., 0]
    return prefixes_BWL


def mean_hypothesis(hearings: Sequence[Hypothesis]) -> Hypothesis:
    """Return a text's hypothesis with the mean of the log probabilities that several hearings of a sound give it."""
    shares_NL = np.array([one.token_log_probabilities for one in hearings])
    heads_N2 = np.array([(one.attention, one.ctc) for one in hearings])
    attention, ctc = heads_N2.mean(0).tolist()
    shares = tuple(shares_NL.mean(0).tolist())
    return hearings[0]._replace(
        log_probability=sum(shares), token_log_probabilities=shares, attention=attention, ctc=ctc
    )
