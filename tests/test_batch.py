"""Inputs of every kind are found once, and their outputs never meet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from speechformer.batch import Input, check_outputs, find_inputs, plan_outputs, read_list, write_file
from speechformer.errors import OutputError, SpeechformerError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.wav", "sub/b.FLAC", "sub/deep/c.mp3", "sub/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def mirrors(inputs: list[Input]) -> list[str]:
    return [str(one.mirror) for one in inputs]


def test_folders_are_searched_to_their_depths_and_mirrored(tree: Path) -> None:
    inputs, problems = find_inputs([tree])
    assert (mirrors(inputs), problems) == (["a.wav", "sub/b.FLAC", "sub/deep/c.mp3"], {})


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("*.wav", ["a.wav"]), ("**/*.mp3", ["sub/deep/c.mp3"]), ("su?/b.*", ["sub/b.FLAC"])],
)
def test_patterns_are_expanded_from_where_they_begin(tree: Path, pattern: str, found: list[str]) -> None:
    assert mirrors(find_inputs([tree / pattern])[0]) == found


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tree: Path) -> None:
    (tree / "take[1].wav").write_bytes(b"")
    assert mirrors(find_inputs([tree / "take[1].wav"])[0]) == ["take[1].wav"]


def test_a_manifest_names_its_recordings(tree: Path) -> None:
    rows = [{"audio_filepath": "sub/b.FLAC"}, {"audio_filepath": "/elsewhere/d.wav"}]
    (tree / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert mirrors(find_inputs([tree / "rows.jsonl"])[0]) == ["sub/b.FLAC", "elsewhere/d.wav"]


def test_what_is_named_twice_is_found_once_and_what_is_not_there_is_told(tree: Path) -> None:
    (tree / "empty").mkdir()
    inputs, problems = find_inputs([tree / "a.wav", tree, tree / "empty", tree / "*.ogg"])
    assert mirrors(inputs) == ["a.wav", "sub/b.FLAC", "sub/deep/c.mp3"]
    assert list(problems) == [str(tree / "empty"), str(tree / "*.ogg")]
    assert all(problem.startswith(path) for path, problem in problems.items())


def test_a_list_has_a_path_a_line(tree: Path) -> None:
    (tree / "list").write_text("a.wav\n\nb c.wav\n")
    assert read_list(tree / "list") == ["a.wav", "b c.wav"]
    with pytest.raises(SpeechformerError, match="the list cannot be read"):
        read_list(tree / "gone")


def test_outputs_mirror_or_stand_beside_and_keep_a_suffix_where_only_that_differs() -> None:
    inputs = [Input(Path(f"/in/{name}"), Path(name)) for name in ("a.wav", "a.flac", "b/a.wav")]
    found = plan_outputs(inputs, Path("/out"), ["txt", "srt"])
    assert [str(path) for group in found.values() for path in group] == [
        "/out/a.wav.txt", "/out/a.wav.srt", "/out/a.flac.txt", "/out/a.flac.srt", "/out/b/a.txt", "/out/b/a.srt",
    ]  # fmt: skip
    assert plan_outputs(inputs[2:], None, ["txt"]) == {Path("/in/b/a.wav"): (Path("/in/b/a.txt"),)}


def test_one_output_has_one_input() -> None:
    inputs = [Input(Path(f"/{name}/a.wav"), Path("a.wav")) for name in ("x", "y")]
    with pytest.raises(SpeechformerError, match=r"/x/a.wav and /y/a.wav would both be written to /out/a"):
        plan_outputs(inputs, Path("/out"), ["txt"])


def test_what_stands_is_not_overwritten(tmp_path: Path) -> None:
    outputs = {Path("a.wav"): (tmp_path / "a.txt",), Path("b.wav"): (tmp_path / "b.txt",)}
    check_outputs(outputs)
    write_file(tmp_path / "b.txt", "words")
    with pytest.raises(SpeechformerError, match=r"b\.txt: stands already"):
        check_outputs(outputs)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "deep" / "a.txt", "words")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]

    def full(self: Path, text: str, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_file(tmp_path / "deep" / "a.txt", "other words")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]
    assert (tmp_path / "deep" / "a.txt").read_bytes() == b"words"
