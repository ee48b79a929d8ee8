"""How fast many 3 s commands become text, beside what the processor could do and beside other programs, in one run.

    python tests/benchmarks/batch_speed.py --threads 1

The limit is the number of multiply-adds of the network for such a command, over the rate at which this machine
multiplies large matrices in the precision that each is computed in, plus the measured time of the features. (In the
model of eight bits the first map, the vocabulary's and the products of attention are float32.) PocketSphinx decodes as
it does by itself (its n-gram model); the architecture of whisper-tiny has random weights, greedily writes as many
tokens as ours, and is computed by transformers. Needs pocketsphinx and transformers from PyPI for these.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from speechformer import Transcriber
from speechformer.audio import SAMPLE_RATE_HZ, Waveform, load_audio
from speechformer.shape import ModelConfig
from speechformer.transcribe import FREE

ASSETS = sorted((Path(__file__).parents[2] / "assets").glob("*.wav"))
SECONDS = 3
SIZE = 1024  # of the matrices whose product is timed
ROUNDS = 6


def multiply_adds(shape: ModelConfig, n_frames: int, n_steps: int, beam: int) -> tuple[float, float]:
    """Count the multiply-adds of an utterance, decoder steps for every hypothesis: the layers' maps, all the others."""
    width, n_positions = shape.d_model, shape.n_positions(n_frames)
    block = 4 * width**2 + 2 * width * shape.d_ff
    cross = 2 * width**2
    maps = n_positions * (shape.n_encoder_layers * block + shape.n_decoder_layers * cross)
    maps += n_steps * beam * shape.n_decoder_layers * (block + cross)
    position = shape.window_frames * shape.n_features * width + width * shape.vocab_size
    others = n_positions * (position + shape.n_encoder_layers * 2 * width * n_positions)
    others += (
        n_steps * beam * (shape.n_decoder_layers * 2 * width * (n_positions + n_steps / 2) + width * shape.vocab_size)
    )
    return maps, others


def best_of(run: Callable[[], object], n: int = 5) -> float:
    """Return the least time of several runs, in seconds."""
    run()
    times = []
    for _ in range(n):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def rates(threads: int) -> dict[str, float]:
    """Measure multiply-adds a second of large matrix products, by precision."""
    torch.set_num_threads(threads)
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(SIZE, SIZE, dtype=dtype) for _ in range(2))
        found[name] = SIZE**3 / best_of(lambda a=a, b=b: a @ b, 20)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [SIZE, SIZE])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, [SIZE, SIZE])],
        [onnx.numpy_helper.from_array(np.random.default_rng(0).integers(-99, 99, (SIZE, SIZE), np.int8), "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    values = {"a": np.random.default_rng(1).integers(0, 255, (SIZE, SIZE), np.uint8)}
    found["int8"] = SIZE**3 / best_of(lambda: session.run(None, values), 20)
    return found


def clips(n: int) -> list[Waveform]:
    """Return samples, each made 3 s long."""
    return [np.resize(load_audio(ASSETS[i % len(ASSETS)]), SECONDS * SAMPLE_RATE_HZ) for i in range(n)]


def pocketsphinx_times_real_time(waveforms: list[Waveform]) -> float:
    """Time PocketSphinx as it comes, one recording after the other."""
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=SAMPLE_RATE_HZ, loglevel="FATAL")

    def hear() -> None:
        for waveform_N in waveforms:
            decoder.start_utt()
            decoder.process_raw((waveform_N * 32767).astype(np.int16).tobytes(), full_utt=True)
            decoder.end_utt()

    return len(waveforms) * SECONDS / best_of(hear, 2)


def whisper_times_real_time(waveforms: list[Waveform], n_tokens: int, batch: int = 8) -> float:
    """Time the architecture of whisper-tiny, features included."""
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
    from transformers.utils import logging

    config = WhisperConfig(
        d_model=384, encoder_layers=4, decoder_layers=4, encoder_attention_heads=6, decoder_attention_heads=6,
        encoder_ffn_dim=1536, decoder_ffn_dim=1536,
    )  # fmt: skip
    logging.set_verbosity_error()
    forced = GenerationConfig(
        max_new_tokens=n_tokens, min_new_tokens=n_tokens, max_length=None, min_length=None, decoder_start_token_id=1
    )
    model, extractor = WhisperForConditionalGeneration(config).eval(), WhisperFeatureExtractor()

    @torch.inference_mode()
    def hear() -> None:
        for start in range(0, len(waveforms), batch):
            features = extractor(waveforms[start : start + batch], sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
            model.generate(features.input_features, generation_config=forced)

    return len(waveforms) * SECONDS / best_of(hear, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--n", type=int, default=192, help="clips of ours; the peers hear 16")
    parser.add_argument("--model", help="model folder or name")
    parser.add_argument("--no-peers", action="store_true")
    args = parser.parse_args()
    waveforms, names = clips(args.n), [""] * args.n
    samples, rate = waveforms[: len(ASSETS)], dict.fromkeys(("fp32", "bf16", "int8"), 0.0)
    transcribers = {
        (engine, precision, beam): Transcriber.from_pretrained(
            args.model, replace(FREE, beam=beam), engine=engine, precision=precision, threads=args.threads
        )
        for engine, precision in (("onnx", "int8"), ("torch", "bf16"), ("torch", "fp32"))
        for beam in (1, FREE.beam)
    }
    extract_s, took_s = dict.fromkeys(transcribers, math.inf), dict.fromkeys(transcribers, math.inf)
    # A machine is not as fast at one moment as at the next: in turns, and the best of each.
    for _ in range(ROUNDS):
        rate = {precision: max(rate[precision], found) for precision, found in rates(args.threads).items()}
        for key, one in transcribers.items():
            extract_s[key] = min(
                extract_s[key], best_of(lambda t=one: [t.extract(w) for w in samples], 10) / len(samples)
            )
            took_s[key] = min(took_s[key], best_of(lambda t=one: t.transcribe_waveforms(waveforms, names), 2) / args.n)
    print(json.dumps({"threads": args.threads, **{f"{k} GMAC/s": round(v / 1e9) for k, v in rate.items()}}))
    ours: dict[str, float] = {}
    for key, transcriber in transcribers.items():
        engine, precision, beam = key
        heard = transcriber.transcribe_waveforms(samples, names[: len(samples)])
        tokenizer, n_frames = transcriber.settings.tokenizer, len(transcriber.extract(samples[0]))
        n_steps = float(np.mean([len(tokenizer.encode(one.text)) + 1 for one in heard]))
        maps, others = multiply_adds(transcriber.settings.shape, n_frames, round(n_steps), beam)
        limit = maps / rate[precision] + others / rate["fp32" if precision == "int8" else precision] + extract_s[key]
        ours[f"{engine} {precision} beam {beam}"] = SECONDS / took_s[key]
        print(json.dumps({
            "engine": engine, "precision": precision, "beam": beam,
            "million_multiply_adds": round((maps + others) / 1e6),
            "features_ms": round(1e3 * extract_s[key], 2), "limit_ms": round(1e3 * limit, 2),
            "achieved_ms": round(1e3 * took_s[key], 2), "share_of_limit": round(limit / took_s[key], 2),
            "times_real_time": round(SECONDS / took_s[key]),
        }), flush=True)  # fmt: skip
    print(json.dumps({"peak_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}))
    if args.no_peers:
        return
    peers = {
        "PocketSphinx": pocketsphinx_times_real_time(waveforms[:16]),
        "whisper-tiny architecture": whisper_times_real_time(waveforms[:16], round(n_steps)),
    }
    for name, speed in peers.items():
        print(json.dumps({
            "peer": name, "times_real_time": round(speed, 1),
            **{f"ours, {key}": f"{value / speed:.0f} x" for key, value in ours.items() if "onnx" in key},
        }))  # fmt: skip


if __name__ == "__main__":
    main()
