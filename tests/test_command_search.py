"""The search inside a command set and the one beside it: who looks, who weighs, and what is spared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from speechformer import beam_search
from speechformer.automaton import TokenAutomaton
from speechformer.command_search import COMMAND_BEAM, DICTATION_BEAM, CommandSearch
from speechformer.confidence import FAR, N_EVIDENCE, Calibration, Head
from speechformer.decoding import DecodingConfig, Floats, Hypothesis, Memory
from speechformer.features import FeatureConfig
from speechformer.grammar import Grammar
from speechformer.model import SpeechTransformer
from speechformer.model_folder import Settings
from speechformer.shape import ModelConfig
from speechformer.tokenizer import Tokenizer
from speechformer.torch_recogniser import TorchRecogniser

WILDCARD = """
intents:
  Remind:
    - "remind me to {what}"
lists:
  what: {wildcard: true}
"""


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> SpeechTransformer:
    import torch

    torch.manual_seed(5)
    config = ModelConfig(vocab_size=len(tokenizer), d_model=32, d_ff=64, n_heads=2, n_encoder_layers=1)
    return SpeechTransformer(config).eval().requires_grad_(False)


def search_of(
    model: SpeechTransformer, tokenizer: Tokenizer, commands: str, is_yaml: bool = False, beam: int = 1
) -> CommandSearch:
    settings = Settings(model.config, FeatureConfig(), tokenizer)
    automaton = TokenAutomaton(Grammar.parse(commands, is_yaml=is_yaml), tokenizer)
    return CommandSearch(TorchRecogniser(model), settings, automaton, DecodingConfig(beam=beam, ctc_weight=0.5))


@pytest.fixture
def memory(model: SpeechTransformer) -> Memory:
    features_BTC = np.random.default_rng(1).standard_normal((2, 120, 40), dtype=np.float32)
    return TorchRecogniser(model).listen(features_BTC, np.array([120, 90]))


def said(memory: Memory, texts: list[list[int]]) -> Memory:
    """Return the same sounds with a CTC head that is sure of other texts."""
    log_probs_BMV: Floats = np.full_like(memory.ctc_log_probs_BMV, -12.0)
    log_probs_BMV[..., 0] = 0.0
    for log_probs_MV, text in zip(log_probs_BMV, texts, strict=True):
        for number, token in enumerate(text):
            log_probs_MV[2 * number, [0, token]] = -12.0, 0.0
    return Memory(log_probs_BMV, memory.lengths_B, memory.cache)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DecodingConfig, int]]:
    """Remember how, and in how many utterances, is searched."""
    made: list[tuple[DecodingConfig, int]] = []

    def search(recogniser: Any, memory: Memory, config: DecodingConfig, *rest: Any, **others: Any) -> Any:
        made.append((config, len(memory.lengths_B)))
        return beam_search.search(recogniser, memory, config, *rest, **others)

    monkeypatch.setattr("speechformer.command_search.search", search)
    return made


@pytest.mark.parametrize(
    ("commands", "weight", "least"), [("go\nstop", 1.0, COMMAND_BEAM), (WILDCARD, 0.5, DICTATION_BEAM)]
)
@pytest.mark.parametrize("beam", [1, 200])
def test_the_decoder_helps_to_look_only_where_words_are_dictated(
    model: SpeechTransformer, tokenizer: Tokenizer, memory: Memory, searched: list[tuple[DecodingConfig, int]],
    commands: str, weight: float, least: int, beam: int,
) -> None:  # fmt: skip
    chosen = search_of(model, tokenizer, commands, commands is WILDCARD, beam)
    found = chosen.inside(memory)
    ((config, _),) = searched
    assert (config.ctc_weight, config.beam) == (weight, max(least, beam))
    for some in found:
        assert [one.score for one in some] == sorted((one.score for one in some), reverse=True)
        assert all(one.attention < 0 and one.ctc < 0 and one.earned > 0 for one in some), "both heads weigh each"
        assert all(chosen.automaton.accepts(list(one.tokens)) for one in some)
    assert any(found)


def test_what_the_ctc_head_writes_is_not_searched_for_again(
    model: SpeechTransformer, tokenizer: Tokenizer, memory: Memory, searched: list[tuple[DecodingConfig, int]]
) -> None:
    chosen = search_of(model, tokenizer, "go\nstop")
    go, left = tokenizer.encode("go"), tokenizer.encode("left")
    heard = said(memory, [go, left])
    inside = chosen.inside(heard)
    assert list(inside[0][0].tokens) == go
    searched.clear()
    free = chosen.beside(heard, inside)
    assert [n for _, n in searched] == [1], "only what is no command"
    assert free[0] == inside[0][0]
    assert free[1].tokens == beam_search.search(chosen.recogniser, heard, chosen.decoding)[1][0].tokens
    searched.clear()
    assert chosen.beside(said(memory, [go, go]), [inside[0], inside[0]]) == [inside[0][0]] * 2
    assert searched == []


def test_two_answers_are_close_only_if_either_may_have_been_said(
    model: SpeechTransformer, tokenizer: Tokenizer
) -> None:
    chosen = search_of(model, tokenizer, "go\nstop")
    go, stop = (Hypothesis(tuple(tokenizer.encode(word)), score, ()) for word, score in (("go", -5.0), ("stop", -6.0)))
    close, far = chosen.meanings([go, stop]), chosen.meanings([go, stop._replace(log_probability=-9.0)])
    assert chosen.is_close(close, go)
    assert not chosen.is_close(far, go)
    assert not chosen.is_close(close[:1], go)
    assert not chosen.is_close(close, go._replace(log_probability=-5.0 + FAR))


def test_a_word_that_no_voice_said_is_no_speech(model: SpeechTransformer, tokenizer: Tokenizer, memory: Memory) -> None:
    by_voice = Head((0.0,) * (N_EVIDENCE - 1) + (1.0,), 0.0)
    sure = Head((0.0,) * N_EVIDENCE, 20.0)
    calibration = Calibration(by_voice, sure, sure, voice=Head((2.0, *[0.0] * (model.config.d_model - 1)), -1.0))
    chosen = search_of(model, tokenizer, "go\nstop")
    chosen = replace(chosen, settings=replace(chosen.settings, calibration=calibration))
    go = Hypothesis(tuple(tokenizer.encode("go")), -1.0, (-0.5, -0.5))
    sound_D = memory.sounds()[0]
    for first, status in ((3.0, "accepted"), (-3.0, "no_speech")):
        sound_D[0] = first
        command = chosen.command(chosen.meanings([go]), go, -1.0, sound_D)
        assert command.status == status
        assert command.numbers["voice"] == pytest.approx(2 * first - 1)
