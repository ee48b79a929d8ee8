"""Words that there are: letters that are none cost something, once a word, wherever the tokens part it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from speechformer.beam_search import search
from speechformer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from speechformer.decoding import DecodingConfig, Hypothesis
from speechformer.errors import CheckpointError, ConfigError
from speechformer.features import FeatureConfig
from speechformer.lexicon import Lexicon, TokenLexicon
from speechformer.model import SpeechTransformer
from speechformer.tokenizer import EOS, Tokenizer
from speechformer.torch_recogniser import TorchRecogniser
from tests.conftest import import_recipe

MakeModel = Callable[..., SpeechTransformer]


@pytest.fixture
def spelling(tokenizer: Tokenizer) -> TokenLexicon:
    return TokenLexicon(Lexicon(["go", "got", "left", "it's"]), tokenizer)


def spelt(tokenizer: Tokenizer, letters: str) -> list[int]:
    """Return the ids of single letters, as far as there are some, the first of which begins a word."""
    known = {piece: i for i, piece in enumerate(tokenizer.pieces(range(len(tokenizer))))}
    return [known["▁"], *(known[letter] for letter in letters)]


def test_a_lexicon_knows_its_words_and_how_they_begin() -> None:
    lexicon = Lexicon(["stop", "go", "got", "go"])
    assert lexicon.words == ["go", "got", "stop"]
    assert "go" in lexicon and "st" not in lexicon and "zoo" not in lexicon  # noqa: PT018
    assert [lexicon.has_beginning(letters) for letters in ("", "st", "stop", "stops", "a", "zoo")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_after_each_beginning_the_tokens_that_leave_all_words_are_unknown(
    tokenizer: Tokenizer, spelling: TokenLexicon
) -> None:
    pieces = tokenizer.pieces(range(len(tokenizer)))
    for written in ("g", "go", "got", "lef", "it'"):
        unknown_V = spelling.unknown(spelt(tokenizer, written))
        assert unknown_V is not None
        for i, piece in enumerate(pieces):
            if piece.startswith("▁") or i == EOS:
                assert unknown_V[i] == (written not in spelling.lexicon.words), (written, piece)
            else:
                goes_on = any(word.startswith(written + piece) for word in spelling.lexicon.words)
                assert unknown_V[i] == (not goes_on), (written, piece)


def test_a_word_counts_once_and_the_next_one_anew(tokenizer: Tokenizer, spelling: TokenLexicon) -> None:
    assert spelling.unknown([]) is None
    assert spelling.unknown(spelt(tokenizer, "")) is None
    assert spelling.unknown(spelt(tokenizer, "gof")) is None, "left off at the f, which has been paid for"
    after = spelling.unknown([*spelt(tokenizer, "gof"), *spelt(tokenizer, "g")])
    alone = spelling.unknown(spelt(tokenizer, "g"))
    assert after is not None
    assert alone is not None
    np.testing.assert_array_equal(after, alone)


class Forbidding:
    """A spelling to which a word that is spelt with a token is unknown, whatever was before it."""

    def __init__(self, token: int, n_tokens: int = 6) -> None:
        self.unknown_V = np.arange(n_tokens) == token

    def unknown(self, tokens: tuple[int, ...]) -> np.ndarray:
        return self.unknown_V


def find(model: SpeechTransformer, config: DecodingConfig, spelling: Forbidding | None) -> list[Hypothesis]:
    recogniser = TorchRecogniser(model)
    features = np.random.default_rng(3).standard_normal((1, 12, 3)).astype(np.float32)
    memory = recogniser.listen(features, np.array([12]))
    return search(recogniser, memory, config, spelling=spelling)[0]


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_what_is_unknown_costs_what_was_set_for_each_time(make_model: MakeModel, weight: float) -> None:
    model = make_model(1)
    config = DecodingConfig(beam=400, n_best=400, ctc_weight=weight)
    free = {one.tokens: one.log_probability for one in find(model, config, None)}
    costly = find(model, DecodingConfig(beam=400, n_best=400, ctc_weight=weight, unknown_word=1.5), Forbidding(4))
    assert len(costly) > 50
    for one in costly:
        cost = (1 - weight) * 1.5 * one.tokens.count(4)
        assert one.log_probability == pytest.approx(free[one.tokens] - cost, abs=1e-4)
    assert {one.tokens.count(4) for one in costly} > {0, 1, 2}
    assert find(model, config, Forbidding(4)) == find(model, config, None), "no cost, no lexicon"


def test_a_cost_is_not_a_reward() -> None:
    with pytest.raises(ConfigError, match="unknown_word is 0 or more"):
        DecodingConfig(unknown_word=-1)


def test_a_model_folder_keeps_its_words(make_model: MakeModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = make_model(vocab_size=len(tokenizer), n_features=FeatureConfig().n_mfcc)
    checkpoint = Checkpoint(model, FeatureConfig(), tokenizer, lexicon=Lexicon(["stop", "don't"]))
    save_checkpoint(tmp_path, checkpoint)
    assert load_checkpoint(tmp_path).settings.lexicon.words == ["don't", "stop"]
    save_checkpoint(tmp_path, Checkpoint(model, FeatureConfig(), tokenizer))
    assert not (tmp_path / "lexicon.txt").exists()
    assert not len(load_checkpoint(tmp_path).lexicon)


@pytest.mark.parametrize(("content", "said"), [(b"go\nStop!\n", 'never writes "Stop!"'), (b"\xff\xfe", "no list of")])
def test_what_is_no_list_of_words_is_said_to_be_none(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "lexicon.txt").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        Lexicon.load(tmp_path / "lexicon.txt")


def test_words_that_texts_say_twice_become_a_models_lexicon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, text = import_recipe("lexicon"), tmp_path / "text.txt"
    text.write_text("Don't stop!\nstop at 10\ngo\nten don't\n")
    monkeypatch.setattr(sys, "argv", ["lexicon.py", str(tmp_path), str(text)])
    assert recipe.main() == 0
    words = (tmp_path / "lexicon.txt").read_text().split()
    assert sorted({*words} - {*recipe.drawn_words()}) == ["don't", "stop", "ten"]
    assert {"divided", "kilobytes", "pasta"} <= {*words}
    monkeypatch.setattr(sys, "argv", ["lexicon.py", str(tmp_path), str(text), "--least", "9"])
    assert recipe.main() == 1
    assert "says no word 9 times" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["lexicon.py", str(tmp_path), str(tmp_path / "none.txt")])
    assert recipe.main() == 1
    assert "none.txt: cannot be read" in capsys.readouterr().err
