"""The same recordings through the same grammars: speechformer against PocketSphinx, in one run, one thread each.

    pip install pocketsphinx
    python tests/benchmarks/against_pocketsphinx.py data/commands/test --n 120

PocketSphinx reads the grammar as JSGF and uses the English model that it ships. Words that its dictionary lacks
are given to it. Both get recordings that are already decoded. Ours are taken one by one, as a person speaks, and
once more in batches, as `speechformer transcribe` takes files.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hassil.expression import Alternative, Expression, Group, ListReference, RuleReference, TextChunk
from pocketsphinx import Decoder

from speechformer import Grammar, Transcriber
from speechformer.audio import SAMPLE_RATE_HZ, Waveform, load_audio
from speechformer.command_file import Template
from speechformer.data import read_manifest
from speechformer.metrics import score
from speechformer.tokenizer import normalise
from speechformer.transcript import Transcript

ROOT = Path(__file__).parents[2]
GRAMMARS = {
    "speech_commands": ROOT / "recipes/commands/grammars/speech_commands.txt",
    "fsdd": ROOT / "assets/commands/digits.yaml",
    "an4": ROOT / "recipes/commands/grammars/an4.yaml",
    "grid": ROOT / "recipes/commands/grammars/grid.yaml",
}
PHONES = {"rubout": "R AH B AW T"}


class Jsgf:
    """Writes a grammar as JSGF, lists and rules as rules of its own."""

    def __init__(self, grammar: Grammar) -> None:
        self.rules: dict[str, str] = {}
        sentences = [self.write(template.expression, template) for template in grammar.file.templates]
        rules = "".join(f"<{name}> = {body};\n" for name, body in self.rules.items())
        self.text = f"#JSGF V1.0;\ngrammar commands;\n{rules}public <sentence> = {' | '.join(sentences)};\n"

    def write(self, expression: Expression, at: Template) -> str:
        if isinstance(expression, TextChunk):
            return normalise(expression.original_text)
        if isinstance(expression, ListReference):
            values = at.scope.lists[expression.list_name]
            body = (self.repeated(template) or self.write(template.expression, template) for template, _ in values)
            return self.rule(f"list_{expression.list_name}", " | ".join(body))
        if isinstance(expression, RuleReference):
            rule = at.scope.rules[expression.rule_name]
            return self.rule(f"rule_{expression.rule_name}", self.write(rule.expression, rule))
        assert isinstance(expression, Group)
        parts = [part for part in (self.write(item, at) for item in expression.items) if part]
        if isinstance(expression, Alternative):
            return f"[{' | '.join(parts)}]" if expression.is_optional else f"({' | '.join(parts)})"
        return " ".join(parts)

    def repeated(self, template: Template) -> str:
        """Write `<a> [<a> [<a> …]]` as `<a>+`: nested this deep, the optionals take PocketSphinx minutes a word."""
        match = re.fullmatch(r"<(\w+)>( \[<\1>)+\]+", template.text)
        if not match:
            return ""
        rule = template.scope.rules[match[1]]
        return self.rule(f"rule_{match[1]}", self.write(rule.expression, rule)) + "+"

    def rule(self, name: str, body: str) -> str:
        self.rules[name] = body
        return f"<{name}>"


def pocketsphinx(grammar: Grammar) -> Decoder:
    """Return a decoder with the grammar."""
    decoder = Decoder(samprate=SAMPLE_RATE_HZ, loglevel="FATAL", lm=None)
    for word, phones in PHONES.items():
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, phones, True)
    decoder.add_jsgf_string("commands", Jsgf(grammar).text)
    decoder.activate_search("commands")
    return decoder


def hear(decoder: Decoder, waveform_N: Waveform) -> str:
    """Decode one recording."""
    decoder.start_utt()
    decoder.process_raw((waveform_N * 32767).clip(-32768, 32767).astype(np.int16).tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


def best(transcript: Transcript) -> str:
    """Return the most probable command, refused or not."""
    command = transcript.command
    return command.alternatives[0].text if command and command.alternatives else ""


def compare(corpus: str, folder: Path, n: int, transcriber: Transcriber) -> Iterator[dict[str, Any]]:
    """Yield what each program made of `n` recordings of a corpus."""
    grammar = Grammar.load(GRAMMARS[corpus])
    rows = [row for row in read_manifest(folder / f"{corpus}.jsonl") if grammar.interpret(row["text"])]
    order = np.random.default_rng(0).permutation(len(rows))[:n]
    said = [normalise(rows[int(i)]["text"]) for i in order]
    waveforms = [load_audio(rows[int(i)]["audio_filepath"]) for i in order]
    decoder, ours = pocketsphinx(grammar), transcriber.with_commands(grammar)
    contenders: dict[str, Callable[[], list[str]]] = {
        "pocketsphinx": lambda: [hear(decoder, waveform_N) for waveform_N in waveforms],
        "speechformer": lambda: [best(ours.transcribe((SAMPLE_RATE_HZ, waveform_N))) for waveform_N in waveforms],
        "speechformer in batches": lambda: list(map(best, ours.transcribe_waveforms(waveforms, said))),
    }
    ours.transcribe_waveforms(waveforms[:4], said[:4])  # what is made once is made before
    for name, contender in contenders.items():
        started = time.perf_counter()
        result = score(said, contender())
        took = time.perf_counter() - started
        yield {
            "corpus": corpus, "program": name, "n": len(said), "wer": round(100 * result.wer, 1),
            "sentences_right": round(100 * result.sentence_accuracy, 1),
            "times_real_time": round(sum(map(len, waveforms)) / SAMPLE_RATE_HZ / took, 1),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="manifests, one a corpus")
    parser.add_argument("--n", type=int, default=120, help="recordings a corpus, drawn by a fixed seed")
    parser.add_argument("--model", help="model folder or name")
    parser.add_argument("--engine", choices=("auto", "onnx", "torch"), default="auto")
    parser.add_argument("--corpora", nargs="+", default=list(GRAMMARS))
    args = parser.parse_args()
    transcriber = Transcriber.from_pretrained(args.model, engine=args.engine, threads=1)
    for corpus in args.corpora:
        for result in compare(corpus, args.folder, args.n, transcriber):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
