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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from speechformer import SpeechformerError, Transcriber, Transcript
from speechformer.audio import SAMPLE_RATE_HZ, AudioSource, load_audio, write_wav
from speechformer.checkpoint import Checkpoint, save_checkpoint
from speechformer.errors import GrammarError
from speechformer.features import FeatureConfig
from speechformer.model import SpeechTransformer
from speechformer.tokenizer import Tokenizer
from speechformer.transcript import Alternative, Command, Segment, Status

pytest.importorskip("gradio", reason="the app needs the extra speechformer[app]")

from app import answer, command_panel, page

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "assets"
HOME = (ASSETS / "commands" / "home.yaml").read_text("utf-8")
LIGHT = ASSETS / "turn-off-the-bedroom-light.wav"
BROKEN = 'intents:\n  Switch: ["turn on the (light"]\n'
COMMAND = Command(
    "accepted",
    0.8,
    (
        Alternative("turn off the bedroom light", "SwitchLights", {"state": "off", "area": "bedroom"}, 0.8),
        Alternative("turn off the bathroom light", "SwitchLights", {"state": "off", "area": "bathroom"}, 0.15),
        Alternative("dim the light to 5 percent", "SetBrightness", {"percent": 5, "all": True}, 0.001),
    ),
    "turn of the bed room light",
    {"speech": 0.995, "command": 0.9, "right": 0.4, "ratio": -1.0},
)
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


@pytest.fixture(scope="session")
def shipped() -> Transcriber:
    """Load the model that is shipped."""
    return Transcriber.from_pretrained()


def words(html: str) -> str:
    """Return what HTML says, without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).strip()


def test_an_accepted_command_shows_intent_slots_and_confidence() -> None:
    drawn = answer.draw(COMMAND)
    said = words(drawn)
    assert "Understood turn off the bedroom light Intent SwitchLights" in said
    assert "state off area bedroom Confidence 80 %" in said
    assert "What else it could be turn off the bathroom light 15 % SwitchLights (state: off, area: bathroom)" in said
    assert "under 1 % SetBrightness (percent: 5, all: true)" in said
    assert "width: 80.0%" in drawn


def test_an_unsure_one_asks_which_was_meant() -> None:
    said = words(answer.draw(replace(COMMAND, status="unsure")))
    assert "Did you mean …? turn off the bedroom light 80 %" in said
    assert "Speech over 99 % A command 90 % The right one 40 % too low" in said


@pytest.mark.parametrize(
    ("heard", "sentence"),
    [
        ("play music", "That is not one of the commands; it sounded like “play music”."),
        ("", "That is not one of the commands."),
    ],
)
def test_a_refused_one_says_what_it_sounded_like_and_what_decided(heard: str, sentence: str) -> None:
    numbers = {"speech": 1.0, "command": 0.02}
    said = words(answer.draw(Command("not_a_command", 0.0, (), heard, numbers)))
    assert sentence in said
    assert said.endswith("Speech 100 % A command 2 % too low")
    assert "bathroom" not in said


def test_no_speech_is_said_so() -> None:
    said = words(answer.draw(Command("no_speech", 0.0, (), "", {"speech": 0.0})))
    assert answer.NO_SPEECH in said
    assert said.endswith("Speech 0 % too low")


@pytest.mark.parametrize("status", ["accepted", "unsure", "not_a_command", "no_speech"])
def test_an_answer_cannot_carry_html(status: Status) -> None:
    evil = '<img src=x onerror="alert(1)">'
    alternatives = (Alternative(evil, evil, {evil: evil}, 0.5),) * 2
    drawn = answer.draw(Command(status, 0.5, alternatives, evil, {"speech": 0.5, "command": 0.5, "right": 0.5}))
    assert "<img" not in drawn
    assert 'onerror="' not in drawn


def test_an_answer_stands_before_the_time_taken_and_needs_no_remedy_for_no_words() -> None:
    refused = replace(COMMAND, status="not_a_command", alternatives=())
    note = page.describe(Transcript("array", "", 1.0, 0.1, (Segment("", 0.0, 1.0, 0.0, refused),)), clipped=False)
    assert note.startswith('<div class="answer not_a_command">')
    assert note.endswith(page.note("0.10 s for 1.0 s of sound", "plain"))


def test_a_set_says_what_it_holds() -> None:
    said = words(command_panel.describe(HOME, "home.yaml"))
    assert re.match(r"home\.yaml : [\d,]+ sentences, \d+ templates, \d+ intents For example: \w+", said)
    assert words(command_panel.describe("stop", "one.txt")).startswith("one.txt : 1 sentence, 1 template, 1 intent")
    assert command_panel.FREE in command_panel.describe("", command_panel.ANY_WORDS)


@pytest.mark.parametrize(
    ("text", "name", "place"),
    [
        (BROKEN, "k.yaml", "k.yaml, line 2, column 25: "),
        ("stop\n a (b", "k.txt", "k.txt, line 2, column 4: "),
        ("", "k.txt", "k.txt, line 1, column 1: "),
        ("a: [", "<b>:1:2: .yaml", "&lt;b&gt;:1:2: .yaml, line 2, column 1: "),
    ],
)
def test_a_mistake_has_line_and_column_wherever_it_is_met(text: str, name: str, place: str) -> None:
    described = command_panel.describe(text, name)
    assert described.startswith(f'<p class="warning">{place}')
    stub = Stub()
    assert page.hear(stub, (SAMPLE_RATE_HZ, tone(1.0)), text, name) == ("", described)  # type: ignore[arg-type]
    assert not stub.heard


@pytest.mark.parametrize(
    ("name", "content", "remark"),
    [
        ("k.yaml", HOME.encode(), "<b>k.yaml</b>: "),
        ("k.txt", b"\xef\xbb\xbfstop\r\ngo\r\n", "<b>k.txt</b>: 2 sentences"),
        ("k.yaml", BROKEN.encode(), "k.yaml, line 2, column 25: "),
        ("k.yaml", b"\xff\xfe\x00", "k.yaml, line 1, column 1: is not text in UTF-8"),
        ("k.yaml", b"\n  intents:\n    Stop: [stop]\n", "<b>k.yaml</b>: 1 sentence"),
        ("k.txt", b"", "k.txt, line 1, column 1: holds no sentences"),
    ],
)
def test_a_file_is_opened_under_its_own_name_even_with_a_mistake(
    tmp_path: Path, name: str, content: bytes, remark: str
) -> None:
    (tmp_path / name).write_bytes(content)
    text, its_name, loaded, _, choice = command_panel.open_file(str(tmp_path / name))
    assert its_name == name
    assert choice == (command_panel.OWN_PHRASES if name == "k.txt" else command_panel.OWN_YAML)
    assert remark in loaded
    assert str(tmp_path) not in loaded
    assert loaded == command_panel.describe(text, name) or not text
    assert bool(text) == (b"stop" in content or b"turn" in content)


def test_the_beginnings_of_one_s_own_sets_hold_sentences() -> None:
    for name, text in command_panel.STARTERS.items():
        assert "sentences" in command_panel.describe(text, name)


def test_a_command_of_the_set_is_understood_and_any_other_refused(shipped: Transcriber) -> None:
    text, note = page.hear(shipped, str(LIGHT), HOME, "home.yaml")
    assert text == "turn off the bedroom light"
    assert "Intent SwitchLights" in words(note)
    text, note = page.hear(shipped, str(LIGHT), "seven three nine two", "digits.txt")
    assert not text
    assert answer.NOT_A_COMMAND in note


def test_people_share_the_model_and_no_set(shipped: Transcriber) -> None:
    name = "k.txt"
    for _ in range(2):  # one person's set, another's of the same name, and none
        assert page.hear(shipped, str(LIGHT), "turn off the bedroom light", name)[0]
        assert not page.hear(shipped, str(LIGHT), "seven three nine two", name)[0]
        assert 'class="answer' not in page.hear(shipped, str(LIGHT))[1]
    assert shipped.commands is None
    first, again = (command_panel.listen_for(shipped, "go on", name) for _ in range(2))
    assert first is again
    assert first.recogniser is shipped.recogniser


@builds_page
def test_a_page_can_begin_with_a_set(tmp_path: Path) -> None:
    ready, own = ASSETS / "commands" / "home.yaml", tmp_path / "home.yaml"
    own.write_text(BROKEN)
    for file, choice in ((ready, "home.yaml"), (own, command_panel.OWN_YAML), (None, command_panel.ANY_WORDS)):
        parts = page.build(Stub(), commands=file).get_config_file()["components"]  # type: ignore[arg-type]
        values = {part["props"].get("elem_id"): part["props"].get("value") for part in parts}
        assert values["choice"] == choice
        assert values["name"] == (file.name if file else "")
        assert values["text"] == (file.read_text().strip() if file else "")


def test_a_set_with_a_mistake_stops_the_app_before_it_opens(tmp_path: Path) -> None:
    (tmp_path / "k.yaml").write_text(BROKEN)
    with pytest.raises(GrammarError, match=r"k\.yaml:2:25: "):
        page.launch(commands=tmp_path / "k.yaml")


@contextmanager
def running_app(log: Path, *options: str) -> Iterator[str]:
    """Run `python -m app` on a free port and give its address."""
    with socket.create_server((page.HOST, 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "app", *options, "--port", str(port)]
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
        running_app(tmp_path / "app.log", "--model", str(model)) as address,
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


@pytest.mark.browser
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its driver (apt: chromium-driver)")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # selenium leaves its sockets to the collector
def test_a_browser_chooses_edits_and_speaks_commands(tmp_path: Path) -> None:
    pytest.importorskip("selenium", reason="driving a browser needs selenium")
    from selenium.common.exceptions import ElementClickInterceptedException as Covered
    from selenium.common.exceptions import ElementNotInteractableException, StaleElementReferenceException
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    with running_app(tmp_path / "app.log") as address, running_browser(LIGHT, tmp_path / "profile") as browser:
        moving = (Covered, ElementNotInteractableException, StaleElementReferenceException)
        wait = WebDriverWait(browser, 120, ignored_exceptions=moving)

        def shown(selector: str, text: str = "") -> Any:
            """Wait for an element that holds a text."""
            ones = wait.until(
                lambda _: [one for one in browser.find_elements("css selector", selector) if text in one.text]
            )
            return ones[0]

        def press(selector: str, text: str = "") -> None:
            """Click on an element as soon as nothing is before it."""
            wait.until(lambda _: shown(selector, text).click() is None)

        browser.get(address)
        shown("#loaded", command_panel.FREE)
        press("#choice input")
        press("#choice li, ul.options li", "Home")
        shown("#loaded", " templates, ")
        assert record(browser, "#audio .record-button") in [f"{sign} {title}" for sign, title in answer.BADGES.values()]
        press("#examples button", "bedroom light")
        shown("#note .intent", "SwitchLights")
        assert not shown("#transcript").is_displayed()

        press("#editor button")
        shown("#text .cm-content").send_keys(Keys.CONTROL, Keys.HOME)
        shown("#text .cm-content").send_keys("[")
        shown("#loaded .warning", "home.yaml, line ")
        press("#examples button", "bedroom light")
        shown("#note .warning", "home.yaml, line ")

        browser.switch_to.new_window("tab")  # another person, who has chosen nothing
        browser.get(address)
        shown("#loaded", command_panel.FREE)
        press("#examples button", "bedroom light")
        shown("#note .plain", "of sound")
        assert not browser.find_elements("css selector", ".answer, .warning")
        assert shown("#transcript textarea").get_attribute("value") == "turn off the bedroom light"
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert "Traceback" not in (tmp_path / "app.log").read_text()
