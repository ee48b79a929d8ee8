"""Training speed beside a plain `torch.nn.Transformer`, and transcription speed, in one run.

    python tests/benchmarks/training_speed.py [--seconds 60]

All contenders train on random batches of 3 s utterances with the same loss (CTC and attention), AdamW, clipping and
bf16 autocast, in one process of two threads and in two processes of one thread each. The baseline is what one
writes with `nn.Transformer`: four stacked frames projected to the width, norm first, torch's own attention, GELU and
dropout.
Contenders take turns, round after round, so that a machine whose speed drifts treats them alike; medians count.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn

from speechformer.beam_search import decode
from speechformer.data import Batch
from speechformer.decoding import DecodingConfig
from speechformer.model import SpeechTransformer
from speechformer.shape import ModelConfig
from speechformer.torch_recogniser import TorchRecogniser
from speechformer.training import joint_loss

UTTERANCES, FRAMES, TOKENS = 32, 300, 20
warnings.filterwarnings("ignore", message="enable_nested_tensor")
SIZES = {
    "8 M": ModelConfig(d_model=256, d_ff=1024, n_heads=4, n_encoder_layers=6, n_decoder_layers=3),
    "4 M": ModelConfig(d_model=192, d_ff=768, n_heads=3, n_encoder_layers=6, n_decoder_layers=2),
}


class PlainTransformer(nn.Module):
    """The baseline, with the interface of SpeechTransformer that `joint_loss` uses."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.frames = nn.Linear(4 * config.n_features, config.d_model)
        self.words = nn.Embedding(config.vocab_size, config.d_model)
        self.transformer = nn.Transformer(
            config.d_model, config.n_heads, config.n_encoder_layers, config.n_decoder_layers, config.d_ff,
            config.dropout, activation="gelu", batch_first=True, norm_first=True,
        )  # fmt: skip
        self.ctc_logits = nn.Linear(config.d_model, config.vocab_size)
        self.output = nn.Linear(config.d_model, config.vocab_size)

    def encode(self, features_BTC: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BMD = self.frames(features_BTC.unflatten(1, (-1, 4)).flatten(2))
        mask_BM = torch.arange(x_BMD.shape[1]) < (frames_B // 4)[:, None]
        return self.transformer.encoder(x_BMD, src_key_padding_mask=~mask_BM), mask_BM

    def start_decoding(self, memory_BMD: Tensor, mask_BM: Tensor) -> tuple[Tensor, Tensor]:
        return memory_BMD, mask_BM

    def decode(self, tokens_BL: Tensor, memory: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        length = tokens_BL.shape[1]
        causal = torch.full((length, length), -math.inf).triu(1)
        x_BLD = self.transformer.decoder(
            self.words(tokens_BL), memory[0], tgt_mask=causal, memory_key_padding_mask=~memory[1]
        )
        return self.output(x_BLD), None


def batch(n_utterances: int) -> Batch:
    tokens_BL = torch.randint(4, 64, (n_utterances, TOKENS + 2))
    return Batch(
        torch.randn(n_utterances, FRAMES, 40),
        torch.full((n_utterances,), FRAMES),
        tokens_BL,
        torch.full((n_utterances,), TOKENS),
    )


def trainer(kind: type[nn.Module], config: ModelConfig, n_utterances: int) -> Callable[[], None]:
    """Return a function that takes one optimiser step."""
    model: Any = kind(config).train()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    data = batch(n_utterances)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = joint_loss(model, data, 0.3, 0.1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    step()
    return step


def pace(step: Callable[[], None], n_utterances: int, seconds: float) -> float:
    """Return utterances a second over about so many seconds."""
    started, n_steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        n_steps += 1
    return n_steps * n_utterances / (time.perf_counter() - started)


def serve(connection: Any, kind: type[nn.Module], config: ModelConfig, n_utterances: int) -> None:
    """Train in a process of one thread whenever the parent says for how long."""
    torch.set_num_threads(1)
    step = trainer(kind, config, n_utterances)
    connection.send(0.0)
    while seconds := connection.recv():
        connection.send(pace(step, n_utterances, seconds))


class TwoProcesses:
    """Two processes of one thread each, as `torchrun --nproc-per-node 2` starts them (their exchange of
    gradients, a twentieth of a step, is not counted)."""

    def __init__(self, kind: type[nn.Module], config: ModelConfig) -> None:
        context = get_context("spawn")
        self.ends = []
        for _ in range(2):
            mine, theirs = context.Pipe()
            context.Process(target=serve, args=(theirs, kind, config, UTTERANCES // 2), daemon=True).start()
            self.ends.append(mine)
        for end in self.ends:
            end.recv()

    def __call__(self, seconds: float) -> float:
        for end in self.ends:
            end.send(seconds)
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(lambda end: end.recv(), self.ends))

    def stop(self) -> None:
        for end in self.ends:
            end.send(0.0)


def compare_training(seconds: float) -> None:
    for name, config in SIZES.items():
        config = replace(config, n_features=40)
        plain, ours = trainer(PlainTransformer, config, UTTERANCES), trainer(SpeechTransformer, config, UTTERANCES)
        apart = TwoProcesses(PlainTransformer, config), TwoProcesses(SpeechTransformer, config)
        contenders: dict[str, Callable[[float], float]] = {
            "nn.Transformer, 2 threads": lambda s, f=plain: pace(f, UTTERANCES, s),
            "nn.Transformer, 2 processes": apart[0],
            "speechformer, 2 threads": lambda s, f=ours: pace(f, UTTERANCES, s),
            "speechformer, 2 processes": apart[1],
        }
        paces: dict[str, list[float]] = {key: [] for key in contenders}
        for _ in range(5):
            for key, contender in contenders.items():
                paces[key].append(contender(seconds / 20))
        for pair in apart:
            pair.stop()
        base = statistics.median(paces["nn.Transformer, 2 threads"])
        for key, values in paces.items():
            median = statistics.median(values)
            print(f"training {name}  {key:28} {median:6.1f} utterances/s  {median / base:.2f} ×")


def compare_transcription() -> None:
    config = SIZES["4 M"]
    model = SpeechTransformer(config).eval()
    plain = PlainTransformer(config).eval()
    data = batch(UTTERANCES)

    def recompute() -> None:
        # Without a cache, each of the steps reads the whole prefix again.
        memory = plain.encode(data.features_BTC, data.frames_B)
        for length in range(1, TOKENS + 1):
            plain.decode(data.tokens_BL[:, :length], memory)

    def cached() -> None:
        memory_BMD, mask_BM = model.encode(data.features_BTC, data.frames_B)
        cache = model.start_decoding(memory_BMD, mask_BM)
        for place in range(TOKENS):
            _, cache = model.decode(data.tokens_BL[:, place : place + 1], cache)

    def search() -> None:
        decode(TorchRecogniser(model), data.features_BTC.numpy(), data.frames_B.numpy(), DecodingConfig(beam=4))

    with torch.inference_mode():
        for name, run in (("nn.Transformer, no cache", recompute), ("speechformer, cached", cached),
                          ("speechformer, beam 4, to the last position", search)):  # fmt: skip
            run()
            audio_s = UTTERANCES * FRAMES / 100
            times = []
            for _ in range(5):
                started = time.perf_counter()
                run()
                times.append(time.perf_counter() - started)
            print(f"transcription  {name:44} {audio_s / statistics.median(times):7.0f} s of audio a second")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="training time a model size (60)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    compare_training(arguments.seconds)
    compare_transcription()
