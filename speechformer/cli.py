"""The command line: `speechformer transcribe | evaluate | grammar | train | serve | export | info | app`.

Exit status: 0 all done, 1 some inputs failed, 2 the command or its settings are wrong, 3 nothing was done,
130 interrupted. Results go to stdout, progress and errors to stderr. Heavy modules are imported by the command
that needs them, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import io
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from speechformer import __version__
from speechformer.errors import AudioError, OutputError, SpeechformerError
from speechformer.formats import FORMATS, SUBTITLES, Printer, write
from speechformer.interrupts import on_interrupt

if TYPE_CHECKING:
    from speechformer.audio import Waveform
    from speechformer.batch import Done, Input
    from speechformer.error_report import Heard
    from speechformer.transcribe import Engine, Transcriber
    from speechformer.transcript import Transcript
    from speechformer.workers import Loading

Result = TypeVar("Result")
Change = Callable[["Waveform", int], "Waveform"]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
DONE, SOME_FAILED, USAGE, NONE_DONE, INTERRUPTED = 0, 1, 2, 3, 130
SHORT = 32  # so many files need no progress bar
EVERY_S = 10.0  # between lines of progress
_interrupted = threading.Event()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = _parser()
    # argparse takes no positional after an option that stands between: `train CONFIG --run DIR a.b=value`.
    args, extras = parser.parse_known_args(argv)
    if extras and not (args.command is _train and all("=" in extra and extra[0] != "-" for extra in extras)):
        parser.error(f"unrecognized arguments: {' '.join(extras)}")
    if extras:
        args.overrides += extras
    command: Callable[[argparse.Namespace], int] = args.command
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names can be any bytes
    try:
        if args.command is _transcribe:
            with _interruptible():
                return command(args)
        return command(args)
    except SpeechformerError as error:
        _complain(error)
        return USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else closing it fails once more
        return SOME_FAILED
    except OSError as error:
        _complain(f"stdout: {(error.strerror or str(error)).lower()}" if error.filename is None else error)
        return SOME_FAILED
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have SIGTERM do what Ctrl+C does, what is done being reported, and remember that either came."""

    def interrupt(number: int, frame: object) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    _interrupted.clear()
    with on_interrupt(interrupt):
        try:
            yield
        except Exception as error:
            if _interrupted.is_set():  # a compiled module that was being imported makes an ImportError of it
                raise KeyboardInterrupt from error
            raise


def _complain(problem: object) -> None:
    print(f"speechformer: {problem}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="speechformer", description="Spoken commands to text.")
    parser.add_argument("--version", action="version", version=f"speechformer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_transcribe(commands)
    _add_evaluate(commands)
    _add_grammar(commands)
    _add_train(commands)
    _add_serve(commands)
    _add_export(commands)
    info = commands.add_parser("info", help="print versions and the models at hand")
    info.set_defaults(command=_info)
    app = commands.add_parser("app", help="open the app in a browser (needs the extra: speechformer[app])")
    app.add_argument("--port", type=int, help="port on 127.0.0.1 (the first free one from 7860)")
    app.add_argument("--model", help="model folder or name (commands-en)")
    app.add_argument(
        "--commands", type=Path, metavar="FILE", help="command set to begin with (YAML, or a phrase a line)"
    )
    app.set_defaults(command=_app)
    return parser


def _add_decoding(parser: argparse.ArgumentParser, engines: tuple[str, ...] = (), threads: int | None = None) -> None:
    parser.add_argument("--model", help="model folder or name (commands-en)")
    parser.add_argument("--commands", type=Path, metavar="FILE", help="command set: YAML templates, or a phrase a line")
    parser.add_argument(
        "--beam",
        type=_positive,
        help="hypotheses kept while searching freely (8, beside --commands 1, which is greedy; the search inside "
        "--commands has a wide beam of its own, which this can only widen)",
    )
    parser.add_argument(
        "--engine",
        choices=("auto", "onnx", "torch", *engines),
        default="auto",
        help="auto: ONNX Runtime where it can" + "; ray: a Ray cluster, with --jobs actors" * bool(engines),
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")
    parser.add_argument(
        "--precision", choices=("auto", "int8", "bf16", "fp32"), default="auto", help="auto: the fastest there is"
    )
    parser.add_argument("--threads", type=_positive, default=threads, help=f"processor threads ({threads or 'all'})")


def _decibels(text: str) -> tuple[float, ...]:
    try:
        ratios = tuple(float(part) for part in text.split(","))
    except ValueError:
        ratios = (math.nan,)
    if not all(map(math.isfinite, ratios)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of decibels, or several, such as 6,12,18")
    return ratios


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0 and at most 600")
    return value


def _seed(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return int(text)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _port(text: str) -> int | None:
    if text == "none":
        return None
    if not (text.isdecimal() and int(text) < 65_536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number from 0 to 65535, or none")
    return int(text)


def _add_serve(commands: Any) -> None:
    parser = commands.add_parser(
        "serve", help="answer over HTTP, as OpenAI does, and Wyoming (needs the extra: speechformer[serve])"
    )
    _add_decoding(parser, threads=1)  # one command is too little work for two
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--http-port", type=_port, default=8300, metavar="PORT", help="8300; 0 any free one; none")
    parser.add_argument("--wyoming-port", type=_port, default=10300, metavar="PORT", help="10300; 0 any free one; none")
    parser.add_argument(
        "--token", default=os.environ.get("SPEECHFORMER_TOKEN"), help="what HTTP clients must send (SPEECHFORMER_TOKEN)"
    )
    parser.add_argument("--wyoming-open", action="store_true", help="let every machine that reaches --host use Wyoming")
    parser.set_defaults(command=_serve)


def _formats(text: str) -> list[str]:
    forms = text.split(",")
    for form in forms:
        if form not in FORMATS:
            raise argparse.ArgumentTypeError(f"{form!r} is none of {', '.join(FORMATS)}")
    return forms


def _add_transcribe(commands: Any) -> None:
    parser = commands.add_parser("transcribe", help="write what is said in audio files")
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="audio files, folders, patterns, manifests (.jsonl), or - for stdin"
    )
    parser.add_argument("--from-file", type=Path, metavar="LIST", help="read more paths from a file, one a line")
    parser.add_argument("--raw", action="store_true", help="stdin is 16-bit little-endian mono PCM, no WAV")
    parser.add_argument("--rate", type=_positive, default=16_000, metavar="HZ", help="sample rate of --raw (16000)")
    _add_decoding(parser, engines=("ray",))
    parser.add_argument(
        "--format", type=_formats, default=["txt"], metavar="FORMS", help=f"{', '.join(FORMATS)}; txt,srt for both"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--output-dir", type=Path, metavar="DIR", help="write files there, folders mirrored")
    place.add_argument("--beside", action="store_true", help="write files beside the recordings")
    standing = parser.add_mutually_exclusive_group()
    standing.add_argument("--resume", action="store_true", help="leave out what has its files already")
    standing.add_argument("--overwrite", action="store_true", help="write files anew that stand already")
    parser.add_argument("--ref", type=Path, metavar="MANIFEST", help="score against the texts of a manifest, on stderr")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what became of each input, JSON lines")
    parser.add_argument("--jobs", type=_positive, default=1, help="processes, each with a model of its own (1)")
    parser.add_argument("--batch-size", type=_positive, help="recordings that are decoded at once (32)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(command=_transcribe)


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser("evaluate", help="score the model on manifests (JSON lines)")
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    _add_decoding(parser)
    changed = parser.add_mutually_exclusive_group()
    changed.add_argument("--noise", type=Path, metavar="DIR", help="once more with noise from this folder mixed in")
    changed.add_argument(
        "--silence", type=_seconds, metavar="S", help="lay so many seconds of near silence around each recording"
    )
    changed.add_argument(
        "--rooms", type=Path, metavar="DIR", help="in rooms, whose impulse responses are in this folder"
    )
    parser.add_argument("--snr", type=_decibels, default=(6, 12, 18), help="speech over noise, dB (6,12,18)")
    parser.add_argument(
        "--seed", type=_seed, default=0, help="decides which noise or room goes with which recording (0)"
    )
    parser.add_argument(
        "--errors", action="store_true", help="errors by corpus, speaker, length, noise and word (without --commands)"
    )
    parser.add_argument("--worst", type=int, default=5, metavar="N", help="list the N worst files (5)")
    parser.add_argument("--format", choices=("txt", "json"), default="txt")
    parser.set_defaults(command=_evaluate)


def _add_grammar(commands: Any) -> None:
    parser = commands.add_parser("grammar", help="look a command file over")
    parser.add_argument("action", choices=("check",))
    parser.add_argument("file", type=Path, metavar="FILE", help="YAML templates, or a phrase a line")
    parser.add_argument("--model", help="model folder or name (commands-en)")
    parser.add_argument("--pairs", type=_positive, default=10, metavar="N", help="list N pairs that sound alike (10)")
    parser.set_defaults(command=_grammar)


def _add_train(commands: Any) -> None:
    parser = commands.add_parser("train", help="train a model, or go on with a run")
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML settings")
    parser.add_argument("overrides", nargs="*", metavar="a.b=value", help="settings that win over the file")
    parser.add_argument("--run", type=Path, default=Path("runs/latest"), help="folder of the run (runs/latest)")
    parser.set_defaults(command=_train)


def _add_export(commands: Any) -> None:
    parser = commands.add_parser("export", help="write a model for ONNX Runtime, which needs no torch")
    parser.add_argument("--onnx", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--model", help="model folder or name (commands-en)")
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8", help="of the matrices (int8)")
    parser.set_defaults(command=_export)


def _load(args: argparse.Namespace) -> Transcriber:
    return _loading(args).load()


def _loading(args: argparse.Namespace) -> Loading:
    from dataclasses import replace

    from speechformer.transcribe import BESIDE_COMMANDS, FREE
    from speechformer.workers import Loading

    usual = BESIDE_COMMANDS if args.commands else FREE
    decoding = replace(usual, beam=args.beam) if args.beam else usual
    in_json = args.command is _transcribe and {"json", "jsonl"} & set(args.format)
    word_times = args.command is _serve or bool(in_json)
    engine: Engine = "auto" if args.engine == "ray" else args.engine
    return Loading(
        args.model,
        decoding,
        args.device,
        args.commands,
        args.precision,
        word_times,
        engine,
        args.threads,
        getattr(args, "batch_size", None),
    )


def _hear_all(args: argparse.Namespace, paths: Sequence[Path]) -> Iterator[Transcript | AudioError]:
    """Transcribe files here, in several processes, or on a Ray cluster."""
    from dataclasses import replace

    from speechformer import workers

    loading = _loading(args)
    if args.engine == "ray":
        return workers.on_ray(loading, paths, args.jobs)
    if args.jobs == 1 or len(paths) < 2:
        return loading.load().transcribe_files(paths)
    threads = loading.threads or max(1, (os.cpu_count() or 1) // args.jobs)
    return workers.in_processes(replace(loading, threads=threads), paths, args.jobs)


def _transcribe(args: argparse.Namespace) -> int:
    from speechformer import batch

    if "-" in args.paths or args.raw:
        return _transcribe_stdin(args)
    paths = [*args.paths, *(batch.read_list(args.from_file) if args.from_file else ())]
    if "" in paths:
        raise SpeechformerError("an empty path was given; is a variable unset?")
    if not paths:
        raise SpeechformerError("nothing to transcribe; give a file, a folder, or --from-file LIST")
    inputs, problems = batch.find_inputs(paths)
    to_files = args.output_dir is not None or args.beside
    if not to_files and (args.resume or args.overwrite or len(args.format) > 1):
        raise SpeechformerError("--resume, --overwrite and several forms are for files; give --output-dir or --beside")
    outputs = batch.plan_outputs(inputs, args.output_dir, args.format) if to_files else {}
    if args.report and args.report.exists() and not (args.resume or args.overwrite):
        raise SpeechformerError(f"{args.report}: stands already; give --overwrite or another name for the report")
    if args.report and args.report in {*(one.path for one in inputs), args.ref, args.from_file, *map(Path, args.paths)}:
        raise SpeechformerError(f"{args.report}: is read by this run; give another name for the report")
    results = [batch.Done(path, "failed", error=problem) for path, problem in problems.items()]
    for problem in problems.values():
        _complain(problem)
    if args.resume:
        there = dict.fromkeys(one for one in inputs if all(output.exists() for output in outputs[one.path]))
        results += [batch.Done(str(one.path), "skipped", tuple(map(str, outputs[one.path]))) for one in there]
        inputs = [one for one in inputs if one not in there]
    elif not args.overwrite:
        batch.check_outputs(outputs)
    try:
        _transcribe_inputs(args, inputs, outputs, results)
    finally:
        reached = {one.path for one in results}
        results += [batch.Done(str(one.path), "not reached") for one in inputs if str(one.path) not in reached]
        if args.report:
            batch.write_report(args.report, results)
    n_failed = sum(one.status in ("failed", "not reached") for one in results)
    if n_failed and n_failed < len(results):
        _complain(f"{n_failed} of {len(results)} inputs could not be transcribed")
    return DONE if not n_failed else SOME_FAILED if n_failed < len(results) else NONE_DONE


def _transcribe_inputs(
    args: argparse.Namespace, inputs: Sequence[Input], outputs: dict[Path, tuple[Path, ...]], results: list[Done]
) -> None:
    """Transcribe every input, write it where it belongs, and add what became of it to the results."""
    from speechformer.batch import Done, write_file

    alone = len(args.paths) == 1 == len(inputs) and not args.from_file and not Path(args.paths[0]).is_dir()
    if not outputs and args.format[0] in SUBTITLES and not alone:
        raise SpeechformerError(f"{args.format[0]} holds one recording; give --output-dir or --beside for several")
    printer = Printer(sys.stdout, args.format[0], alone)
    said = _references(args.ref) if args.ref else {}
    scored: list[Heard] = []
    transcripts = _hear_all(args, [one.path for one in inputs]) if inputs else iter(())
    try:
        for one, result in zip(inputs, _progress(transcripts, "transcribing", len(inputs), args.quiet), strict=False):
            if _interrupted.is_set():  # where a library called back, which swallows it, and a file seemed unreadable
                raise KeyboardInterrupt
            if isinstance(result, AudioError):
                _complain(result)
                results.append(Done(str(one.path), "failed", error=str(result)))
                continue
            try:
                for output in outputs.get(one.path, ()):
                    if not (args.resume and output.exists()):
                        write_file(output, write(result, output.suffix[1:]))
            except OutputError as error:
                _complain(error)
                results.append(Done(str(one.path), "failed", error=str(error)))
                if getattr(error.__cause__, "errno", None) in FULL:
                    break  # the next one could not be written either
                continue
            if not outputs:
                printer.add(result)
            results.append(Done(str(one.path), "done", tuple(map(str, outputs.get(one.path, ()))), result.duration_s))
            if (text := said.get(one.path.resolve())) is not None:
                from speechformer.error_report import Heard

                scored.append(Heard(text, result.text, result.name, result.duration_s))
    finally:
        if not (args.output_dir or args.beside):
            printer.close()
    if args.ref:
        print(_told_score(scored, n_worst=5), end="", file=sys.stderr)


def _references(manifest: Path) -> dict[Path, str]:
    """Return what is said in each recording that a manifest has a text of."""
    from speechformer.data import read_manifest
    from speechformer.tokenizer import normalise

    rows = (row for row in read_manifest(manifest) if "text" in row)
    return {Path(row["audio_filepath"]).resolve(): normalise(row["text"]) for row in rows}


def _transcribe_stdin(args: argparse.Namespace) -> int:
    import numpy as np

    from speechformer.audio import load_audio

    for_files = (args.from_file, args.output_dir, args.beside, args.report, args.ref, args.resume, args.overwrite)
    if args.paths not in (["-"], []) or any(for_files) or len(args.format) > 1:
        raise SpeechformerError("stdin is one recording, written to stdout in one form; give nothing beside -")
    sound = sys.stdin.buffer.read()
    try:
        samples = np.frombuffer(sound[: len(sound) // 2 * 2], "<i2")
        waveform_N = load_audio((args.rate, samples) if args.raw else sound)
    except AudioError as error:
        _complain(f"stdin: {str(error).partition(': ')[2]}")
        return NONE_DONE
    printer = Printer(sys.stdout, args.format[0], alone=True)
    printer.add(_load(args).transcribe_waveforms([waveform_N], ["-"])[0])
    return DONE


def _progress(results: Iterable[Result], what: str, total: int, quiet: bool = False) -> Iterable[Result]:
    """Show how far it is while many results come in: a bar on a terminal, a line now and then elsewhere."""
    if total <= SHORT or quiet:
        return results
    if not sys.stderr.isatty():
        return _told(results, what, total)
    from rich.console import Console
    from rich.progress import track

    return track(results, what, total, console=Console(stderr=True), transient=True)


def _told(results: Iterable[Result], what: str, total: int) -> Iterator[Result]:
    started = said = time.monotonic()
    for n, result in enumerate(results, 1):
        yield result
        if time.monotonic() - said > EVERY_S:
            said = time.monotonic()
            left = (total - n) * (said - started) / n
            print(f"{what}: {n} of {total}, {n / (said - started):.1f} a second, {left:.0f} s left", file=sys.stderr)


def _evaluate(args: argparse.Namespace) -> int:
    from speechformer.data import read_manifest

    rows = [{"corpus": manifest.stem, **row} for manifest in args.manifests for row in read_manifest(manifest)]
    return _evaluate_commands(args, rows) if args.commands else _evaluate_freely(args, rows)


def _conditions(args: argparse.Namespace) -> Iterator[tuple[float | None, Change | None]]:
    """Yield the recordings as they are, in silence or in rooms, then each ratio of speech to noise with its mixer."""
    from speechformer.batch import AUDIO_SUFFIXES
    from speechformer.trial import Noises, Rooms, surround

    noises = Noises(args.noise, AUDIO_SUFFIXES, args.seed) if args.noise else None
    if args.rooms:
        yield None, Rooms(args.rooms, AUDIO_SUFFIXES, args.seed).hear
    else:
        yield None, partial(surround, silence_s=args.silence) if args.silence else None
    if noises:
        yield from ((snr_db, noises.changer(snr_db)) for snr_db in args.snr)


def _evaluate_freely(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> int:
    from speechformer import error_report
    from speechformer.tokenizer import normalise

    names = ", ".join(map(str, args.manifests))
    said = [row for row in rows if "text" in row]
    if not said:
        raise SpeechformerError(f'{names}: holds no line with a "text" to compare with; give another')
    n_failed = len(rows) - len(said)
    if n_failed:
        _complain(f'{names}: {n_failed} lines have no "text" and are not scored; write one in every line')
    transcriber, utterances = _load(args), []
    for snr_db, change in _conditions(args):
        results = transcriber.transcribe_files([row["audio_filepath"] for row in said], change)
        for row, result in zip(said, _progress(results, "evaluating", len(said)), strict=True):
            if isinstance(result, AudioError):
                n_failed += snr_db is None
                _complain(result) if snr_db is None else None
                continue
            utterances.append(
                error_report.Heard(
                    normalise(row["text"]), result.text, result.name, result.duration_s,
                    str(row.get("speaker", "")), str(row["corpus"]), snr_db,
                )
            )  # fmt: skip
    if not utterances:
        return NONE_DONE
    _print_evaluation(args, utterances)
    return SOME_FAILED if n_failed else DONE


def _print_evaluation(args: argparse.Namespace, utterances: Sequence[Heard]) -> None:
    from speechformer import error_report
    from speechformer.metrics import count_errors, score

    conditions: dict[str, list[Heard]] = {}
    for one in utterances:
        conditions.setdefault(one.noise, []).append(one)
    figures = {
        name: vars(score([one.said for one in part], [one.heard for one in part]))
        | {"audio_s": round(sum(one.duration_s for one in part), 1)}
        for name, part in conditions.items()
    }
    recorded = conditions["as recorded"]
    worst = sorted(recorded, key=lambda one: -count_errors(one.said, one.heard).word_errors)[: args.worst]
    tables = error_report.report(utterances) if args.errors else {}
    if args.format == "json":
        import json

        files = [{"audio_filepath": one.name, "text": one.said, "heard": one.heard} for one in worst]
        result = {**figures.pop("as recorded"), "worst": files}
        result |= {"noise": figures} if figures else {}
        print(json.dumps(result | ({"errors": tables} if tables else {}), indent=2, ensure_ascii=False))
        return
    for name, part in conditions.items():
        print(f"\n{name}\n" if len(figures) > 1 else "", end="")
        print(_told_score(part, args.worst if name == "as recorded" else 0), end="")
    print(error_report.write(tables) if tables else "", end="")


def _told_score(utterances: Sequence[Heard], n_worst: int) -> str:
    """Return what score the utterances have, and those with the most errors."""
    from speechformer.error_report import aligned
    from speechformer.metrics import count_errors, score

    if not utterances:
        return "nothing to score: no recording has a text\n"
    figure = score([one.said for one in utterances], [one.heard for one in utterances])
    audio_s = round(sum(one.duration_s for one in utterances), 1)
    lines = [
        f"utterances         {figure.n_utterances} ({figure.n_words} words, {audio_s} s)",
        f"WER                {100 * figure.wer:.1f} %  "
        f"(95 % interval {100 * figure.wer_low:.1f}–{100 * figure.wer_high:.1f})",
        f"CER                {100 * figure.cer:.1f} %",
        f"sentences right    {100 * figure.sentence_accuracy:.1f} %",
    ]
    for one in sorted(utterances, key=lambda one: -count_errors(one.said, one.heard).word_errors)[:n_worst]:
        said, heard = aligned(one.said, one.heard)
        lines.append(f"\n{one.name}\n  said:  {said}\n  heard: {heard}")
    return "\n".join(lines) + "\n"


def _evaluate_commands(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> int:
    from speechformer import trial

    if args.errors:
        raise SpeechformerError("--errors takes transcripts apart, not answers to commands; leave out --commands")
    transcriber = _load(args)
    n_failed, results = 0, {}
    for snr_db, change in _conditions(args):
        outcomes = []
        for result in _progress(trial.hold(transcriber, rows, change, snr_db), "evaluating", len(rows)):
            if isinstance(result, trial.Outcome):
                outcomes.append(result)
            elif snr_db is None:
                _complain(result)
                n_failed += 1
        if not outcomes:
            return NONE_DONE
        results["clean" if snr_db is None else f"{snr_db:g} dB"] = trial.figures(outcomes)
    print(trial.write(results, args.format), end="")
    return SOME_FAILED if n_failed else DONE


def _grammar(args: argparse.Namespace) -> int:
    from speechformer.grammar import Grammar
    from speechformer.grammar_check import check_grammar
    from speechformer.model_folder import find_model
    from speechformer.tokenizer import Tokenizer

    grammar = Grammar.load(args.file)
    print(check_grammar(grammar, Tokenizer.load(find_model(args.model) / "tokenizer.model"), args.pairs))
    return DONE


def _train(args: argparse.Namespace) -> int:
    from speechformer.config import load_config
    from speechformer.training import TrainConfig, train

    print(train(load_config(TrainConfig, args.config, args.overrides), args.run))
    return DONE


def _export(args: argparse.Namespace) -> int:
    try:
        from speechformer.onnx_export import export
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxscript", "sympy"):
            raise
        raise SpeechformerError(
            "exporting needs onnx and onnxscript; install them with: pip install 'speechformer[export]'"
        ) from error
    from speechformer.checkpoint import load_checkpoint
    from speechformer.model_folder import find_model

    export(load_checkpoint(find_model(args.model)), args.onnx, args.precision)
    print(args.onnx)
    return DONE


def _info(args: argparse.Namespace) -> int:
    import torch

    from speechformer.checkpoint import load_checkpoint
    from speechformer.model_folder import PRETRAINED

    print(f"speechformer {__version__}\ntorch {torch.__version__}, {torch.get_num_threads()} threads, ", end="")
    print(f"cuda {'yes' if torch.cuda.is_available() else 'no'}")
    for folder in sorted(path for path in PRETRAINED.glob("*") if path.is_dir()):
        checkpoint = load_checkpoint(folder)
        n_bytes = sum(part.stat().st_size for part in folder.iterdir())
        print(
            f"model {folder.name}: {checkpoint.model.n_parameters() / 1e6:.1f} M parameters, "
            f"{len(checkpoint.tokenizer)} tokens, {n_bytes / 1e6:.1f} MB, {folder}"
        )
    return DONE


def _serve(args: argparse.Namespace) -> int:
    try:
        from speechformer.serve import check_exposure, serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "python_multipart", "starlette", "uvicorn", "wyoming"):
            raise
        raise SpeechformerError(
            "the server needs fastapi, uvicorn and wyoming; install them with: pip install 'speechformer[serve]'"
        ) from error
    from speechformer.model_folder import find_model

    http, wyoming = args.http_port is not None, args.wyoming_port is not None
    if not (http or wyoming):
        raise SpeechformerError("both protocols are left out; give one of them a port")
    check_exposure(args.host, http, wyoming, args.token, args.wyoming_open)  # before the model is loaded
    name = find_model(args.model).name
    serve(_load(args), name, args.host, args.http_port, args.wyoming_port, args.token, args.wyoming_open)
    return DONE


def _app(args: argparse.Namespace) -> int:
    try:
        from app.page import launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise SpeechformerError("the app needs gradio; install it with: pip install 'speechformer[app]'") from error
    launch(model=args.model, port=args.port, commands=args.commands)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
