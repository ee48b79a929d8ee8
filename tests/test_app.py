"""The app: what every path of the handler returns, and a browser that speaks to the page."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from speechformer import SpeechformerError, Transcript
from speechformer.audio import SAMPLE_RATE_HZ, AudioSource, load_audio, write_wav
from speechformer.checkpoint import Checkpoint, save_checkpoint
from speechformer.features import FeatureConfig
from speechformer.model import SpeechTransformer
from speechformer.tokenizer import Tokenizer

pytest.importorskip("gradio", reason="the app needs the extra speechformer[app]")

from app import page

ROOT = Path(__file__).parent.parent
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
CHROMIUM_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--lang=en", "--window-size=1280,900",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
)  # fmt: skip


class Stub:
    """Hears the same words in everything, and keeps what it was given."""

    def __init__(self, text: str = "turn on the light") -> None:
        self.text = text
        self.heard: list[AudioSource] = []

    def transcribe(self, source: AudioSource) -> Transcript:
        self.heard.append(source)
        return Transcript("array", self.text, len(load_audio(source)) / SAMPLE_RATE_HZ, 0.042, ())


def tone(duration_s: float, level: float = 0.5, rate_hz: int = SAMPLE_RATE_HZ) -> npt.NDArray[np.float32]:
    """Return a tone of 440 Hz; a level above 1 is clipped."""
    time_N = np.arange(round(duration_s * rate_hz)) / rate_hz
    return np.clip(level * np.sin(2 * np.pi * 440 * time_N), -1, 1).astype(np.float32)


def hear(source: AudioSource | None, stub: Stub | None = None) -> tuple[str, str]:
    """Run the handler and check the shape of its answer."""
    outputs = page.hear(stub or Stub(), source)  # type: ignore[arg-type]
    assert isinstance(outputs, tuple)
    assert [type(output) for output in outputs] == [str, str]
    return outputs


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect what a page leaves behind within its own test."""
    yield
    asyncio.set_event_loop(None)
    gc.collect()


def builds_page(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that builds a page: Gradio makes event loops and never closes them."""
    ignored = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    return pytest.mark.usefixtures("collected")(ignored(test))


def test_speech_gives_its_text_and_the_time_taken() -> None:
    text, note = hear((SAMPLE_RATE_HZ, tone(2.1)))
    assert text == "turn on the light"
    assert "0.04 s for 2.1 s of sound" in note
    assert "warning" not in note


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        (None, page.NOTHING),
        ((SAMPLE_RATE_HZ, tone(0)), page.NOTHING),
        ((SAMPLE_RATE_HZ, tone(0.09)), page.TOO_SHORT),
        ((SAMPLE_RATE_HZ, tone(60.1)), page.TOO_LONG),
        ((48_000, np.zeros((48_000, 2), np.int16)), page.SILENT),
    ],
)
def test_what_cannot_be_transcribed_gets_a_remedy(source: AudioSource | None, remedy: str) -> None:
    stub = Stub()
    text, note = hear(source, stub)
    assert (text, note) == ("", page.note(remedy, "warning"))
    assert not stub.heard


@pytest.mark.parametrize("duration_s", [0.1, 60.0])
def test_the_limits_themselves_are_transcribed(duration_s: float) -> None:
    assert hear((SAMPLE_RATE_HZ, tone(duration_s)))[0]


@pytest.mark.parametrize(
    "sentence",
    [page.NOTHING, page.TOO_SHORT, page.TOO_LONG, page.SILENT, page.CLIPPED, page.NO_WORDS],
)
def test_a_remedy_is_one_sentence(sentence: str) -> None:
    assert re.fullmatch(r"[A-Z][^.!?]*\.", sentence)


@pytest.mark.parametrize(("level", "clipped"), [(0.5, False), (0.98, False), (1.5, True)])
def test_clipped_sound_is_transcribed_with_a_warning(level: float, clipped: bool) -> None:
    text, note = hear((SAMPLE_RATE_HZ, tone(1.0, level)))
    assert text
    assert "of sound" in note
    assert (page.CLIPPED in note) == clipped


def test_no_words_are_said_to_be_none() -> None:
    text, note = hear((SAMPLE_RATE_HZ, tone(1.0)), Stub(text=""))
    assert not text
    assert "of sound" in note
    assert page.NO_WORDS in note


@pytest.mark.parametrize("content", [b"", b"not sound", b"RIFF\x00\x00\x00\x00WAVEfmt "])
def test_an_unreadable_file_is_explained_without_its_temporary_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "song.wav"
    path.write_bytes(content)
    text, note = hear(str(path))
    assert not text
    assert note.startswith('<p class="warning">This cannot be transcribed: ')
    assert str(tmp_path) not in note


def test_a_file_that_is_gone_is_explained(tmp_path: Path) -> None:
    assert "check the path" in hear(str(tmp_path / "gone.wav"))[1]


@pytest.mark.parametrize("channels", [1, 2])
def test_a_microphone_s_integers_reach_the_model_as_they_are(channels: int) -> None:
    stub = Stub()
    pcm_N = (tone(1.0, 0.25, 48_000) * 32767).astype(np.int16)
    hear((48_000, pcm_N if channels == 1 else np.stack([pcm_N, pcm_N], axis=1)), stub)
    (heard,) = stub.heard
    assert isinstance(heard, tuple)
    assert heard[0] == SAMPLE_RATE_HZ
    assert heard[1].shape == (SAMPLE_RATE_HZ,)
    assert np.abs(heard[1]).max() == pytest.approx(0.25, abs=0.01)  # not normalised to its peak


def test_a_recording_is_read_once_and_may_then_vanish(tmp_path: Path) -> None:
    path, stub = tmp_path / "voice.wav", Stub()
    write_wav(path, tone(0.5))
    hear(str(path), stub)
    path.unlink()
    assert load_audio(stub.heard[0]).shape == (SAMPLE_RATE_HZ // 2,)


def test_a_note_cannot_carry_html() -> None:
    assert page.note("<script>", "plain") == '<p class="plain">&lt;script&gt;</p>'


@pytest.mark.parametrize("names", [[], ["lights-on.wav", "stop.wav"]])
@builds_page
def test_examples_are_the_wav_files_there_are(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        write_wav(tmp_path / name, tone(0.5))
    for assets in (tmp_path, tmp_path / "absent"):
        config = page.build(Stub(), assets).get_config_file()  # type: ignore[arg-type]
        labels = [part["props"]["sample_labels"] for part in config["components"] if part["type"] == "dataset"]
        assert labels == ([["lights on", "stop"]] if names and assets == tmp_path else [])


@builds_page
def test_the_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    built = page.build(Stub(), tmp_path)  # type: ignore[arg-type]
    assert not built.analytics_enabled
    assert not page.theme()._stylesheets


@pytest.fixture
def model(tmp_path: Path, make_model: Callable[..., SpeechTransformer], tokenizer: Tokenizer) -> Path:
    """Save a small untrained model."""
    features = FeatureConfig(n_mels=20, n_mfcc=8)
    network = make_model(n_features=features.n_mfcc, vocab_size=len(tokenizer))
    save_checkpoint(tmp_path / "model", Checkpoint(network, features, tokenizer))
    return tmp_path / "model"


@builds_page
def test_a_taken_port_is_an_error_that_says_what_to_do(model: Path) -> None:
    with socket.create_server((page.HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SpeechformerError, match=f"port {port} cannot be used; choose another with --port"):
            page.launch(str(model), port)


@contextmanager
def running_app(model: Path, log: Path) -> Iterator[str]:
    """Run `python -m app` on a free port and give its address."""
    with socket.create_server((page.HOST, 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "app", "--model", str(model), "--port", str(port)]
    with log.open("w") as out, subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=out, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as app:  # fmt: skip
        try:
            assert app.stdout
            line = app.stdout.readline()
            assert f"http://{page.HOST}:{port}/" in line, log.read_text()
            assert "localhost or https only" in line
            yield f"http://{page.HOST}:{port}/"
        finally:
            app.terminate()


@contextmanager
def running_browser(voice: Path, profile: Path) -> Iterator[Any]:
    """Run Chromium with a file for a microphone."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="driving a browser needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*CHROMIUM_FLAGS, f"--use-file-for-fake-audio-capture={voice}", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


def record(browser: Any, start: str) -> str:
    """Press a button that starts a recording, speak for a second, stop, and return the note."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def shown(selector: str) -> Any:
        return next((one for one in browser.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()), None)

    def seconds() -> int:
        clock = shown("#audio .timestamps")
        return int(clock.text.split(":")[-1]) if clock and ":" in clock.text else 0

    wait = WebDriverWait(browser, 120, ignored_exceptions=[StaleElementReferenceException])
    wait.until(lambda _: shown(start)).click()
    stop = wait.until(lambda _: shown("#audio .stop-button"))
    wait.until(lambda _: seconds() >= 1)
    assert not shown("#note p")  # the last result goes when the next recording starts
    stop.click()
    return str(wait.until(lambda _: shown("#note p")).text)


@pytest.mark.browser
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver (apt: chromium-driver)")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium leaves its sockets to the collector
def test_a_browser_speaks_and_reads_what_was_heard(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("selenium", reason="driving a browser needs selenium")
    write_wav(tmp_path / "voice.wav", tone(3.0))
    with (
        running_app(model, tmp_path / "app.log") as address,
        running_browser(tmp_path / "voice.wav", tmp_path / "profile") as browser,
    ):
        browser.get(address)
        for start in ("#audio .record-button", "#again"):
            assert re.fullmatch(r"\d+\.\d\d s for \d+\.\d s of sound", record(browser, start))
        assert not browser.find_elements("css selector", ".toast-body")
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        requested = browser.execute_script("return performance.getEntriesByType('resource').map(r => r.name)")
        assert [url for url in requested if not url.startswith((address, "data:", "blob:"))] == []
    assert "Traceback" not in (tmp_path / "app.log").read_text()
