"""The page: a microphone, the words or the command that was heard, and what to do when there is none.

    recording or file ─┐
    text and name      ├─▶ hear ─▶ (transcript, note)
    of the command set ┘

`hear` is all that happens on a click. It keeps nothing: everyone who has the page open shares the model only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock

import gradio as gr
import numpy as np

from app.answer import ANNOUNCE, draw, note
from app.command_panel import ANY_WORDS, Panel, add_panel, explain, listen_for
from speechformer import SpeechformerError, Transcriber, Transcript
from speechformer.audio import SAMPLE_RATE_HZ, AudioSource, Waveform, load_audio
from speechformer.errors import AudioError, GrammarError
from speechformer.grammar import Grammar
from speechformer.transcribe import SILENCE

HOST = "127.0.0.1"
MIN_S, MAX_S = 0.1, 60.0
CLIPPED_LEVEL, CLIPPED_SHARE = 0.99, 1e-3  # more than one sample in a thousand at full scale is no accident
MAX_FILE_SIZE = "50mb"  # a minute of the largest studio formats
KEEP_S = 3600  # recordings are deleted after an hour, and when the app closes
ASSETS = Path(__file__).parent.parent / "assets"

NOTHING = "Nothing was recorded; press Record, speak, then press Stop, or choose a file."
TOO_SHORT = "That was too short to hold a word; keep recording until you have finished speaking."
TOO_LONG = "That is longer than 60 seconds; record one command at a time, or cut the file into pieces."
SILENT = "The recording is silent; check that the microphone is on, not muted, and the one chosen in the browser."
CLIPPED = "The sound is clipped; move away from the microphone or lower its level for a better transcript."
NO_WORDS = "No words were recognised; speak clearly, closer to the microphone, and try again."

Outputs = tuple[str, str]  # the transcript and the note under it, in this order on every path
_turn = Lock()  # one utterance at a time has all of the processor


def hear(
    transcriber: Transcriber, source: AudioSource | None, commands: str | None = "", name: str | None = ANY_WORDS
) -> Outputs:
    """Transcribe a recording; where that cannot be, return no text and a note that says what to do.

    `commands` is the text of a command set and `name` its file's name, by which it is read; without it, any words.
    """
    if source is None:
        return "", note(NOTHING, "warning")
    try:
        waveform_N = load_audio(source)
        remedy = find_fault(waveform_N)
        if remedy:
            return "", note(remedy, "warning")
        listener = listen_for(transcriber, commands or "", name or ANY_WORDS)
        with _turn:
            transcript = listener.transcribe((SAMPLE_RATE_HZ, waveform_N))
    except AudioError as error:
        return "", note(_explain(error, source), "warning")
    except GrammarError as error:
        return "", note(explain(error, str(name)), "warning")
    return transcript.text, describe(transcript, is_clipped(waveform_N))


def find_fault(waveform_N: Waveform) -> str | None:
    """Return the remedy for sound that cannot be transcribed, or None for sound that can."""
    duration_s = len(waveform_N) / SAMPLE_RATE_HZ
    if not duration_s:
        return NOTHING
    if duration_s < MIN_S:
        return TOO_SHORT
    if duration_s > MAX_S:
        return TOO_LONG
    return SILENT if np.abs(waveform_N).max() < SILENCE else None


def is_clipped(waveform_N: Waveform) -> bool:
    """Tell whether the peaks were cut off by a level set too high."""
    return float(np.mean(np.abs(waveform_N) >= CLIPPED_LEVEL)) > CLIPPED_SHARE


def describe(transcript: Transcript, clipped: bool) -> str:
    """Return the note under a transcript: the command, the time taken, and what would have made it better."""
    command = draw(transcript.command) if transcript.command else ""
    time_taken = f"{max(transcript.elapsed_s, 0.01):.2f} s for {transcript.duration_s:.1f} s of sound"
    remedies = [CLIPPED] * clipped + [NO_WORDS] * (not transcript.text and not command)
    return command + note(time_taken, "plain") + "".join(note(remedy, "warning") for remedy in remedies)


def _explain(error: AudioError, source: AudioSource) -> str:
    # The path of a temporary file means nothing to the person who chose it under another name.
    reason = str(error).removeprefix(str(source) + ": ")
    return f"This cannot be transcribed: {reason}."


def build(transcriber: Transcriber, assets: Path = ASSETS, commands: Path | None = None) -> gr.Blocks:
    """Return the page; examples and ready sets are those in `assets`, if there are any."""
    with gr.Blocks(title="speechformer", analytics_enabled=False, delete_cache=(KEEP_S, KEEP_S)) as page:
        gr.HTML(HEADER, elem_id="header")
        panel = add_panel(assets, commands)
        audio = _add_recorder()
        with gr.Row(elem_id="actions"):
            button = gr.Button("Transcribe", variant="primary", size="md", min_width=120, elem_id="transcribe")
            again = gr.Button("Record again", size="md", min_width=120, elem_id="again")
        with gr.Group(elem_id="result"):
            transcript = gr.Textbox(
                label="Transcript",
                placeholder="Your words will appear here.",
                interactive=False,
                buttons=["copy"],
                elem_id="transcript",
            )
            remark = gr.HTML(elem_id="note", js_on_load=ANNOUNCE)
        outputs = [transcript, remark]
        _listen(partial(hear, transcriber), audio, panel, button, outputs, assets)
        again.click(None, None, None, js=RECORD)
    return page


def _listen(
    listen: Callable[..., Outputs],
    audio: gr.Audio,
    panel: Panel,
    button: gr.Button,
    outputs: list[gr.Component],
    assets: Path,
) -> None:
    """Say when there is something to hear, and when the last result is out of date."""
    inputs = [audio, panel.text, panel.name]
    gr.on(
        [audio.stop_recording, audio.upload, button.click],
        listen,
        inputs,
        outputs,
        api_name="transcribe",
        show_progress="minimal",
        show_progress_on=outputs[0],
    )
    outdated = [audio.start_recording, audio.clear, panel.choice.input, panel.file.upload, panel.text.input]
    gr.on(outdated, None, None, outputs, js=EMPTY)
    _add_examples(audio, listen, inputs, outputs, assets)


def _add_recorder() -> gr.Audio:
    # A path, not samples: Gradio would fail on unreadable files before `hear` could say what to do.
    return gr.Audio(
        sources=["microphone", "upload"],
        type="filepath",
        label="Your voice",
        buttons=[],
        waveform_options=WAVEFORM,
        elem_id="audio",
    )


def _add_examples(
    audio: gr.Audio,
    listen: Callable[..., Outputs],
    inputs: list[gr.Component],
    outputs: list[gr.Component],
    assets: Path,
) -> None:
    files = sorted(assets.glob("*.wav"))
    if files:
        examples = gr.Examples(
            [[str(file)] for file in files],
            audio,
            cache_examples=False,
            label="Or try one of these",
            elem_id="examples",
            example_labels=[file.stem.replace("-", " ").replace("_", " ") for file in files],
        )
        examples.load_input_event.then(listen, inputs, outputs, api_visibility="undocumented")


def launch(model: str | None = None, port: int | None = None, commands: Path | None = None) -> None:
    """Load the model, open the page on this computer alone, and serve it until interrupted.

    `commands` is a command file to begin with. Raises GrammarError for one with a mistake, CheckpointError for a
    model that cannot be loaded, SpeechformerError for a port that is taken.
    """
    if commands:
        Grammar.load(commands)
    transcriber = Transcriber.from_pretrained(model)
    warm_up(transcriber)
    page = build(transcriber, commands=commands)
    try:
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            max_file_size=MAX_FILE_SIZE,
            theme=theme(),
            css_paths=Path(__file__).with_name("page.css"),
        )
    except (OSError, OverflowError) as error:
        where = "no port from 7860 on is free" if port is None else f"port {port} cannot be used"
        raise SpeechformerError(f"{where}; choose another with --port") from error
    print(f"speechformer is at {address} (browsers allow the microphone on localhost or https only)", flush=True)
    print("Press Ctrl+C to stop.", flush=True)
    page.block_thread()


def warm_up(transcriber: Transcriber) -> None:
    """Transcribe a second of noise, so that the first click does not pay for what is made once."""
    noise_N = np.random.default_rng(0).normal(scale=0.1, size=SAMPLE_RATE_HZ).astype(np.float32)
    transcriber.transcribe((SAMPLE_RATE_HZ, noise_N))


def theme() -> gr.Theme:
    """Return calm colours and the fonts of the system, so that nothing is fetched."""
    return gr.themes.Default(
        primary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        text_size="lg",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        # The theme's own shades are too pale to read on white (WCAG asks for a contrast of 4.5).
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_400",
    )


HEADER = """
<h1>speechformer</h1>
<p>Say a command and read what was heard. Your voice stays on this computer.</p>
"""

EMPTY = "() => ['', '']"
# Gradio has no event that starts its recorder, so its own buttons are pressed: clear, microphone, record.
RECORD = """() => {
    const press = (what) => document.querySelector(`#audio ${what}`)?.click();
    press(".top-panel button");
    press(".source-selection button:nth-child(2)");
    setTimeout(() => press(".record-button"), 200);
}"""

WAVEFORM = gr.WaveformOptions(
    waveform_color="#64748b", waveform_progress_color="#0d9488", trim_region_color="#0d9488", sample_rate=48_000
)
