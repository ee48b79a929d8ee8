"""Inside a grammar nothing else is written, and what is written has the score that it has outside."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from speechformer.automaton import TokenAutomaton
from speechformer.decoding import DecodingConfig, Hypothesis
from speechformer.grammar import Grammar
from speechformer.model import SpeechTransformer
from speechformer.network import ANY_WORD
from speechformer.tokenizer import EOS, UNK, Tokenizer
from tests.conftest import WORDS
from tests.test_decoding import MakeModel, as_pairs, decode, draw_features, same_pairs, sharp_model

pytestmark = pytest.mark.usefixtures("shapes")
weights = pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
GRAMMARS = {
    "one sentence": 'intents: {Go: ["go left now"]}',
    "one word, and more": 'intents: {Go: ["go", "go left", "gone", "go left now", "going"]}',
    "optionals": """
intents: {Go: ["[please] (go;left[wards];[now|at once])", "light[s| up] [it]", "wi-fi", "it's 7:30"]}
""",
    "lists": """
intents:
  Light: ["turn {switch} [the] {area}'s light[s]", "set {area} to {0..120,20:level} percent", "<again>"]
lists: {switch: {values: [on, off]}, area: {values: ["(living|dining) room", kitchen, "kit"]}}
expansion_rules: {again: "[<once>] again", once: "(once|twice) [more]"}
""",
    "wildcards": """
intents: {Play: ["play {title} [(by|from) {title:artist}] in [the] {area}", "play music", "call {title}"]}
lists: {title: {wildcard: true}, area: {values: [kitchen, hall]}}
""",
}
each_grammar = pytest.mark.parametrize("text", GRAMMARS.values(), ids=GRAMMARS)
WALKS = 40
HEARD = ["xylophone", "boys' o'clock tunes", "in the by"]


def sentences_of(text: str, heard: str = "xylophone") -> list[str]:
    sentences = (sentence.replace(ANY_WORD, heard) for sentence in Grammar.parse(text).sentences())
    return list(dict.fromkeys(sentences))


def phrases(sentences: Iterable[str]) -> Grammar:
    return Grammar.parse(f"intents: {{Say: {json.dumps([*sentences])}}}")


def tokenizer_of(text: str, vocab_size: int = 60) -> Tokenizer:
    return Tokenizer.train(sentences_of(text), vocab_size)


def choices(automaton: TokenAutomaton, state: int) -> list[int]:
    return np.flatnonzero(automaton.allowed(state)).tolist()


def way_out(automaton: TokenAutomaton, state: int) -> list[int]:
    """Return the fewest tokens that lead to a place where the sentence may end."""
    ways: dict[int, list[int]] = {state: []}
    for place in (todo := [state]):
        if EOS in choices(automaton, place):
            return ways[place]
        for token in choices(automaton, place):
            target = automaton.next(place, token)
            if target not in ways:
                ways[target] = [*ways[place], token]
                todo.append(target)
    raise AssertionError("no end can be reached")


def walk(automaton: TokenAutomaton, seed: int) -> list[int]:
    """Return tokens that were drawn one after the other, up to a place where the sentence may end."""
    draw, tokens, state = random.Random(seed), [], 0
    while len(tokens) < 12:
        token = draw.choice(choices(automaton, state))
        if token == EOS:
            return tokens
        assert token > UNK
        tokens.append(token)
        state = automaton.next(state, token)
    return tokens + way_out(automaton, state)


@each_grammar
@pytest.mark.parametrize("heard", HEARD)
def test_every_sentence_is_accepted(text: str, heard: str) -> None:
    tokenizer = tokenizer_of(text)
    automaton = TokenAutomaton(Grammar.parse(text), tokenizer)
    for sentence in sentences_of(text, heard)[::3]:
        assert automaton.accepts(tokenizer.encode(sentence))


@each_grammar
@pytest.mark.parametrize("vocab_size", [1, 60, 300])
def test_every_walk_ends_in_a_sentence(text: str, vocab_size: int) -> None:
    grammar, tokenizer = Grammar.parse(text), tokenizer_of(text, 32 + vocab_size)
    automaton = TokenAutomaton(grammar, tokenizer)
    for seed in range(WALKS):
        tokens = walk(automaton, seed)
        assert automaton.accepts(tokens)
        assert grammar.interpret(tokenizer.decode(tokens)) is not None
        if not grammar.has_wildcards:
            assert tokens == tokenizer.encode(tokenizer.decode(tokens)), "a sentence is spelt in one way"


@each_grammar
def test_what_is_not_a_sentence_is_not_accepted(text: str) -> None:
    grammar, tokenizer = Grammar.parse(text), tokenizer_of(text)
    automaton = TokenAutomaton(grammar, tokenizer)
    draw, sentences = random.Random(0), sentences_of(text)
    words = sorted({word for sentence in sentences for word in sentence.split()})
    others = ["", "qq", *(" ".join(draw.choices(words, k=draw.randint(1, 6))) for _ in range(300))]
    others += [sentence[:-1] for sentence in sentences[:100]] + [f"{sentence} qq" for sentence in sentences[:100]]
    for other in others:
        assert automaton.accepts(tokenizer.encode(other)) == (grammar.interpret(other) is not None)
    assert not any(automaton.accepts([token]) for token in range(UNK + 1))


def test_a_sentence_that_is_taken_out_is_out() -> None:
    sentences = sentences_of(GRAMMARS["optionals"])
    tokenizer = Tokenizer.train(sentences, 60)
    for gone in sentences[::9]:
        automaton = TokenAutomaton(phrases(one for one in sentences if one != gone), tokenizer)
        assert [one for one in sentences if not automaton.accepts(tokenizer.encode(one))] == [gone]


@pytest.mark.parametrize("word", ["▁", "▁'", "'"])
def test_a_wildcard_is_a_word_with_letters(word: str) -> None:
    tokenizer = Tokenizer.train(["play 'music'"], 60)
    automaton = TokenAutomaton(Grammar.parse(GRAMMARS["wildcards"]), tokenizer)
    begin = tokenizer.encode("call")
    pieces = tokenizer.pieces(range(len(tokenizer)))
    ids = [pieces.index(piece) for piece in ([word] if word in pieces else ["▁", "'"]) if piece in pieces]
    assert not automaton.accepts([*begin, *ids])
    assert automaton.accepts([*begin, pieces.index("▁"), pieces.index("a")])


def test_a_grammar_of_very_many_sentences_costs_only_what_is_walked() -> None:
    digits, n_places = "zero oh one two three four five six seven eight nine".split(), 8
    rules = "\n".join(f'  to_{n}: "<digit> [<to_{n - 1}>]"' for n in range(2, n_places + 1))
    more = f"expansion_rules:\n  digit: ({'|'.join(digits)})\n  to_1: <digit>\n{rules}\n"
    grammar = Grammar.parse(f"intents: {{Dial: [<to_{n_places}>]}}\n{more}")
    tokenizer = Tokenizer.train(digits, 60)
    automaton = TokenAutomaton(grammar, tokenizer)
    assert grammar.n_sentences == sum(len(digits) ** n for n in range(1, n_places + 1)) > 10**7
    assert len(automaton.nodes) == 1
    for seed in range(WALKS):
        assert grammar.interpret(tokenizer.decode(walk(automaton, seed))) is not None
    assert len(automaton.nodes) <= 1 + n_places * sum(len(tokenizer.encode(digit)) for digit in digits)


COMMANDS = 'intents: {Go: ["go [left|right]", "stop", "left stop", "(go;right)", "stop stop", "go left stop"]}'


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """Return a tokenizer to which each of the four words is one token."""
    tokenizer = Tokenizer.train(WORDS, 100)
    assert all(len(tokenizer.encode(word)) == 1 for word in WORDS)
    return tokenizer


def model_of(make_model: MakeModel, tokenizer: Tokenizer, seed: int = 0) -> SpeechTransformer:
    return sharp_model(partial(make_model, vocab_size=len(tokenizer)), seed)


def hear(
    model: SpeechTransformer, frames: int, automaton: TokenAutomaton | None, beam: int, weight: float, seed: int = 0
) -> list[Hypothesis]:
    """Return all that a beam of this width finds in some noise."""
    config = DecodingConfig(beam=beam, n_best=beam, ctc_weight=weight)
    return decode(model, draw_features(frames, seed), torch.tensor([frames]), config, automaton)[0]


@weights
@pytest.mark.parametrize("seed", range(3))
def test_the_constrained_search_is_the_free_one_without_what_is_not_allowed(
    make_model: MakeModel, words: Tokenizer, weight: float, seed: int
) -> None:
    model, automaton = model_of(make_model, words, seed), TokenAutomaton(Grammar.parse(COMMANDS), words)
    free = hear(model, 3, None, 5000, weight, seed)
    inside = [one for one in free if automaton.accepts(list(one.tokens))]
    assert len(free) > 1000 > len(inside) > 4
    same_pairs(as_pairs(hear(model, 3, automaton, 100, weight, seed)), as_pairs(inside))
    greedy = hear(model, 3, automaton, 1, weight, seed)
    scores = dict(as_pairs(free))
    assert all(one.log_probability == pytest.approx(scores[one.tokens], abs=1e-4) for one in greedy)
    assert inside[0].log_probability <= free[0].log_probability


@weights
def test_all_parts_of_a_hypothesis_are_those_of_the_free_search(
    make_model: MakeModel, words: Tokenizer, weight: float
) -> None:
    model, automaton = model_of(make_model, words), TokenAutomaton(Grammar.parse(COMMANDS), words)
    free = {one.tokens: one for one in hear(model, 3, None, 5000, weight)}
    for one in hear(model, 3, automaton, 100, weight):
        other = free[one.tokens]
        assert one.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-4)
        assert (one.attention, one.ctc) == pytest.approx((other.attention, other.ctc), abs=1e-4)
        assert one.log_probability == pytest.approx((1 - weight) * one.attention + weight * one.ctc)
        assert (one.ctc == 0) == (weight == 0)


@weights
@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("frames", [0, 1, 4, 6, 9])
def test_a_grammar_of_one_sentence_gives_it_or_nothing(
    make_model: MakeModel, words: Tokenizer, weight: float, beam: int, frames: int
) -> None:
    tokens = words.encode("go left left")
    automaton = TokenAutomaton(phrases(["go left left"]), words)
    model = model_of(make_model, words)
    found = hear(model, frames, automaton, beam, weight)
    _, mask_BM = model.encode(draw_features(frames), torch.tensor([frames]))
    n_needed = len(tokens) + (weight > 0)  # to the CTC head, a word after itself needs a blank between
    assert [one.tokens for one in found] == [tuple(tokens)] * (int(mask_BM.sum()) >= n_needed)


@weights
@each_grammar
def test_all_that_is_found_is_accepted(make_model: MakeModel, weight: float, text: str) -> None:
    grammar, tokenizer = Grammar.parse(text), tokenizer_of(text, 100)
    automaton = TokenAutomaton(grammar, tokenizer)
    found = hear(model_of(make_model, tokenizer), 40, automaton, 8, weight)
    # A narrow beam can be full of wildcards that go on to the end of the sound.
    assert found or grammar.has_wildcards
    assert len({one.tokens for one in found}) == len(found)
    for one in found:
        assert automaton.accepts(list(one.tokens))
        assert grammar.interpret(tokenizer.decode(one.tokens)) is not None


@weights
def test_without_the_best_sentence_the_second_is_the_best(
    make_model: MakeModel, words: Tokenizer, weight: float
) -> None:
    model, left = model_of(make_model, words), sentences_of(COMMANDS)
    found = hear(model, 8, TokenAutomaton(phrases(left), words), 100, weight)
    for i, best in enumerate(found[:-1]):
        left.remove(words.decode(best.tokens))
        automaton = TokenAutomaton(phrases(left), words)
        same_pairs(as_pairs(hear(model, 8, automaton, 100, weight)), as_pairs(found[i + 1 :]))


@weights
@pytest.mark.parametrize("beam", [1, 4])
def test_a_batch_inside_a_grammar_is_decoded_as_its_utterances_alone(
    make_model: MakeModel, words: Tokenizer, weight: float, beam: int
) -> None:
    model, automaton = model_of(make_model, words), TokenAutomaton(Grammar.parse(COMMANDS), words)
    config, frames = DecodingConfig(beam=beam, n_best=beam, ctc_weight=weight), (5, 16, 0, 9, 1)
    features_BTC = torch.cat([functional.pad(draw_features(n, i), (0, 0, 0, 16 - n)) for i, n in enumerate(frames)])
    together = decode(model, features_BTC, torch.tensor(frames), config, automaton)
    for i, n in enumerate(frames):
        same_pairs(as_pairs(together[i]), as_pairs(hear(model, n, automaton, beam, weight, seed=i)))
    assert together[2] == []
    assert together[1]


class Anything:
    """A constraint that allows all tokens."""

    def allowed(self, state: int) -> npt.NDArray[np.bool_]:
        return np.ones(6, np.bool_)

    def next(self, state: int, token: int) -> int:
        return state + 1


@weights
def test_no_constraint_is_one_that_allows_everything(make_model: MakeModel, weight: float) -> None:
    model, batch = sharp_model(make_model), (draw_features(9), torch.tensor([9]))
    config = DecodingConfig(beam=5, n_best=5, ctc_weight=weight)
    free = decode(model, *batch, config)
    assert decode(model, *batch, config, None) == free
    assert decode(model, *batch, config, Anything()) == free
    nothing = torch.zeros(1, 0, 3), torch.tensor([0])
    assert decode(model, *nothing, config, None) == [[Hypothesis((), 0.0, ())]]
    assert decode(model, *nothing, config, Anything()) == [[]]
