"""A batch is a function of the seed, the epoch and its number; a wrong manifest line is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from speechformer.audio import load_audio
from speechformer.augment import AugmentConfig
from speechformer.data import (
    Batch,
    DataConfig,
    TrainingSet,
    WaveformStore,
    make_batch,
    read_folder,
    read_manifest,
    write_manifest,
)
from speechformer.errors import AudioError, ManifestError
from speechformer.features import HOP, FeatureConfig
from speechformer.tokenizer import BOS, EOS, PAD, Tokenizer
from tests.conftest import WORDS

MakeSet = Callable[..., TrainingSet]


@pytest.fixture
def make_set(corpus: Path, tokenizer: Tokenizer) -> MakeSet:
    """Build a training set of the four words, each `times` times an epoch."""

    def make(seed: int = 1, times: float = 10, augment: AugmentConfig | None = None, **changes: Any) -> TrainingSet:
        weights = {"tones": times}
        config = DataConfig(train=corpus / "train", dev=corpus / "dev", weights=weights, batch_s=6, n_workers=0)
        config = replace(config, **changes)
        return TrainingSet(config, augment or AugmentConfig(), FeatureConfig(), tokenizer, seed)

    return make


def same(one: Batch, other: Batch) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def test_rows_are_read_back_with_paths_from_the_manifest_s_folder(tmp_path: Path) -> None:
    rows = [{"audio_filepath": "a/ü.wav", "text": "go", "speaker": "me"}, {"audio_filepath": "/b.wav"}]
    write_manifest(tmp_path / "part" / "speech.jsonl", rows)
    assert read_manifest(tmp_path / "part" / "speech.jsonl") == [
        {"audio_filepath": str(tmp_path / "part" / "a/ü.wav"), "text": "go", "speaker": "me"},
        {"audio_filepath": "/b.wav"},
    ]


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"text": "go"}', '{"audio_filepath": 3}'])
def test_a_wrong_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "speech.jsonl").write_text(f'{{"audio_filepath": "a.wav"}}\n\n{line}\n')
    with pytest.raises(ManifestError, match=r"speech\.jsonl:3: .*; write one"):
        read_manifest(tmp_path / "speech.jsonl")


def test_a_manifest_that_is_no_text_or_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "speech.jsonl").write_bytes(b"\xff\xfe\x00")
    for name in ("speech.jsonl", "missing.jsonl"):
        with pytest.raises(ManifestError, match=f"{name}.*check the path"):
            read_manifest(tmp_path / name)
    with pytest.raises(ManifestError, match="holds no manifests"):
        read_folder(tmp_path / "nothing")


@pytest.mark.parametrize("field", ["text", "duration"])
def test_training_needs_text_and_duration_and_says_where_they_lack(
    make_set: MakeSet, corpus: Path, tmp_path: Path, field: str
) -> None:
    rows = [{**row, "corpus": "x"} for row in read_manifest(corpus / "train" / "tones.jsonl")]
    del rows[2][field]
    write_manifest(tmp_path / "tones.jsonl", rows)
    with pytest.raises(ManifestError, match=rf'left\.wav.*"{field}"'):
        make_set(train=tmp_path)


def test_speech_and_sounds_of_a_folder_are_told_apart(corpus: Path) -> None:
    assert list(read_folder(corpus / "train")) == ["tones"]
    assert list(read_folder(corpus / "train", sounds=True)) == ["noise"]


def test_the_store_gives_what_load_audio_gives(corpus: Path, tmp_path: Path) -> None:
    rows = read_manifest(corpus / "train" / "tones.jsonl")
    store = WaveformStore(rows, tmp_path)
    assert len(store) == len(rows)
    for i, row in enumerate(rows):
        expected_N = load_audio(row["audio_filepath"])
        np.testing.assert_allclose(store[i], expected_N, rtol=0, atol=2.5 / 32768)
        assert store.seconds(i) == pytest.approx(len(expected_N) / 16_000)
        assert np.array_equal(store.views()[i] / np.float32(32768), store[i])
    with pytest.raises(IndexError):
        store[len(rows)]


def test_the_store_is_made_once(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_manifest(corpus / "train" / "tones.jsonl")
    first = WaveformStore(rows, tmp_path)
    monkeypatch.setattr("speechformer.data.load_audio", lambda path: pytest.fail(f"{path} was read again"))
    assert np.array_equal(WaveformStore(rows, tmp_path)[1], first[1])


def test_a_store_that_was_cut_off_is_made_anew(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = read_manifest(corpus / "train" / "tones.jsonl")
    with pytest.raises(AudioError):
        WaveformStore([*rows[:2], {"audio_filepath": "missing.wav"}], tmp_path)
    monkeypatch.setattr("speechformer.data.np.save", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        WaveformStore(rows, tmp_path)
    monkeypatch.undo()
    assert len(WaveformStore(rows, tmp_path)[3]) == 9600


def test_no_rows_are_an_empty_store(tmp_path: Path) -> None:
    assert list(WaveformStore([], tmp_path)) == []


def test_a_plan_is_a_function_of_seed_and_epoch(make_set: MakeSet) -> None:
    one, again, other = make_set(1), make_set(1), make_set(2)
    assert one.plan(3) == again.plan(3) != other.plan(3)
    assert one.plan(4) != again.plan(3)
    one.plan(7)
    assert one.plan(3) == again.plan(3)


@pytest.mark.parametrize("times", [1.0, 3.0])
def test_an_epoch_says_every_row_as_often_as_its_weight(make_set: MakeSet, times: float) -> None:
    rows = [row for batch in make_set(times=times).plan(0) for item in batch for row in item]
    assert sorted(rows) == sorted(list(range(4)) * int(times))


def test_a_weight_between_whole_numbers_is_kept_on_average(make_set: MakeSet) -> None:
    training_set = make_set(times=0.4)
    counts = [sum(len(item) for batch in training_set.plan(epoch) for item in batch) for epoch in range(200)]
    assert np.mean(counts) == pytest.approx(4 * 0.4, abs=0.3)


def test_batches_hold_no_more_seconds_than_they_may(make_set: MakeSet) -> None:
    training_set = make_set(times=50, batch_s=12)
    batches = training_set.plan(0)
    padded = [max(map(training_set._seconds, batch)) * len(batch) for batch in batches]
    assert max(padded) <= 12
    assert np.mean(padded) > 9


def test_items_of_a_batch_are_of_about_one_length(make_set: MakeSet) -> None:
    training_set = make_set(times=100, phrase_share=0.5)
    lengths = [[training_set._seconds(item) for item in batch] for batch in training_set.plan(0)]
    within = np.mean([max(batch) / min(batch) for batch in lengths])
    everything = [seconds for batch in lengths for seconds in batch]
    assert within < 1.4 < 2 < max(everything) / min(everything)


def test_phrases_and_noises_have_the_share_that_is_set(make_set: MakeSet) -> None:
    items = [item for batch in make_set(times=200, phrase_share=1.0, noise_share=0.1).plan(0) for item in batch]
    lengths = [len(item) for item in items]
    assert lengths.count(0) == int(0.1 * (len(items) - lengths.count(0)))
    assert {2, 3, 4, 5} <= set(lengths) <= {0, 1, 2, 3, 4, 5}
    assert lengths.count(1) < 5
    assert {len(item) for batch in make_set(phrase_share=0, noise_share=0).plan(0) for item in batch} == {1}


def test_a_phrase_has_the_words_and_the_length_of_its_parts(make_set: MakeSet, tokenizer: Tokenizer) -> None:
    training_set = make_set(times=20, phrase_share=1.0, augment=AugmentConfig(speeds=(1.0,), pad_s=0.0))
    words = list(WORDS)
    for number, batch in enumerate(training_set.plan(0)):
        made = training_set[0, number]
        for i, item in enumerate(batch):
            text = tokenizer.decode(made.tokens_BL[i, 1 : int(made.tokens_B[i]) + 1].tolist())
            assert text == " ".join(words[row] for row in item)
            if item:
                assert 0.6 * len(item) - 0.04 < made.frames_B[i] / 100 < 1.2 * len(item) - 0.3


def test_only_short_utterances_are_strung_and_no_phrase_is_longer_than_an_utterance_may_be(make_set: MakeSet) -> None:
    items = [item for batch in make_set(times=50, phrase_share=1.0, phrase_part_s=0.5).plan(0) for item in batch]
    assert set(map(len, items)) == {0, 1}
    training_set = make_set(times=100, phrase_share=1.0, max_s=3.0, phrase_part_s=0.7, pause_s=0.2)
    phrases = [item for batch in training_set.plan(0) for item in batch]
    assert max(map(len, phrases)) > 2
    assert max(map(training_set._seconds, phrases)) <= 3.0


def test_noise_items_have_sound_and_no_words(make_set: MakeSet) -> None:
    training_set = make_set(times=20, noise_share=1.0)
    silent = 0
    for number, batch in enumerate(training_set.plan(0)):
        made = training_set[0, number]
        silent += batch.count(())
        for i, item in enumerate(batch):
            assert (int(made.tokens_B[i]) == 0) == (item == ())
            assert made.features_BTC[i, : made.frames_B[i]].isfinite().all()
            assert made.frames_B[i] > 30
    assert silent > 10


def test_a_batch_is_a_function_of_seed_epoch_and_number(make_set: MakeSet) -> None:
    one, again, other = make_set(1), make_set(1), make_set(2)
    torch.manual_seed(5)
    first = one[2, 1]
    one[0, 0]
    assert same(one[2, 1], first)
    assert same(again[2, 1], first)
    assert not same(other[2, 1], first)
    assert not same(one[3, 1], first)


def test_an_utterance_is_augmented_anew_in_every_epoch(make_set: MakeSet) -> None:
    training_set = make_set(times=1, phrase_share=0, noise_share=0, batch_s=100)
    lengths = {tuple(sorted(training_set[epoch, 0].frames_B.tolist())) for epoch in range(5)}
    assert len(lengths) == 5


def test_all_of_a_batch_speak_at_one_tempo_and_wait_or_do_not(make_set: MakeSet) -> None:
    augment = AugmentConfig(speeds=(1.0,), trim=0, pad=0, tempos=(0.8, 1.6), wait=0.5, wait_s=(1.0, 1.0))
    training_set = make_set(augment=augment, times=20, phrase_share=0, noise_share=0, batch_s=6)
    ways = [(tempo, waited_s) for tempo in augment.tempos for waited_s in (0.0, 2.0)]
    seen = set()
    for number, items in enumerate(training_set.plan(0)):
        frames_B = training_set[0, number].frames_B
        around_s = 2 * training_set.features.edge_s
        alone_B = torch.tensor([training_set.store.seconds(row) + around_s for (row,) in items])
        seen |= {way for way in ways if ((alone_B + way[1]) * 100 / way[0] - frames_B).abs().max() < 5}
    assert seen == set(ways)


def test_batches_come_in_pairs_of_about_a_length(make_set: MakeSet) -> None:
    training_set = make_set(times=90, phrase_share=0.8, batch_s=12)
    lengths = [max(map(training_set._seconds, items)) for items in training_set.plan(0)]
    assert len(lengths) > 20
    within = np.abs(np.subtract(lengths[:-1:2], lengths[1::2])).mean()
    between = np.abs(np.subtract(lengths[1:-2:2], lengths[2:-1:2])).mean()
    assert within < between / 3


def test_views_say_the_same_at_the_same_times_and_sound_otherwise(make_set: MakeSet) -> None:
    training_set = make_set(times=20, views=2, phrase_share=0.3, batch_s=12)
    for number, items in enumerate(training_set.plan(0)):
        batch = training_set[0, number]
        assert max(map(training_set._seconds, items)) * 2 * len(items) <= 12
        assert len(batch.frames_B) == 2 * len(items)
        for part in (batch.frames_B, batch.tokens_B, batch.tokens_BL):
            assert torch.equal(*part.chunk(2))
        one, other = batch.features_BTC.chunk(2)
        assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_views_of_one_channel_are_one(make_set: MakeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    # What would be left is hiss, which is all that there is beside tones, and gain, which features do not know.
    monkeypatch.setattr("speechformer.augment.add_noise", lambda speech_N, *_: speech_N)
    augment = AugmentConfig(room=0, noise=0, clip=0, mu_law=0, band_limit=0, time_masks=0, band_masks=0)
    training_set = make_set(augment=augment, views=2)
    loud = next(item for batch in training_set.plan(0) for item in batch if item)
    for seed in range(4):
        one, other = training_set._views(loud, HOP, False, np.random.default_rng(seed))
        assert np.abs(one - other).mean() < 0.001 * np.abs(one).mean()


def test_a_loader_can_start_anywhere(make_set: MakeSet) -> None:
    training_set = make_set()
    everything, rest = list(training_set.loader(1)), list(training_set.loader(1, start=3))
    assert len(everything) == len(training_set.plan(1)) > 4
    assert all(same(a, b) for a, b in zip(everything[3:], rest, strict=True))


def test_making_batches_draws_nothing_from_the_global_generator(make_set: MakeSet) -> None:
    training_set, before = make_set(), torch.get_rng_state()
    next(training_set.loader(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_share_an_epoch_without_overlap(make_set: MakeSet) -> None:
    training_set = make_set()
    everything = list(training_set.loader(0))
    shares = [list(training_set.loader(0, rank=rank, size=2)) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == len(everything) // 2
    together = [batch for pair in zip(*shares, strict=True) for batch in pair]
    assert all(same(a, b) for a, b in zip(together, everything, strict=False))


def test_rows_longer_than_the_limit_are_left_out(make_set: MakeSet) -> None:
    with_long = make_set(max_s=0.6)
    assert len(with_long.rows) == 4
    with pytest.raises(ManifestError, match="max_s"):
        make_set(max_s=0.5)


def test_a_batch_frames_its_words_with_begin_and_end() -> None:
    features = [np.ones((frames, 2), np.float32) for frames in (3, 1)]
    batch = make_batch(features, [[], [7, 8]])
    assert batch.tokens_BL.tolist() == [[BOS, EOS, PAD, PAD], [BOS, 7, 8, EOS]]
    assert batch.tokens_B.tolist() == [0, 2]
    assert batch.frames_B.tolist() == [3, 1]


def test_manifests_are_one_object_a_line(tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.jsonl", [{"audio_filepath": "a"}, {"audio_filepath": "b", "text": "grüß"}])
    lines = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["audio_filepath"] for line in lines] == ["a", "b"]
    assert "grüß" in lines[1]
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
