"""The command line: what is printed, what is written, and the exit status, for good input and bad."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechformer.audio import SAMPLE_RATE_HZ, write_wav
from speechformer.checkpoint import Checkpoint, save_checkpoint
from speechformer.cli import DONE, NONE_DONE, SOME_FAILED, USAGE, main
from speechformer.data import write_manifest
from speechformer.features import FeatureConfig
from speechformer.model import SpeechTransformer
from speechformer.model_folder import FORMAT
from speechformer.shape import ModelConfig
from speechformer.tokenizer import Tokenizer
from tests.conftest import spoken

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model_folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model in a folder."""
    torch.manual_seed(3)
    config = ModelConfig(vocab_size=len(tokenizer), d_model=32, d_ff=64, n_heads=2, n_encoder_layers=1)
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, Checkpoint(SpeechTransformer(config), FeatureConfig(), tokenizer))
    return folder


@pytest.fixture
def run(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process with the tiny model: (exit status, stdout, stderr)."""

    def call(command: str, *arguments: object, model: Path = model_folder) -> tuple[int, str, str]:
        status = main([command, *map(str, arguments), "--model", str(model)])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """A readable recording."""
    path = tmp_path / "good.wav"
    write_wav(path, spoken("go"))
    return path


def test_help_answers_without_torch() -> None:
    code = """
import sys
from speechformer.cli import main
try:
    main(["--help"])
except SystemExit:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "transcribe" in done.stdout


def test_one_file_is_text_alone_and_several_have_names(run: Run, wav: Path, tmp_path: Path) -> None:
    status, alone, _ = run("transcribe", wav)
    assert status == DONE
    write_wav(tmp_path / "more.wav", spoken("go"))
    status, several, errors = run("transcribe", tmp_path)
    assert (status, errors) == (DONE, "")
    assert several == f"{wav}: {alone}{tmp_path / 'more.wav'}: {alone}"


def test_json_lines_hold_one_object_a_file(run: Run, wav: Path) -> None:
    status, out, _ = run("transcribe", wav, wav, "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == DONE
    assert [row["name"] for row in rows] == [str(wav)], "a file named twice is transcribed once"
    assert rows[0]["duration_s"] == 0.6
    assert rows[0]["segments"][0]["text"] == rows[0]["text"]


def test_json_of_several_files_is_one_array(run: Run, wav: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "more.wav", spoken("go"))
    rows = json.loads(run("transcribe", tmp_path, "--format", "json")[1])
    assert [row["name"] for row in rows] == [str(wav), str(tmp_path / "more.wav")]


def test_output_dir_mirrors_folders(run: Run, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        write_wav(tmp_path / "in" / folder / "x.wav", spoken("stop"))
    status, out, _ = run("transcribe", tmp_path / "in", "--output-dir", tmp_path / "out", "--format", "json")
    assert (status, out) == (DONE, "")
    assert sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*")) == [
        Path("a/x.json"),
        Path("b/x.json"),
    ]


def test_two_inputs_never_share_an_output(run: Run, wav: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    soundfile.write(tmp_path / "good.flac", spoken("go"), SAMPLE_RATE_HZ)
    assert run("transcribe", wav, tmp_path / "good.flac", "--output-dir", out)[0] == DONE
    assert sorted(path.name for path in out.iterdir()) == ["good.flac.txt", "good.wav.txt"]
    (tmp_path / "more").mkdir()
    write_wav(tmp_path / "more" / "good.wav", spoken("stop"))
    status, _, errors = run("transcribe", wav, tmp_path / "more" / "good.wav", "--output-dir", tmp_path / "other")
    assert status == USAGE
    assert "both be written" in errors
    assert not (tmp_path / "other").exists()


def test_several_forms_are_written_beside_the_recording_and_never_over_another(
    run: Run, wav: Path, tmp_path: Path
) -> None:
    arguments = ("transcribe", wav, "--beside", "--format", "txt,json,srt")
    assert run(*arguments)[:2] == (DONE, "")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["good.json", "good.srt", "good.txt", "good.wav"]
    (tmp_path / "good.txt").write_text("mine\n")
    status, _, errors = run(*arguments)
    assert status == USAGE
    assert f"{tmp_path / 'good.txt'} and 2 more: stands already" in errors
    assert run(*arguments, "--resume")[0] == DONE
    assert (tmp_path / "good.txt").read_text() == "mine\n"
    assert run(*arguments, "--overwrite")[0] == DONE
    assert (tmp_path / "good.txt").read_text() != "mine\n"


def test_a_batch_that_was_cut_off_goes_on_and_reports_every_input(run: Run, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("no sound")
    write_wav(tmp_path / "new.wav", spoken("stop"))
    out, report = tmp_path / "out", tmp_path / "report.jsonl"
    assert run("transcribe", wav, "--output-dir", out)[0] == DONE
    before = (out / "good.txt").stat().st_mtime_ns
    status, _, errors = run("transcribe", tmp_path, "--output-dir", out, "--resume", "--report", report)
    assert status == SOME_FAILED
    assert "1 of 3 inputs" in errors
    assert (out / "good.txt").stat().st_mtime_ns == before
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert {Path(row["path"]).name: row["status"] for row in rows} == {
        "good.wav": "skipped", "bad.wav": "failed", "new.wav": "done",
    }  # fmt: skip
    assert [row["outputs"] for row in rows if row["status"] == "done"] == [[str(out / "new.txt")]]
    assert "not audio" in next(row["error"] for row in rows if row["status"] == "failed")


def test_a_batch_is_scored_while_it_is_transcribed(run: Run, wav: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "more.wav", spoken("stop"))
    write_manifest(tmp_path / "rows.jsonl", [{"audio_filepath": "good.wav", "text": "Go, 2!"}])
    status, out, errors = run("transcribe", tmp_path, "--ref", tmp_path / "rows.jsonl")
    assert (status, out.count("\n")) == (DONE, 2)
    assert "utterances         1 (2 words, 0.6 s)" in errors
    assert re.search("said:  go +two", errors)
    write_manifest(tmp_path / "rows.jsonl", [{"audio_filepath": "other.wav", "text": "go"}])
    assert "nothing to score" in run("transcribe", wav, "--ref", tmp_path / "rows.jsonl")[2]


def test_resume_adds_a_form_and_leaves_what_stands(run: Run, wav: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "good.txt").write_text("mine\n")
    assert run("transcribe", wav, "--output-dir", out, "--format", "txt,srt", "--resume")[0] == DONE
    assert (out / "good.txt").read_text() == "mine\n"
    assert (out / "good.srt").exists()


def test_one_output_that_cannot_be_written_does_not_stop_the_others(run: Run, tmp_path: Path) -> None:
    sounds, out, report = tmp_path / "in", tmp_path / "out", tmp_path / "report.jsonl"
    for name in ("a.wav", "sub/b.wav", "z.wav"):
        (sounds / name).parent.mkdir(parents=True, exist_ok=True)
        write_wav(sounds / name, spoken("go"))
    out.mkdir()
    (out / "sub").write_text("a file, no folder")
    assert run("transcribe", sounds, "--output-dir", out, "--report", report)[0] == SOME_FAILED
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(Path(row["path"]).name, row["status"]) for row in rows] == [
        ("a.wav", "done"), ("b.wav", "failed"), ("z.wav", "done"),
    ]  # fmt: skip
    status, _, errors = run("transcribe", sounds, "--output-dir", tmp_path / "new", "--report", report)
    assert status == USAGE
    assert "give --overwrite or another name" in errors


def test_a_manifest_that_looks_elsewhere_stays_below_the_output_folder(run: Run, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    write_manifest(tmp_path / "lists" / "rows.jsonl", [{"audio_filepath": "../good.wav"}])
    assert run("transcribe", tmp_path / "lists" / "rows.jsonl", "--output-dir", tmp_path / "out")[0] == DONE
    assert (tmp_path / "out" / "good.txt").exists()


def test_what_cannot_even_be_looked_up_is_one_sentence_and_the_rest_goes_on(
    run: Run, wav: Path, tmp_path: Path
) -> None:
    (tmp_path / "list").write_text(f"{'x' * 300}\n{wav}\n")
    status, out, errors = run("transcribe", "--from-file", tmp_path / "list")
    assert status == SOME_FAILED
    assert out.startswith(f"{wav}: ")
    assert "file name too long" in errors
    assert json.loads(run("transcribe", tmp_path / "gone.wav", tmp_path / "gone2.wav", "--format", "json")[1]) == []


def test_an_output_that_cannot_be_written_is_one_sentence(run: Run, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, no folder")
    status, _, errors = run("transcribe", wav, "--output-dir", tmp_path / "out")
    assert status == NONE_DONE
    assert errors.count("\n") == 1
    assert "cannot be written" in errors


@pytest.mark.parametrize("raw", [False, True])
def test_a_recording_is_read_from_stdin(run: Run, wav: Path, monkeypatch: pytest.MonkeyPatch, raw: bool) -> None:
    samples, rate_hz = soundfile.read(wav, dtype="int16")
    sound = samples.tobytes() if raw else wav.read_bytes()
    expected = run("transcribe", wav)[1]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sound)))
    arguments = ("--raw", "--rate", rate_hz) if raw else ("-",)
    assert run("transcribe", *arguments) == (DONE, expected, "")


@pytest.mark.parametrize("sound", [b"", b"no sound"])
def test_stdin_that_is_no_recording_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch, sound: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sound)))
    status, out, errors = run("transcribe", "-")
    assert (status, out) == (NONE_DONE, "")
    assert errors.startswith("speechformer: stdin: ")
    assert errors.count("\n") == 1


def test_a_name_of_any_bytes_is_transcribed(run: Run, wav: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff\nname.wav"))
    try:
        odd.write_bytes(wav.read_bytes())
    except OSError:
        pytest.skip("the file system takes no such names")
    status, out, _ = run("transcribe", tmp_path, "--format", "jsonl")
    assert status == DONE
    assert len(out.splitlines()) == 2
    assert run("transcribe", odd, "--output-dir", tmp_path / "out", "--report", tmp_path / "r.jsonl")[0] == DONE


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "nothing to transcribe"),
        (("",), "an empty path was given"),
        (("-", "--report", "r.jsonl"), "stdin is one recording"),
        (("x.wav", "--resume"), "are for files"),
        (("x.wav", "--format", "txt,json"), "are for files"),
        (("x.wav", "y.wav", "--format", "srt"), "holds one recording"),
        (("-", "x.wav"), "stdin is one recording"),
        (("--from-file", "gone.txt"), "the list cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(run: Run, arguments: tuple[str, ...], problem: str) -> None:
    status, out, errors = run("transcribe", *arguments)
    assert (status, out) == (USAGE, "")
    assert problem in errors
    assert errors.count("\n") == 1


BAD_KINDS = ("missing", "empty", "no_samples", "text", "not_numbers", "header", "cut")


def bad_files(folder: Path) -> dict[str, Path]:
    """Write one file for each way a recording can be bad."""
    good = folder / "source.wav"
    write_wav(good, spoken("left"))
    files = {name: folder / f"{name}.wav" for name in BAD_KINDS}
    files["empty"].touch()
    files["text"].write_text("turn on the light\n" * 50)
    soundfile.write(files["not_numbers"], np.full(8000, np.nan, np.float32), SAMPLE_RATE_HZ, subtype="FLOAT")
    files["header"].write_bytes(good.read_bytes()[:20])
    files["cut"].write_bytes(good.read_bytes()[:9000])
    soundfile.write(files["no_samples"], np.zeros(0), SAMPLE_RATE_HZ)
    return files


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_a_bad_file_is_one_sentence_and_the_others_go_on(run: Run, wav: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "bad").mkdir()
    bad = bad_files(tmp_path / "bad")[kind]
    status, out, errors = run("transcribe", bad, wav)
    assert status == SOME_FAILED
    assert out.startswith(f"{wav}: ")
    assert errors.splitlines()[0].startswith(f"speechformer: {bad}: ")
    assert errors.count("\n") == 2, "one sentence for the file and one for the batch"
    assert "Traceback" not in errors
    assert run("transcribe", bad)[0] == NONE_DONE


def odd_files(folder: Path) -> dict[str, Path]:
    """Write recordings that are strange but good."""
    rng = np.random.default_rng(0)
    for name, rate_hz, channels in (("eight", 16_000, 8), ("slow", 8_000, 1), ("fast", 192_000, 2)):
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal((rate_hz // 2, channels)), rate_hz)
    write_wav(folder / "whole.wav", spoken("left"))
    return {path.stem: path for path in folder.glob("*.wav")}


def test_odd_files_are_transcribed(run: Run, tmp_path: Path) -> None:
    files = odd_files(tmp_path)
    status, out, errors = run("transcribe", tmp_path, "--format", "jsonl")
    seconds = {Path(row["name"]).stem: row["duration_s"] for row in map(json.loads, out.splitlines())}
    assert (status, errors) == (DONE, "")
    assert seconds.keys() == files.keys()
    assert seconds["eight"] == seconds["slow"] == seconds["fast"] == 0.5


def test_a_folder_without_audio_is_named(run: Run, tmp_path: Path) -> None:
    status, _, errors = run("transcribe", tmp_path)
    assert status == NONE_DONE
    assert f"{tmp_path}: the folder holds no audio files" in errors


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "tokenizer.model").unlink(), "tokenizer.model"),
        (lambda folder: cut_in_half(folder / "model.safetensors"), "model.safetensors"),
        (lambda folder: cut_in_half(folder / "tokenizer.model"), "tokenizer.model"),
        (lambda folder: cut_in_half(folder / "config.json"), "config.json"),
        (lambda folder: raise_format(folder / "config.json"), f"has format {FORMAT + 1}"),
    ],
)
def test_a_damaged_model_is_one_sentence(
    run: Run, wav: Path, model_folder: Path, tmp_path: Path, damage: Callable[[Path], object], part: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    damage(folder)
    status, out, errors = run("transcribe", wav, model=folder)
    assert (status, out) == (USAGE, "")
    assert errors.count("\n") == 1
    assert part in errors


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def raise_format(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))


def test_evaluate_prints_the_score_and_the_worst_files(run: Run, wav: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    write_manifest(manifest, [{"audio_filepath": "good.wav", "duration": 0.6, "text": "Go, 2!"}])
    status, out, _ = run("evaluate", manifest)
    assert status == DONE
    assert "utterances         1 (2 words, 0.6 s)" in out
    assert re.search("said:  go +two", out)
    status, out, _ = run("evaluate", manifest, "--format", "json")
    assert json.loads(out)["n_words"] == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [("{not json", "not JSON"), ('{"text": "go"}', 'has no "audio_filepath"'), ("[1]", 'has no "audio_filepath"')],
)
def test_a_bad_manifest_line_is_named(run: Run, tmp_path: Path, line: str, problem: str) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(f'{{"audio_filepath": "a.wav", "text": "go"}}\n{line}\n')
    status, _, errors = run("evaluate", manifest)
    assert status == USAGE
    assert f"{manifest}:2: {problem}" in errors


def test_a_manifest_that_names_a_missing_file_fails_and_scores_the_rest(run: Run, wav: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    rows = [{"audio_filepath": name, "text": "go"} for name in ("good.wav", "gone.wav")]
    write_manifest(manifest, rows)
    status, out, errors = run("evaluate", manifest)
    assert status == SOME_FAILED
    assert "utterances         1 " in out
    assert f"{tmp_path / 'gone.wav'}: no such file" in errors


def test_an_unknown_setting_is_answered_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("schedule:\n  n_step: 3\n")
    assert main(["train", str(config), "--run", str(tmp_path / "run")]) == USAGE
    assert 'did you mean "n_steps"?' in capsys.readouterr().err


def test_overrides_may_follow_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("seed: 2\n")
    assert main(["train", str(config), "--run", str(tmp_path / "run"), "schedule.n_step=3"]) == USAGE
    assert 'did you mean "n_steps"?' in capsys.readouterr().err


def test_a_line_without_text_is_counted_as_failed(run: Run, wav: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    write_manifest(manifest, [{"audio_filepath": "good.wav", "text": "go"}, {"audio_filepath": "good.wav"}])
    status, out, errors = run("evaluate", manifest)
    assert status == SOME_FAILED
    assert "utterances         1 " in out
    assert '1 lines have no "text"' in errors


def test_info_names_the_shipped_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == DONE
    assert "model commands-en: " in capsys.readouterr().out


COMMANDS = "intents: {Move: ['{what} [please]']}\nlists: {what: {values: [go, stop, left, right]}}\n"


def test_commands_have_an_answer_in_text_and_json(run: Run, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text(COMMANDS)
    status, out, _ = run("transcribe", wav, "--commands", tmp_path / "set.yaml", "--format", "json")
    answer = json.loads(out)
    assert status == DONE
    assert answer["status"] in ("accepted", "unsure", "not_a_command", "no_speech")
    assert 0 <= answer["confidence"] <= 1
    best = answer["segments"][0]["command"]["alternatives"][0]
    assert best["intent"] == "Move"
    assert best["slots"]["what"] in ("go", "stop", "left", "right")
    assert ("intent" in answer) == (answer["status"] == "accepted")
    status, out, _ = run("transcribe", wav, "--commands", tmp_path / "set.yaml")
    assert (status, bool(out.strip())) == (DONE, True)


def test_silence_is_no_speech(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("go\nstop\n")
    write_wav(tmp_path / "silence.wav", np.zeros(SAMPLE_RATE_HZ, np.float32))
    status, out, _ = run(
        "transcribe", tmp_path / "silence.wav", "--commands", tmp_path / "set.txt", "--format", "jsonl"
    )
    assert status == DONE
    assert json.loads(out)["status"] == "no_speech"
    assert json.loads(out)["text"] == ""


@pytest.mark.parametrize("command", ["transcribe", "evaluate", "grammar"])
def test_a_command_file_with_a_mistake_is_pointed_at(run: Run, wav: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "bad.yaml").write_text("intents:\n  Go: ['go {where}']\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"audio_filepath": str(wav), "text": "go"}) + "\n")
    given = {
        "transcribe": (wav, "--commands"), "evaluate": (tmp_path / "rows.jsonl", "--commands"), "grammar": ("check",),
    }[command]  # fmt: skip
    status, out, errors = run(command, *given, tmp_path / "bad.yaml")
    assert (status, out) == (USAGE, "")
    assert errors.startswith(f"speechformer: {tmp_path / 'bad.yaml'}:2:12: there is no list {{where}}")
    assert errors.count("\n") == 1


def test_a_grammar_is_looked_over(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set.yaml").write_text(COMMANDS)
    status, out, _ = run("grammar", "check", tmp_path / "set.yaml")
    assert status == DONE
    assert out.startswith("8 sentences from 1 templates in 1 intents, 5 words")
    assert "sound alike" in out


def test_a_command_set_is_evaluated_clean_and_with_noise(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("go\nstop\n")
    (tmp_path / "noise").mkdir()
    write_wav(tmp_path / "noise" / "hiss.wav", 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32))
    rows = []
    for word in ("go", "stop", "left"):
        write_wav(tmp_path / f"{word}.wav", spoken(word))
        rows.append({"audio_filepath": f"{word}.wav", "text": word})
    write_manifest(tmp_path / "rows.jsonl", rows)
    arguments = (tmp_path / "rows.jsonl", "--commands", tmp_path / "set.txt", "--noise", tmp_path / "noise")
    status, out, _ = run("evaluate", *arguments, "--snr", "6,12", "--format", "json")
    results = json.loads(out)
    assert status == DONE
    assert list(results) == ["clean", "6 dB", "12 dB"]
    assert results["clean"]["commands_n"] == 2
    assert results["clean"]["other_speech_n"] == 1
    assert "right and accepted" in run("evaluate", *arguments)[1]


def test_evaluate_takes_errors_apart_and_mixes_noise_in(run: Run, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    write_wav(tmp_path / "noise" / "hiss.wav", 0.1 * np.random.default_rng(0).standard_normal(8000).astype(np.float32))
    rows = [{"audio_filepath": wav.name, "text": "go", "speaker": "ann"}, {"audio_filepath": "gone.wav", "text": "go"}]
    write_manifest(tmp_path / "tones.jsonl", rows)
    arguments = (tmp_path / "tones.jsonl", "--noise", tmp_path / "noise", "--snr", "3", "--errors")
    status, out, errors = run("evaluate", *arguments, "--format", "json")
    assert status == SOME_FAILED
    assert errors.count("gone.wav") == 1
    result = json.loads(out)
    assert result["n_utterances"] == result["noise"]["3 dB"]["n_utterances"] == 1
    assert set(result["errors"]["noise"]) == {"as recorded", "3 dB"}
    assert list(result["errors"]["corpus"]) == ["tones"]
    assert list(result["errors"]["speaker"]) == ["ann"]
    _, out, _ = run("evaluate", *arguments)
    for part in ("as recorded\n", "\n3 dB\n", "said → heard", "tones", "0–1 s"):
        assert part in out


def test_evaluate_lays_silence_around(run: Run, wav: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path / "tones.jsonl", [{"audio_filepath": wav.name, "text": "go"}])
    lengths = []
    for more in ((), ("--silence", "1.5")):
        _, out, _ = run("evaluate", tmp_path / "tones.jsonl", "--format", "json", *more)
        lengths.append(json.loads(out)["audio_s"])
    assert lengths[1] - lengths[0] == pytest.approx(3.0, abs=0.11)
    for wrong in ("0", "nan", "-1"):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", str(tmp_path / "tones.jsonl"), "--silence", wrong])
        assert ended.value.code == USAGE


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(("evaluate", "rows.jsonl", "--snr", wrong), "decibels") for wrong in ("nan", "6,inf", "loud", "")]
    + [(("serve", "--http-port", wrong), "is no port") for wrong in ("65536", "-1", "http", "1e3")],
)
def test_what_is_no_number_is_a_wrong_command(
    arguments: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == USAGE
    assert why in capsys.readouterr().err


def test_evaluate_hears_in_rooms(run: Run, wav: Path, tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("go\n")
    write_manifest(tmp_path / "tones.jsonl", [{"audio_filepath": wav.name, "text": "go"}])
    (tmp_path / "rooms").mkdir()
    status, _, errors = run("evaluate", tmp_path / "tones.jsonl", "--rooms", tmp_path / "rooms")
    assert status == USAGE
    assert "holds no audio files of impulse responses" in errors
    response_N = np.zeros(4_000, np.float32)
    response_N[::900] = 0.9
    write_wav(tmp_path / "rooms" / "one.wav", response_N)
    for more in ((), ("--commands", tmp_path / "set.txt")):
        status, out, _ = run(
            "evaluate", tmp_path / "tones.jsonl", "--format", "json", "--rooms", tmp_path / "rooms", *more
        )
        assert status == 0
        assert json.loads(out)


def test_errors_are_not_taken_apart_inside_a_command_set(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set.txt").write_text("go\n")
    write_manifest(tmp_path / "rows.jsonl", [{"audio_filepath": "a.wav", "text": "go"}])
    status, _, errors = run("evaluate", tmp_path / "rows.jsonl", "--commands", tmp_path / "set.txt", "--errors")
    assert status == USAGE
    assert "leave out --commands" in errors


def test_every_command_is_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    (\w+)\b", capsys.readouterr().out, re.MULTILINE)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert len(commands) >= 5
    assert all(f"speechformer {command}" in readme for command in commands)
