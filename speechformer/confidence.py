"""How far an answer can be believed: evidence from two searches → three probabilities → accept or refuse.

An utterance is decoded inside the grammar and freely. How much worse the grammar's best sentence fits than the
free one says whether it was a command at all (a likelihood ratio); how far the next meaning is behind says
whether it was this one. Three logistic regressions, fitted by the recipe on real dev speech, make probabilities
of these numbers: that there was speech, that it was one of the commands, and that it was the best one. A fourth one
is such a number itself: whether there was a voice, by all that the decoder could read.

Suffixes: D numbers that the decoder's first layer can read at a position, in the mean over an utterance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from rapidfuzz.distance import Levenshtein

from speechformer.decoding import Hypothesis
from speechformer.transcript import Status

LIKELY = 0.5  # a command for all that is known, though which one is not: worth asking back
FAR = 20.0  # log probabilities further apart than this are equally far apart
WEAK = 10.0  # and those of single tokens
SHORT = 2  # tokens: a sneeze is heard as no more
IMPROBABLE = -2.0  # log probability under which a token may be another


@dataclass(frozen=True)
class Evidence:
    """What is known of an utterance. Log probabilities are natural, per token where the name says so.

    `ratio`, `attention_ratio`, `ctc_ratio`: the best sentence of the grammar against the best of all, both heads,
    decoder and CTC head. `margin`: against the next meaning. `sureness`, `free_sureness`: per token.
    `agreement`: decoder against CTC head, per token. `distance`: share of letters to change to get what was
    heard freely. `blank`: mean log probability of the CTC blank, near 0 where nothing is said. `empty`: 1 where
    nothing was heard freely. `length`: log of the number of tokens. `weakest`: the least probable token of the
    grammar's sentence against that of the free one; a word that was not said stands out among others that were.
    `doubtful`: how many tokens are improbable. `voice`: log odds of speech by the sound as a whole, which a sneeze that
    is like a word in everything above has not.
    """

    ratio: float
    attention_ratio: float
    ctc_ratio: float
    ratio_per_token: float
    margin: float
    sureness: float
    free_sureness: float
    agreement: float
    distance: float
    blank: float
    empty: float
    length: float
    weakest: float
    doubtful: float
    voice: float

    @property
    def is_short(self) -> bool:
        """Whether the grammar's sentence has no more tokens than a sneeze can be heard as; its end counts as one."""
        return self.length < math.log(SHORT + 2)


def weigh(
    best: Hypothesis,
    rival: Hypothesis | None,
    free: Hypothesis,
    texts: tuple[str, str],
    blank: float,
    voice: float = 0.0,
) -> Evidence:
    """Collect the evidence on `best`, the grammar's best hypothesis.

    `rival` is the best one with another meaning, `free` the best outside of the grammar, `texts` those of `best`
    and `free`, `blank` the mean log probability of the CTC blank, `voice` the log odds of a voice.
    """
    n_best, n_free = len(best.tokens) + 1, len(free.tokens) + 1
    ratio = best.log_probability - free.log_probability
    margin = best.score - rival.score if rival else FAR
    return Evidence(
        ratio=bounded(ratio),
        attention_ratio=bounded(best.attention - free.attention),
        ctc_ratio=bounded(best.ctc - free.ctc),
        ratio_per_token=max(-5.0, min(0.0, ratio / n_best)),
        margin=bounded(margin),
        sureness=max(-5.0, best.log_probability / n_best),
        free_sureness=max(-5.0, free.log_probability / n_free),
        agreement=max(-5.0, -abs(best.attention - best.ctc) / n_best),
        distance=float(Levenshtein.normalized_distance(*texts)),
        blank=max(-5.0, blank),
        empty=float(not free.tokens),
        length=math.log(n_best),
        weakest=bounded(_weakest(best) - _weakest(free), WEAK),
        doubtful=float(sum(share < IMPROBABLE for share in best.token_log_probabilities)),
        voice=bounded(voice),
    )


def bounded(value: float, far: float = FAR) -> float:
    """Return the value, at most so far from 0."""
    return max(-far, min(far, value))


def _weakest(hypothesis: Hypothesis) -> float:
    return min(hypothesis.token_log_probabilities, default=0.0)


N_EVIDENCE = len(fields(Evidence))


@dataclass(frozen=True)
class Head:
    """A logistic regression on the evidence, or on a sound: one weight a number, and a bias."""

    weights: tuple[float, ...]
    bias: float

    def log_odds(self, values: Sequence[float]) -> float:
        """Return the logarithm of p / (1 − p)."""
        return self.bias + sum(weight * value for weight, value in zip(self.weights, values, strict=True))

    def probability(self, values: Sequence[float]) -> float:
        """Return the probability, 0…1."""
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, self.log_odds(values)))))


def _weights(**given: float) -> tuple[float, ...]:
    return tuple(given.get(part.name, 0.0) for part in fields(Evidence))


@dataclass(frozen=True)
class Calibration:
    """The heads, and from which probabilities on there was speech, and an answer is accepted.

    `voice` weighs `sound_D`, the three others weigh evidence: `command` holds for what is speech, `right` for what is a
    command. The defaults are plain guesses for a model that was not calibrated yet; `fitted_on` says what a calibration
    was fitted on, `evidence` what its weights are of, in this order.
    """

    speech: Head = Head(_weights(empty=-6.0), 3.0)
    command: Head = Head(_weights(ratio_per_token=4.0, distance=-6.0), 3.0)
    right: Head = Head(_weights(margin=1.0, ratio_per_token=2.0), 0.0)
    min_speech: float = 0.5  # of what is short, and
    min_speech_longer: float = 0.5
    min_confidence: float = 0.3
    fitted_on: str = ""
    evidence: tuple[str, ...] = tuple(part.name for part in fields(Evidence))
    voice: Head = Head((), 0.0)

    def voice_in(self, sound_D: Sequence[float]) -> float:
        """Return the log odds of a voice in what was heard, 0 where nothing is known of that."""
        return self.voice.log_odds(sound_D) if self.voice.weights else 0.0

    def judge(self, evidence: Evidence) -> Judgement:
        """Return the probabilities of an answer and what becomes of it."""
        values = astuple(evidence)
        speech, command, right = (head.probability(values) for head in (self.speech, self.command, self.right))
        status: Status = "accepted"
        if speech < (self.min_speech if evidence.is_short else self.min_speech_longer):
            status = "no_speech"
        elif speech * command * right < self.min_confidence:
            status = "unsure" if speech * command >= LIKELY else "not_a_command"
        return Judgement(status, speech, command, right)


@dataclass(frozen=True)
class Judgement:
    """What becomes of an answer, and why: P(speech), P(command | speech), P(this one | command)."""

    status: Status
    speech: float
    command: float
    right: float

    @property
    def confidence(self) -> float:
        """Probability that the answer is what was said."""
        return self.speech * self.command * self.right


def share(judgement: Judgement, scores: Sequence[float]) -> list[float]:
    """Return the probability of each of several meanings with these log scores, best first.

    The best one has its confidence. The others have at most what is left of the probability of a command, less
    the further their scores are behind, and never more than the best.
    """
    rest = judgement.speech * judgement.command * (1 - judgement.right)
    odds = [math.exp(max(-50.0, min(0.0, score - scores[0]))) for score in scores[1:]]
    others = (min(judgement.confidence, rest * odd / max(1.0, sum(odds))) for odd in odds)
    return [judgement.confidence, *others]
