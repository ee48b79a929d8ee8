"""Measure a model and write its figures where they are told: the README, this recipe's, and the model card.

    python recipes/commands/report.py measure figures --data data/commands --noise DIR/noise/noisekun --peers
    python recipes/commands/report.py write figures

`measure` keeps what `speechformer evaluate --format json` prints, one file a command in the folder `figures`, and goes
on where it was stopped; `write` replaces the blocks between `<!-- figures: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from calibrate import READ, READY, ROOT, TRIALS, beginnings, templates
from rich.progress import track
from script import at_least, parser_of, status_of
from texts import DIGITS

from speechformer.data import Row, read_manifest, write_manifest
from speechformer.files import replace_file

CARD = Path("speechformer/pretrained/commands-en/MODEL_CARD.md")
RECIPE = Path("recipes/commands/README.md")
PEOPLE = {
    "speech_commands": "single command words",
    "an4": "spelling, numbers, control words",
    "fsdd": "digits, cut tight, 8 kHz",
    "speechocean762": "sentences, Mandarin accents, half children",
    "grid": "command grammar, its speaker never trained on",
    "kathleen": "sentences",
    "ljspeech": "prose",
    "common_voice": "sentences",
    "moonshine_alnum": "single letters and digits",
}
PARTS = {"dev": [name for name in PEOPLE if name != "moonshine_alnum"], "test": list(PEOPLE)}
GRAMMARS = {
    "speech_commands": "speech_commands, 30 words",
    "fsdd": "digit strings (fsdd, and speechocean762's)",
    "an4": "an4",
    "grid": "grid",
    "read": "sentences read aloud",
    "endings": "sentences that can end early",
}
DIGIT_SET = "digits.jsonl"
TITLES = {name: title.partition(" (")[0] for name, title in GRAMMARS.items()} | {
    "digits": "digits, and strings of them, by all test speakers"
}
# Made of half of the sentences of READ's test speech: with slots, and with each of their beginnings a command as well.
SETS = {"read": "read.yaml", "endings": "endings.txt"}
QUIET = (TRIALS["speech_commands"], READY / "home.yaml", READY / "computer.yaml")
SNRS_DB = (18, 12, 6)
DRAWN_DB, DRAWS = 12, range(5)
SILENCE_S = 1.5
PROGRAMS = {
    "pocketsphinx": "PocketSphinx",
    "speechformer": "speechformer, one by one",
    "speechformer in batches": "speechformer, in batches",
}

Figures = dict[str, Any]


def commands(args: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield every command and the name of the file that keeps what it prints."""
    python, test = sys.executable, args.data / "test"
    model = ["--model", args.model] if args.model else []
    evaluate = [python, "-m", "speechformer", "evaluate", "--format", "json", "--worst", "0", "--threads", "1", *model]
    yield "calibration", [python, str(ROOT / "recipes/commands/calibrate.py"), args.model or "commands-en",
                          "--data", str(args.data)]  # fmt: skip
    for split in ("dev", "test"):
        for manifest in sorted((args.data / split).glob("[!_.]*.jsonl")):
            yield f"{split} {manifest.stem}", [*evaluate, str(manifest)]
    for name in PEOPLE:
        yield f"silence {name}", [*evaluate, "--silence", str(SILENCE_S), str(test / f"{name}.jsonl")]
        yield f"room {name}", [*evaluate, "--rooms", str(args.data / "rooms_test"), str(test / f"{name}.jsonl")]
    read, ratios = [str(test / f"{name}.jsonl") for name in READ], ",".join(map(str, SNRS_DB))
    for name in GRAMMARS:
        grammar, own = (
            (TRIALS[name], [str(test / f"{name}.jsonl")]) if name in TRIALS else (args.figures / SETS[name], [])
        )
        inside = [*evaluate, "--commands", str(grammar)]
        yield f"commands {name}", [*inside, *own, *read]
        yield f"noise {name}", [*inside, *(own or read), "--noise", str(args.noise), "--snr", ratios]
        if own:
            yield from drawn(name, [*inside, *own, "--noise", str(args.noise)])
            yield f"room inside {name}", [*inside, *own, "--rooms", str(args.data / "rooms_test")]
    digits = [*evaluate, "--commands", str(TRIALS["fsdd"]), str(args.figures / DIGIT_SET)]
    yield "noise digits", [*digits, "--noise", str(args.noise), "--snr", ratios]
    yield from drawn("digits", [*digits, "--noise", str(args.noise)])
    sounds = [str(args.noise.parent / name / "manifest.jsonl") for name in (args.noise.name, "esc10")]
    for grammar in QUIET:
        yield f"quiet {grammar.stem}", [*evaluate, "--commands", str(grammar), *sounds]
    if args.peers:
        yield "peers", [python, str(ROOT / "tests/benchmarks/against_pocketsphinx.py"), str(test), *model,
                        "--n", "120", "--corpora", "grid", "speech_commands", "fsdd"]  # fmt: skip


def drawn(name: str, command: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the same evaluation in several draws of the noise."""
    for seed in DRAWS:
        yield f"draw {seed} {name}", [*command, "--snr", str(DRAWN_DB), "--seed", str(seed)]


def measure(args: argparse.Namespace) -> int:
    """Run what has not been run and keep what it prints: calibration first, peers, which are timed, last and alone."""
    args.figures.mkdir(parents=True, exist_ok=True)
    (args.figures / SETS["read"]).write_text(read_set(args.data / "test"), "utf-8")
    (args.figures / SETS["endings"]).write_text(beginnings(read_sentences(args.data / "test")[::2]), "utf-8")
    write_manifest(args.figures / DIGIT_SET, digit_set(args.data / "test"))
    left = {name: command for name, command in commands(args) if not (args.figures / f"{name}.out").exists()}
    together = [name for name in left if name not in ("calibration", "peers")]
    for names in (["calibration"], together, ["peers"]):
        names = [name for name in names if name in left]
        with ThreadPoolExecutor(args.jobs) as pool:
            statuses = pool.map(lambda name: run(args.figures / f"{name}.out", left[name]), names)
            progress = track(statuses, "measuring", len(names))
            failed = [name for name, status in zip(names, progress, strict=True) if status]
        if failed:
            print(f"report: failed: {', '.join(failed)}; see above, and start again to go on", file=sys.stderr)
            return 1
    return 0


def read_set(test: Path) -> str:
    """Make a command file of every second sentence that was read aloud, always the same one."""
    sentences = read_sentences(test)
    words = sorted({word for sentence in sentences for word in sentence.split()})
    return templates(sentences[::2], words, np.random.default_rng(0))


def read_sentences(test: Path) -> list[str]:
    """Return what was read aloud by test speakers, each sentence once."""
    return sorted({row["text"] for name in READ for row in read_manifest(test / f"{name}.jsonl")})


def digit_set(test: Path) -> list[Row]:
    """Take what is digits and nothing else from every corpus: fsdd's test speaker is one person, these are many."""
    rows = [row for name in PEOPLE for row in read_manifest(test / f"{name}.jsonl")]
    return [row for row in rows if row["text"] and set(row["text"].split()) <= set(DIGITS)]


def run(path: Path, command: Sequence[str]) -> int:
    """Run a command, keep what it prints if it succeeds, and return its status."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        replace_file(path, lambda unfinished: unfinished.write_text(done.stdout, "utf-8"))
    return done.returncode


class Report:
    """Makes the blocks of what was measured."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blocks: dict[str, Callable[[], list[str]]] = {
            "people": self.people, "command sets": self.command_sets, "dev": lambda: self.split("dev"),
            "test": lambda: self.split("test"), "calibration": self.calibration, "trials": self.trials,
            "risk": self.risk, "risk graph": self.risk_graph, "noise": self.noise, "quiet": self.quiet,
            "draws": self.draws, "peers": self.peers, "believed": self.believed, "silence": self.silence,
            "rooms": self.rooms,
        }  # fmt: skip

    def read(self, name: str) -> Any:
        """Return what a command printed."""
        return json.loads((self.folder / f"{name}.out").read_text("utf-8"))

    def inside(self) -> dict[str, Figures]:
        """Return what each grammar made of its corpus and of other speech."""
        return {name: self.read(f"commands {name}")["clean"] for name in GRAMMARS}

    def people(self) -> list[str]:
        rows = []
        for name, what in PEOPLE.items():
            rates = [self.read(f"{split} {name}") if name in PARTS[split] else None for split in ("dev", "test")]
            cells = (
                f"{percent(one['wer'])} ({interval(one['wer_low'], one['wer_high'])})" if one else "" for one in rates
            )
            rows.append((f"{name} ({what})", *cells))
        return table(("real people", "dev WER % (95 %)", "test WER % (95 %)"), rows)

    def command_sets(self) -> list[str]:
        names = ("the 30 words of speech_commands", "digit strings (fsdd)",
                 "an4: spelling, numbers, dates, control words", "grid sentences",
                 "sentences read aloud, each with two slots",
                 "sentences read aloud, each of which can end early")  # fmt: skip
        rows = [
            (name, percent(one["accuracy"]), percent(one["other_speech_refused"]))
            for name, one in zip(names, self.inside().values(), strict=True)
        ]
        return table(("command set", "right and accepted, %", "speech outside it that is refused, %"), rows)

    def split(self, split: str) -> list[str]:
        found = [(name, self.read(f"{split} {name}")) for name in PARTS[split]]
        rows = [
            (name, one["n_utterances"], percent(one["wer"]), interval(one["wer_low"], one["wer_high"]),
             percent(one["cer"]), percent(one["sentence_accuracy"]))
            for name, one in found
        ]  # fmt: skip
        lines = table(("corpus", "utterances", "WER %", "95 % interval", "CER %", "sentences right %"), rows)
        if split == "dev":
            mean = sum(one["wer"] for _, one in found) / len(found)
            synthetic = percent(self.read("dev synthetic")["wer"])
            lines += [
                "",
                f"Mean of these: {percent(mean)} %. Synthetic dev speech, for comparison only: {synthetic} %.",
            ]
        return lines

    def printed_calibration(self) -> tuple[dict[str, tuple[str, ...]], str]:
        text = (self.folder / "calibration.out").read_text("utf-8")
        heads = re.findall(r"^(\w+): (\d+) samples, ([\d.]+) true, .* ([\d.]+)$", text, re.MULTILINE)
        groups = re.findall(r"^([\w ]+): (\d+), refused ([\d.]+)$", text, re.MULTILINE)
        found = {row[0]: tuple(row[1:]) for row in (*heads, *groups)}
        return found, re.findall(r"confidence of ([\d.]+)", text)[0]

    def calibration(self) -> list[str]:
        found, least = self.printed_calibration()
        among = {"speech": "speech", "command": "command, of what is speech", "right": "right, of what is a command"}
        heads = [(what, f"{int(found[name][0]):,}", f"{100 * float(found[name][1]):.0f} %", found[name][2])
                 for name, what in among.items()]  # fmt: skip
        groups = [
            (name, f"{int(row[0]):,}", f"{percent(float(row[1]))} %") for name, row in found.items() if len(row) == 2
        ]
        return [
            *table(("head", "recordings", "true", "calibration error"), heads), "",
            *table((f"accepted from a confidence of {least} on", "recordings", "refused"), groups),
        ]  # fmt: skip

    def believed(self) -> list[str]:
        found, least = self.printed_calibration()
        errors = ", ".join(f"{found[name][2]} ({name})" for name in ("speech", "command", "right"))
        refused = ", ".join(f"{name} {percent(float(row[1]))} %" for name, row in found.items() if len(row) == 2)
        tested = ", ".join(f"{one['calibration_error']:.3f} ({name})" for name, one in self.inside().items())
        return [
            f"Fitted on {int(found['speech'][0]):,} recordings; with answers accepted from a confidence of {least} on,",
            f"refused are of those: {refused}.",
            f"Calibration error on speakers that a regression was not fitted on: {errors}.",
            f"On test speakers, each corpus in its own grammar: {tested}.",
        ]

    def trials(self) -> list[str]:
        rows = [
            (GRAMMARS[name], f"{one['commands_n']:,}",
             f"{percent(one['accuracy'])} ({interval(*one['accuracy_interval'])})",
             percent(one["accuracy_without_refusal"]), percent(one["word_error_rate"]), percent(one["right_refused"]),
             percent(one["wrong_accepted"]), f"{percent(one['other_speech_refused'])} ({one['other_speech_n']})",
             f"{one['calibration_error']:.3f}")
            for name, one in self.inside().items()
        ]  # fmt: skip
        head = (
            "grammar", "commands", "right and accepted, % (95 %)", "right, were none refused, %", "word errors, %",
            "right ones refused, %", "wrong and accepted, %", "other speech refused, % (of)", "calibration error",
        )  # fmt: skip
        parts = list(self.inside().values())
        outright = ("no_speech", "not_a_command")
        right, others = (
            " / ".join(percent(sum(one[key].get(status, 0.0) for status in outright)) for one in parts)
            for key in ("right_refused_as", "other_speech_refused_as")
        )
        return [
            *table(head, rows), "",
            'Refused counts `unsure` ("did you mean …?", with the best ones named) with the rest. Without it,',
            f"the right ones refused are {right} %, and of the other speech",
            f"{others} % are called no command or no speech.",
        ]  # fmt: skip

    def risk(self) -> list[str]:
        parts = self.inside()
        rows = [
            (f"{share} %", *(percent(one["risk_at_coverage"][str(share)]) for one in parts.values()))
            for share in (50, 80, 90, 95, 100)
        ]
        return table(("of the answers", *(GRAMMARS[name] for name in parts)), rows)

    def risk_graph(self) -> list[str]:
        risks = [[percent(risk) for risk in one["risk_at_coverage"].values()] for one in self.inside().values()]
        top = int(max(float(risk) for line in risks for risk in line)) + 1
        return [
            "```mermaid", "xychart-beta", f'    title "Risk and coverage: {", ".join(GRAMMARS)}"',
            '    x-axis "answered, %" [50, 80, 90, 95, 100]', f'    y-axis "wrong, %" 0 --> {top}',
            *(f"    line [{', '.join(line)}]" for line in risks), "```",
        ]  # fmt: skip

    def noise(self) -> list[str]:
        conditions = ("clean", *(f"{snr} dB" for snr in SNRS_DB))
        found = {name: self.read(f"noise {name}") for name in TITLES}
        rows = [
            (TITLES[name],
             *(f"{percent(one[where]['accuracy'])} · {percent(one[where]['word_error_rate'])}" for where in conditions))
            for name, one in found.items()
        ]  # fmt: skip
        return table(("grammar", *conditions), rows)

    def draws(self) -> list[str]:
        """Count words that are wrong in several draws: which noise falls on which word decides a handful of them."""
        rows, together = [], np.zeros(2 + len(DRAWS))
        for name in (*TRIALS, "digits"):
            found = [self.read(f"draw {seed} {name}") for seed in DRAWS]
            n_words, rates = found[0]["clean"]["words_n"], [one[f"{DRAWN_DB} dB"]["word_error_rate"] for one in found]
            counts = np.rint(np.array([1.0, found[0]["clean"]["word_error_rate"], *rates]) * n_words)
            if name in TRIALS:
                together += counts
            rows.append((TITLES[name], *_told(counts)))
        rows.insert(len(TRIALS), ("these four together", *_told(together)))
        return table(("grammar", "words", "wrong", f"wrong at {DRAWN_DB} dB", "in each draw", "times as many"), rows)

    def beside(self, condition: str) -> list[tuple[str, ...]]:
        """Return everybody's words wrong as recorded and under a condition."""
        return [(name, *(percent(self.read(f"{one} {name}")["wer"]) for one in ("test", condition))) for name in PEOPLE]

    def rooms(self) -> list[str]:
        rows = self.beside("room")
        for name in TRIALS:
            rates = (self.read(file)["clean"]["word_error_rate"] for file in (f"noise {name}", f"room inside {name}"))
            rows.append((f"inside a command set: {GRAMMARS[name]}", *map(percent, rates)))
        return table(("words wrong, %", "as recorded", "in a simulated room"), rows)

    def silence(self) -> list[str]:
        return table(("corpus", "as recorded", f"{SILENCE_S} s of silence before and after"), self.beside("silence"))

    def quiet(self) -> list[str]:
        rows = []
        for grammar in QUIET:
            one = self.read(f"quiet {grammar.stem}")["clean"]
            accepts = one["no_speech_false_accepts_per_hour"] * one["no_speech_hours"]
            rows.append((f"`{grammar.name}`", one["no_speech_n"], f"{one['no_speech_hours']:.2f}", round(accepts),
                         one["no_speech_words"]))  # fmt: skip
        return table(("command set", "recordings", "hours", "false accepts", "words written"), rows)

    def peers(self) -> list[str]:
        lines = (self.folder / "peers.out").read_text("utf-8").splitlines()
        rows, last = [], ""
        for one in map(json.loads, lines):
            name = TITLES[one["corpus"]] if one["corpus"] != last else ""
            rows.append(
                (name, PROGRAMS[one["program"]], one["wer"], one["sentences_right"], f"{one['times_real_time']:.0f}")
            )
            last = one["corpus"]
        return table(("grammar", "", "word errors, %", "sentences right, %", "times real time"), rows)

    def fill(self, text: str) -> str:
        """Return a page with its blocks replaced; those whose figures were not measured stay."""

        def made(match: re.Match[str]) -> str:
            try:
                lines = self.blocks[match[2]]()
            except FileNotFoundError as error:
                print(f"report: {match[2]} stays: {error.filename} was not measured", file=sys.stderr)
                return match[0]
            return "\n".join((match[1], *lines, "<!-- end -->"))

        return re.sub(r"(<!-- figures: ([\w ]+) -->)\n.*?<!-- end -->", made, text, flags=re.DOTALL)


def write(args: argparse.Namespace) -> int:
    """Replace the blocks of every page."""
    report = Report(args.figures)
    for page in (Path("README.md"), RECIPE, CARD):
        text = report.fill((ROOT / page).read_text("utf-8"))
        replace_file(ROOT / page, lambda path, new=text: path.write_text(new, "utf-8"))
    return 0


def _told(counts: Sequence[float]) -> tuple[str, ...]:
    """Tell words, those that are wrong, and those that are in each draw of noise."""
    n_words, wrong, *in_noise = counts
    mean, each = np.mean(in_noise), ", ".join(f"{count:.0f}" for count in in_noise)
    return f"{n_words:,.0f}", f"{wrong:.0f}", f"{mean:.1f}", each, f"{mean / max(1, wrong):.2f}"


def percent(share: float) -> str:
    """Write a share in percent."""
    return f"{100 * share:.1f}"


def interval(low: float, high: float) -> str:
    """Write the ends of an interval of shares in percent."""
    return f"{percent(low)}–{percent(high)}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Write a Markdown table."""

    def row(cells: Sequence[object]) -> str:
        return f"| {' | '.join(map(str, cells))} |"

    return [row(head), "|" + "---|" * len(head), *map(row, rows)]


def main() -> int:
    """Read the command line."""
    parser = parser_of(__doc__)
    steps = parser.add_subparsers(required=True)
    step = steps.add_parser("measure", help="run every evaluation")
    step.add_argument("figures", type=Path, help="folder to keep what they print in")
    step.add_argument("--data", type=Path, required=True, help="what prepare.py wrote")
    step.add_argument("--noise", type=Path, required=True, help="folder of noise that was never trained on")
    step.add_argument("--model", help="model folder or name (commands-en)")
    step.add_argument("--jobs", type=at_least(1), default=1, help="evaluations at a time (1)")
    step.add_argument("--peers", action="store_true", help="PocketSphinx too; it must be installed")
    step.set_defaults(step=measure)
    step = steps.add_parser("write", help="write the figures into the pages")
    step.add_argument("figures", type=Path, help="what measure wrote")
    step.set_defaults(step=write)
    args = parser.parse_args()
    return status_of("report", lambda: args.step(args))


if __name__ == "__main__":
    sys.exit(main())
