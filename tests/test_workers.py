"""Processes and a Ray cluster give what one transcriber gives; whatever ends a run, --resume does the rest."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from speechformer import Transcriber
from speechformer.audio import load_audio, write_wav
from speechformer.cli import main
from speechformer.errors import AudioError, CheckpointError, SpeechformerError
from speechformer.workers import Loading, Result, _in_order, in_processes, on_ray

ASSETS = sorted((Path(__file__).parents[1] / "assets").glob("*.wav"))
N_TRIALS = int(os.environ.get("SPEECHFORMER_KILL_TRIALS", "4"))
Hear = Callable[[Loading, Sequence[Path], int], Iterator[Result]]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """More than a worker gets at a time, one of them no sound, one with a name of its own."""
    folder = tmp_path_factory.mktemp("in")
    for i in range(70):
        shutil.copyfile(ASSETS[i % len(ASSETS)], folder / f"{i:02}.wav")
    (folder / "33.wav").write_bytes(b"no sound")
    (folder / "34.wav").rename(folder / "34 \n ünd.wav")
    return sorted(folder.iterdir())


def texts(results: Iterator[Result]) -> list[str]:
    return [str(one) if isinstance(one, AudioError) else one.text for one in results]


@pytest.mark.filterwarnings("ignore")  # Ray warns of itself
@pytest.mark.parametrize("hear", [in_processes, on_ray])
def test_workers_give_what_one_transcriber_gives_in_order(recordings: list[Path], hear: Hear) -> None:
    if hear is on_ray:
        pytest.importorskip("ray")
    alone = texts(Transcriber.from_pretrained(threads=1).transcribe_files(recordings))
    assert texts(hear(Loading(threads=1), recordings, 2)) == alone
    assert "33.wav" in alone[33]


def test_the_command_line_takes_jobs(
    recordings: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(recordings[0].parent)
    status = main(["transcribe", folder, "--jobs", "2", "--output-dir", str(tmp_path / "out"), "--quiet"])
    assert status == 1
    assert "33.wav" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("*.txt"))) == len(recordings) - 1


def test_a_model_that_no_worker_can_load_is_named(recordings: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such model folder"):
        list(in_processes(Loading(model=str(tmp_path / "none")), recordings, 2))


def test_a_worker_that_is_killed_is_told_and_the_rest_can_be_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(300):
        shutil.copyfile(ASSETS[i % len(ASSETS)], folder / f"{i:03}.wav")
    paths = sorted(folder.iterdir())
    results = in_processes(Loading(threads=1), paths, 2)
    done = [next(results) for _ in range(3)]
    import multiprocessing

    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
    with pytest.raises(SpeechformerError, match="a worker was killed"):
        done += list(results)
    assert 3 <= len(done) < 300


def test_results_come_in_order_as_soon_as_they_can() -> None:
    given: list[int] = []

    def source() -> Iterator[tuple[int, Result]]:
        for number in (1, 0, 3, 2):
            given.append(number)
            yield number, AudioError(str(number))

    seen = [(str(one), len(given)) for one in _in_order(source())]
    assert seen == [("0", 2), ("1", 2), ("2", 4), ("3", 4)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_whenever_a_run_is_ended_resuming_does_each_file_once(tmp_path: Path, how: signal.Signals, jobs: str) -> None:
    source = tmp_path / "in"
    source.mkdir()
    waveforms = [load_audio(path) for path in ASSETS]
    for i in range(40):
        write_wav(source / f"{i:02}.wav", waveforms[i % len(waveforms)])
    draw = random.Random(f"{how} {jobs}")
    for trial in range(N_TRIALS):
        out = tmp_path / f"out{trial}"
        command = [
            sys.executable, "-m", "speechformer", "transcribe", str(source), "--output-dir", str(out),
            "--format", "txt,tsv", "--resume", "--quiet", "--jobs", jobs, "--threads", "1",
        ]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        time.sleep(draw.uniform(0.2, 2.0))
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
        before_the_program = b"init_import_site" in said  # Python itself was starting still, and says so its own way
        assert process.returncode in (0, 130, -how) or before_the_program, said
        standing = {path: path.read_bytes() for path in out.rglob("*.t*") if out.exists()}
        report = out / "report.jsonl"
        done = subprocess.run([*command, "--report", str(report)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert all(path.read_bytes() == content for path, content in standing.items())
        for i in range(40):
            expected = ASSETS[i % len(ASSETS)].stem.replace("-", " ")
            assert (out / f"{i:02}.txt").read_text().strip() == expected
            assert expected in (out / f"{i:02}.tsv").read_text()
        rows = [json.loads(line) for line in report.read_text().splitlines()]
        assert sorted(Path(row["path"]).name for row in rows) == [f"{i:02}.wav" for i in range(40)]
        assert {row["status"] for row in rows} <= {"done", "skipped"}
        shutil.rmtree(out)


def test_an_interrupt_that_a_library_swallows_is_one_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def swallow(self: Transcriber, paths: Sequence[str]) -> Iterator[Result]:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            yield AudioError(f"{paths[0]}: no sound")

    monkeypatch.setattr(Transcriber, "transcribe_files", swallow)
    assert main(["transcribe", str(ASSETS[0]), "--report", str(tmp_path / "report")]) == 130
    assert "no sound" not in capsys.readouterr().err
    assert json.loads((tmp_path / "report").read_text())["status"] == "not reached"


def test_an_interrupt_while_a_compiled_module_is_imported_is_one_still(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: object, **settings: object) -> Transcriber:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error
        raise AssertionError

    monkeypatch.setattr(Transcriber, "from_pretrained", load)
    assert main(["transcribe", str(ASSETS[0])]) == 130


def test_an_interrupt_of_code_in_a_string_is_not_what_the_run_ends_by(tmp_path: Path) -> None:
    (tmp_path / "soundfile.py").write_text('exec("raise KeyboardInterrupt")')
    command = [sys.executable, "-m", "speechformer", "transcribe", str(ASSETS[0])]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "speechformer: interrupted\n")
