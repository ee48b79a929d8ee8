"""Any words can be written and read back; digits are read as people say them."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechformer.errors import CheckpointError, ConfigError
from speechformer.tokenizer import ALPHABET, BOS, EOS, PAD, UNK, Tokenizer, normalise

TRAINED = Tokenizer.train(["turn on the light in the kitchen", "don't stop", "set a timer for ten minutes"], 60)


@given(st.text(alphabet=ALPHABET + " "))
def test_decoding_undoes_encoding(text: str) -> None:
    ids = TRAINED.encode(text)
    assert TRAINED.decode(ids) == normalise(text)
    assert UNK not in ids


@given(st.text(alphabet=ALPHABET + "▁é", min_size=1))
def test_a_piece_is_split_into_the_longest_pieces_there_are(piece: str) -> None:
    pieces = TRAINED.pieces(TRAINED.split(piece))
    assert "".join(pieces) == piece.replace("é", "<unk>")
    for i in range(len(pieces) - 1):
        assert TRAINED.split("".join(pieces[i:])) == TRAINED.split(piece)[i:]
        assert TRAINED.processor.PieceToId(pieces[i] + pieces[i + 1][0]) == UNK


def test_every_piece_is_its_own() -> None:
    assert [TRAINED.split(piece) for piece in TRAINED.pieces(range(len(TRAINED)))] == [[i] for i in range(len(TRAINED))]


WIDER = TRAINED.with_words(["with", "seven", "q", "the", "on"])


@pytest.mark.parametrize("word", ["with", "seven", "q", "on"])
def test_a_word_of_its_own_is_one_piece(word: str) -> None:
    assert WIDER.pieces(WIDER.encode(f"go {word} {word}"))[-2:] == ["▁" + word] * 2


def test_what_was_a_piece_keeps_its_id() -> None:
    old = TRAINED.pieces(range(len(TRAINED)))
    assert WIDER.pieces(range(len(TRAINED))) == old
    assert len(WIDER) == len(TRAINED) + len({"▁with", "▁seven", "▁q", "▁the", "▁on"} - set(old))
    assert len(WIDER.with_words(["with", "On"])) == len(WIDER)


@given(
    st.text(alphabet=ALPHABET + " ")
    | st.lists(st.sampled_from(["with", "without", "sevenths", "on", "q"])).map(" ".join)
)
def test_words_of_their_own_can_be_read_back_in_any_text(text: str) -> None:
    ids = WIDER.encode(text)
    assert WIDER.decode(ids) == normalise(text)
    assert UNK not in ids


@given(st.text())
def test_decoding_undoes_encoding_of_anything_that_can_be_typed(text: str) -> None:
    assert TRAINED.decode(TRAINED.encode(text)) == normalise(text)


@given(st.text() | st.text(alphabet="0123456789.,:%$stndrh' "))
def test_normalised_text_is_plain_and_stays_as_it_is(text: str) -> None:
    plain = normalise(text)
    assert set(plain) <= set(ALPHABET + " ")
    assert plain == " ".join(plain.split())
    assert normalise(plain) == plain


@given(st.lists(st.text(string.ascii_lowercase, min_size=1), min_size=1).map(" ".join))
def test_plain_words_are_what_they_would_be_by_the_long_way(text: str) -> None:
    assert normalise(text) == text == normalise(f" {text}\n")  # what is around the words takes the long way


@pytest.mark.parametrize("letter", ALPHABET)
def test_every_letter_can_be_spelt_though_the_text_had_it_not(letter: str) -> None:
    tiny = Tokenizer.train(["go"], 40)
    assert UNK not in tiny.encode(f"o{letter}o")
    assert tiny.decode(tiny.encode(f"o{letter}o")) == f"o{letter}o"


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("7:30", "seven thirty"),
        ("7:05", "seven oh five"),
        ("7:00", "seven o'clock"),
        ("7:30pm", "seven thirty pm"),
        ("21st", "twenty first"),
        ("the 3rd of May", "the third of may"),
        ("1,000th", "one thousandth"),
        ("1.5", "one point five"),
        ("0.25", "zero point two five"),
        ("1,000", "one thousand"),
        ("1,234", "one thousand two hundred thirty four"),
        ("101", "one hundred one"),
        ("007", "zero zero seven"),
        ("0", "zero"),
        ("$5", "five dollars"),
        ("£1,000", "one thousand pounds"),
        ("50%", "fifty percent"),
        ("20°", "twenty degrees"),
        ("12345678", "one two three four five six seven eight"),
        ("2+2=4", "two plus two equals four"),
        ("5km", "five km"),
        ("mp3", "mp three"),
        ("rock & roll", "rock and roll"),
    ],
)
def test_numbers_and_symbols_are_spelt(written: str, spoken: str) -> None:
    assert normalise(written) == spoken


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("Don't STOP!", "don't stop"),
        ("the boys’ room", "the boys' room"),
        ("'quoted'", "quoted"),
        ("café, naïve", "cafe naive"),
        ("a—b/c_d", "a b c d"),
        ("' '' '", ""),
        (" \t\n", ""),
    ],
)
def test_apostrophes_stay_and_other_signs_go(written: str, plain: str) -> None:
    assert normalise(written) == plain


def test_the_first_four_ids_have_their_meaning() -> None:
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert TRAINED.pieces([PAD, BOS, EOS, UNK]) == ["<pad>", "<s>", "</s>", "<unk>"]
    assert min(TRAINED.encode(string.ascii_lowercase)) > UNK


def test_padding_begin_and_end_are_not_read_out() -> None:
    ids = TRAINED.encode("turn on the light")
    assert TRAINED.decode([BOS, *ids, EOS, PAD, PAD]) == "turn on the light"
    assert TRAINED.decode([]) == ""


def test_pieces_spell_the_words() -> None:
    ids = TRAINED.encode("turn on the light")
    assert "".join(TRAINED.pieces(ids)).replace("▁", " ").strip() == "turn on the light"


def test_little_text_gives_a_smaller_vocabulary_and_much_the_size_asked_for() -> None:
    assert 4 + len(ALPHABET) <= len(Tokenizer.train(["go", "stop"], 1000)) < 100
    words = [a + b + c for a in string.ascii_lowercase for b in "aeiou" for c in string.ascii_lowercase]
    assert len(Tokenizer.train(words, 200)) == 200


def test_common_words_take_fewer_tokens_than_letters() -> None:
    assert len(Tokenizer.train(["light"] * 9, 60).encode("light")) < 5


def test_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="no text"):
        Tokenizer.train(["...", ""], 100)


def test_what_is_saved_is_loaded_and_what_is_damaged_is_named(tmp_path: Path) -> None:
    TRAINED.save(tmp_path / "tokenizer.model")
    assert Tokenizer.load(tmp_path / "tokenizer.model").encode("set") == TRAINED.encode("set")
    (tmp_path / "bad.model").write_bytes(b"\xff\x00garbage")
    for name in ("bad.model", "missing.model"):
        with pytest.raises(CheckpointError, match=name):
            Tokenizer.load(tmp_path / name)
