"""Probabilities are probabilities, more evidence moves them the right way, refusals have an order."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import pytest

from speechformer.confidence import FAR, N_EVIDENCE, Calibration, Evidence, Head, Judgement, share, weigh
from speechformer.decoding import Hypothesis


def hypothesis(log_probability: float, n_tokens: int = 3) -> Hypothesis:
    shares = (log_probability,) * (n_tokens + 1)
    return Hypothesis(tuple(range(4, 4 + n_tokens)), log_probability, shares, log_probability, log_probability - 1)


def test_the_same_sentence_inside_and_outside_has_no_ratio_and_no_distance() -> None:
    evidence = weigh(hypothesis(-1), None, hypothesis(-1), ("go", "go"), -0.5)
    assert (evidence.ratio, evidence.ratio_per_token, evidence.distance, evidence.empty) == (0, 0, 0, 0)
    assert evidence.margin == FAR  # nothing else can be meant
    assert evidence.length == pytest.approx(math.log(4))


def test_one_token_that_does_not_fit_stands_out_among_many_that_do() -> None:
    free = Hypothesis((4, 5, 6), -0.4, (-0.1,) * 4, -0.4, -0.4)
    best = Hypothesis((4, 7, 6), -5.3, (-0.1, -5.0, -0.1, -0.1), -5.3, -5.3)
    evidence = weigh(best, None, free, ("go on now", "go in now"), -0.5)
    assert evidence.weakest == pytest.approx(-4.9)
    assert evidence.doubtful == 1
    assert weigh(free, None, free, ("go in now", "go in now"), -0.5).weakest == 0


def test_evidence_is_bounded() -> None:
    evidence = weigh(hypothesis(-1e30), hypothesis(-1), hypothesis(-1, 0), ("stop", ""), -1e30, 1e30)
    assert all(abs(value) <= FAR for value in astuple(evidence))
    assert evidence.empty == 1


@pytest.mark.parametrize("value", [-1e9, -1.0, 0.0, 1.0, 1e9])
def test_a_head_gives_a_probability(value: float) -> None:
    head = Head((1.0,) * N_EVIDENCE, 0.0)
    assert 0 <= head.probability([value] * N_EVIDENCE) <= 1


def test_a_worse_fit_and_a_nearer_rival_lower_the_confidence() -> None:
    calibration = Calibration()
    sure = weigh(hypothesis(-1), hypothesis(-9), hypothesis(-1), ("go", "go"), -1)
    rivalled = weigh(hypothesis(-1), hypothesis(-1.1), hypothesis(-1), ("go", "go"), -1)
    strange = weigh(hypothesis(-9), hypothesis(-12), hypothesis(-1), ("go", "banana bread"), -1)
    judged = [calibration.judge(evidence) for evidence in (sure, rivalled, strange)]
    assert judged[0].confidence > judged[1].confidence > judged[2].confidence
    assert judged[0].status == "accepted"
    assert judged[2].status == "not_a_command"


@pytest.mark.parametrize(
    ("speech", "command", "right", "status"),
    [
        (0, 1, 1, "no_speech"),
        (0, 0, 0, "no_speech"),
        (1, 0, 0, "not_a_command"),
        (1, 1, 0, "unsure"),
        (1, 1, 1, "accepted"),
    ],
)
def test_what_is_refused_first(speech: int, command: int, right: int, status: str) -> None:
    def certain(yes: int) -> Head:
        return Head((0.0,) * N_EVIDENCE, 10.0 if yes else -10.0)

    calibration = Calibration(speech=certain(speech), command=certain(command), right=certain(right))
    assert calibration.judge(Evidence(*[0.0] * N_EVIDENCE)).status == status


@pytest.mark.parametrize(("n_tokens", "status"), [(1, "no_speech"), (2, "no_speech"), (3, "accepted")])
def test_what_is_short_must_be_speech_with_more_certainty(n_tokens: int, status: str) -> None:
    heads = {"speech": 1.0, "command": 9.0, "right": 9.0}
    certain = {part: Head((0.0,) * N_EVIDENCE, bias) for part, bias in heads.items()}
    calibration = Calibration(**certain, min_speech=0.9, min_speech_longer=0.6)
    evidence = replace(Evidence(*[0.0] * N_EVIDENCE), length=math.log(n_tokens + 1))
    assert calibration.judge(evidence).status == status


@pytest.mark.parametrize(("command", "status"), [(-2.0, "not_a_command"), (2.0, "unsure")])
def test_it_asks_back_only_about_what_is_likely_a_command(command: float, status: str) -> None:
    heads = {"speech": 9.0, "command": command, "right": -4.0}  # the answer is likely wrong, more so than no command
    calibration = Calibration(**{part: Head((0.0,) * N_EVIDENCE, bias) for part, bias in heads.items()})
    assert calibration.judge(Evidence(*[0.0] * N_EVIDENCE)).status == status


def test_a_threshold_of_one_refuses_everything() -> None:
    calibration = replace(Calibration(), min_confidence=1.1)
    assert calibration.judge(Evidence(*[0.0] * N_EVIDENCE)).status != "accepted"


@pytest.mark.parametrize("right", [0.1, 0.35, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("scores", [[-1.0, -1.0, -1.0], [-1.0, -1.1], [-1.0, -2.0, -5.0], [-1.0, -40.0]])
def test_probabilities_of_meanings_keep_their_order_and_stay_within_that_of_a_command(
    right: float, scores: list[float]
) -> None:
    judgement = Judgement("accepted", 0.9, 0.8, right)
    shares = share(judgement, scores)
    assert shares[0] == pytest.approx(judgement.confidence)
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 0.9 * 0.8 + 1e-9


def test_a_rival_far_behind_has_next_to_no_probability() -> None:
    judgement = Judgement("accepted", 0.9, 0.8, 0.6)
    assert share(judgement, [-1.0, -21.0])[1] < 1e-6
    assert share(judgement, [-1.0]) == [pytest.approx(judgement.confidence)]
