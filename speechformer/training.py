"""Train a model: settings, data, model, optimiser, loop. One piece of code for every recipe.

A run is a folder: `config.yaml` (every setting), `metrics.jsonl` and `tensorboard/` (what happened), `state.pt`
(to go on exactly where it stopped), `best/` (the best checkpoints on real dev speech) and `model/` (the outcome).
"""

from __future__ import annotations

import json
import math
import pickle
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

from speechformer.augment import AugmentConfig
from speechformer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from speechformer.config import check_within, load_config, to_dict, write_yaml
from speechformer.data import Batch, DataConfig, TrainingSet
from speechformer.errors import ConfigError, TrainingError
from speechformer.evaluation import DevSet
from speechformer.features import FRAMES_PER_S, FeatureConfig, add_hiss, log_mel, mfcc
from speechformer.files import replace_file
from speechformer.growth import grow
from speechformer.interrupts import on_interrupt
from speechformer.lexicon import Lexicon
from speechformer.minimum_wer import minimum_wer_loss
from speechformer.model import SpeechTransformer, has_fast_bfloat16
from speechformer.optimiser import Optimiser
from speechformer.shape import ModelConfig
from speechformer.tokenizer import PAD, UNK, Tokenizer, normalise
from speechformer.world import World

MAX_BAD_STEPS = 20


@dataclass(frozen=True)
class ScheduleConfig:
    """How long, how fast, and what is learnt when. Counts are of optimiser steps.

    The learning rate climbs for `warmup_steps`, stays, and falls linearly to zero over the last `decay_steps`.
    The CTC head learns alone for `ctc_only_steps`; then the decoder joins, and the CTC share of the loss falls
    from 1 to `ctc_weight` over `join_steps`. `consistency` is what it costs when the CTC head reads two views of an
    utterance differently (`data.views` is 2 then), `minimum_wer` what a wrong word costs among the best hypotheses of
    `minimum_wer_utterances` of each batch: for a model that has learnt already (see `speechformer.minimum_wer`).
    `token_noise` is the share of what the decoder has read that is exchanged for other tokens: it has to listen then.
    """

    n_steps: int = 10_000
    lr: float = 1e-3
    warmup_steps: int = 500
    decay_steps: int = 3_000
    ctc_only_steps: int = 2_000
    join_steps: int = 1_000
    ctc_weight: float = 0.3
    consistency: float = 0.0
    minimum_wer: float = 0.0
    minimum_wer_utterances: int = 8
    label_smoothing: float = 0.1
    token_noise: float = 0.0
    weight_decay: float = 1e-2
    clip: float = 1.0

    def __post_init__(self) -> None:
        check_within(self, "schedule.", "n_steps", 1)
        check_within(self, "schedule.", "lr clip", 0, exclusive=True)
        check_within(self, "schedule.", "warmup_steps decay_steps ctc_only_steps join_steps", 0)
        check_within(self, "schedule.", "consistency minimum_wer weight_decay", 0)
        check_within(self, "schedule.", "ctc_weight label_smoothing token_noise", 0, 1)
        if self.minimum_wer:
            check_within(self, "schedule.", "minimum_wer_utterances", 1)


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on. It begins with the weights of the model folder `initial`, where one is given, and
    with its lexicon, if it has one, to which the words of training come.

    `precision` auto is bfloat16 where the device is fast at it: elsewhere that takes many times as long as float32.
    """

    initial: Path | None = None
    tokenizer: Path = Path("data/tokenizer.model")
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    seed: int = 1
    device: str = "cpu"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    evaluate_every: int = 1_000
    save_every: int = 250
    log_every: int = 50
    keep_best: int = 5
    max_dev_utterances: int = 300

    def __post_init__(self) -> None:
        if self.schedule.consistency and self.data.views != 2:
            raise ConfigError("schedule.consistency compares two views of an utterance; set data.views=2")
        check_within(self, "", "evaluate_every save_every log_every keep_best max_dev_utterances", 1)


def learning_rate(step: int, schedule: ScheduleConfig) -> float:
    """Return the learning rate of a step: up, level, down (Zhai et al. 2022, section 3.5)."""
    up = (step + 1) / max(1, schedule.warmup_steps)
    down = (schedule.n_steps - step) / max(1, schedule.decay_steps)
    return schedule.lr * max(0.0, min(1.0, up, down))


def ctc_share(step: int, schedule: ScheduleConfig) -> float:
    """Return the weight of the CTC loss at a step; the decoder's loss has the rest."""
    joined = (step - schedule.ctc_only_steps) / max(1, schedule.join_steps)
    return 1.0 - (1.0 - schedule.ctc_weight) * min(1.0, max(0.0, joined))


def disagreement(log_probs_MBV: Tensor, mask_BM: Tensor, tokens_B: Tensor) -> Tensor:
    """Return how differently the CTC head reads two views of the same utterances, in nats a token.

    The first half of the batch is one view, the second half the other (CR-CTC, Yao et al. 2025, equation 4): each
    view's distribution at each position is drawn towards the other's, which is held still.
    """
    one, other = log_probs_MBV.chunk(2, dim=1)

    def towards(fixed: Tensor, moving: Tensor) -> Tensor:
        return functional.kl_div(moving, fixed.detach(), reduction="none", log_target=True).sum(-1)

    differences_MB = (towards(one, other) + towards(other, one)) / 2 * mask_BM.T.chunk(2, dim=1)[0]
    return (differences_MB.sum(0) / tokens_B.chunk(2)[0].clamp(min=1)).mean()


def joint_loss(
    model: SpeechTransformer, batch: Batch, ctc_weight: float, schedule: ScheduleConfig
) -> tuple[Tensor, dict[str, float]]:
    """Return the weighted CTC and attention loss (Watanabe et al. 2017, equation 8) and its parts.

    The CTC part is per token; an utterance too short for its text counts as zero. The schedule's `consistency`
    times the disagreement of two views is added to it. At `ctc_weight` 1 the decoder does not run.
    """
    memory_BMD, mask_BM = model.encode(batch.features_BTC, batch.frames_B)
    log_probs_MBV = model.ctc_logits(memory_BMD).float().log_softmax(-1).transpose(0, 1)
    targets_BL = batch.tokens_BL[:, 1:-1]
    ctc = functional.ctc_loss(log_probs_MBV, targets_BL, mask_BM.sum(1), batch.tokens_B, blank=PAD, zero_infinity=True)
    parts = {"ctc": float(ctc.detach())}
    if schedule.consistency:
        differs = disagreement(log_probs_MBV, mask_BM, batch.tokens_B)
        parts["disagreement"] = float(differs.detach())
        ctc = ctc + schedule.consistency * differs
    if ctc_weight == 1.0:
        return ctc, parts
    read_BL = exchange_tokens(batch.tokens_BL[:, :-1], schedule.token_noise, model.config.vocab_size)
    logits_BLV, _ = model.decode(read_BL, model.start_decoding(memory_BMD, mask_BM))
    attention = functional.cross_entropy(
        logits_BLV.float().flatten(0, 1),
        batch.tokens_BL[:, 1:].flatten(),
        ignore_index=PAD,
        label_smoothing=schedule.label_smoothing,
    )
    parts["attention"] = float(attention.detach())
    return ctc_weight * ctc + (1 - ctc_weight) * attention, parts


def exchange_tokens(tokens_BL: Tensor, share: float, vocab_size: int) -> Tensor:
    """Return the tokens with so many of the pieces exchanged for any others, drawn evenly; BOS, EOS and padding stay.

    SwitchOut (Wang et al. 2018) on the decoder's side: what it writes next is right all the same.
    """
    if not share:
        return tokens_BL
    is_exchanged_BL = (tokens_BL > UNK) & (torch.rand(tokens_BL.shape, device=tokens_BL.device) < share)
    return torch.where(is_exchanged_BL, torch.randint_like(tokens_BL, UNK + 1, vocab_size), tokens_BL)


def measure_features(training_set: TrainingSet, n_utterances: int = 500) -> FeatureConfig:
    """Return the feature settings with mean and scale of the training set filled in, where they are used."""
    config = training_set.features
    if config.normalise in ("speech", "utterance") or config.scale_C:
        return config
    draw = np.random.default_rng(training_set.seed)
    frames = [
        mfcc(log_mel(add_hiss(training_set.store[int(i)], config), config), config)
        for i in draw.integers(len(training_set.store), size=n_utterances)
    ]
    if config.normalise == "mean":
        frames = [features_TC - features_TC.mean(axis=0) for features_TC in frames if len(features_TC)]
    frames_TC = np.concatenate(frames)
    mean_C, scale_C = frames_TC.mean(axis=0), frames_TC.std(axis=0)
    return replace(config, mean_C=tuple(map(float, mean_C)), scale_C=tuple(map(float, scale_C)))


class Trainer:
    """A run: what it has learnt, where it is, and where it writes."""

    def __init__(self, config: TrainConfig, run: Path) -> None:
        self.run = run
        run.mkdir(parents=True, exist_ok=True)
        self.world = World(config.device)
        fast = has_fast_bfloat16(self.world.device.partition(":")[0])
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and fast)
        torch.manual_seed(config.seed)
        tokenizer = Tokenizer.load(config.tokenizer)
        with self.world.leader_first():
            self.training_set = TrainingSet(config.data, config.augment, config.features, tokenizer, config.seed)
        absent = sorted(config.data.weights.keys() - {row.get("corpus") for row in self.training_set.rows})
        if absent and self.world.leads:
            print(f"{config.data.train}: has nothing of {', '.join(absent)}; that weight is not used", file=sys.stderr)
        features = self.training_set.features = measure_features(self.training_set)
        model_config = replace(config.model, vocab_size=len(tokenizer), n_features=features.n_mfcc)
        self.config = replace(config, features=features, model=model_config)
        self.dev = DevSet(config.data.dev, features, config.max_dev_utterances)
        model = SpeechTransformer(model_config).to(self.world.device)
        initial = load_checkpoint(config.initial) if config.initial else None
        lexicon = Lexicon(self._words(initial.lexicon) if initial and initial.lexicon else ())
        self.checkpoint = Checkpoint(model, features, tokenizer, lexicon=lexicon)
        if initial:
            self._begin_with(initial)
        schedule = config.schedule
        self.optimiser = Optimiser(self.checkpoint.model, schedule.lr, schedule.weight_decay, self.world.size)
        self.step = self.epoch = self.number = self.bad_steps = 0
        self.best: list[tuple[float, int]] = []
        torch.manual_seed(config.seed + self.world.rank)  # the processes' weights are one, their dropout is not
        self.stopping = False
        if (run / "state.pt").exists():
            self.resume()
        if self.world.leads:
            write_yaml(self.config, run / "config.yaml")

    def _begin_with(self, initial: Checkpoint) -> None:
        try:
            weights = grow(initial, self.config.model, self.checkpoint.tokenizer)
        except ConfigError as error:
            raise ConfigError(f"initial: {self.config.initial} has {error}") from error
        self.checkpoint.model.load_state_dict(weights)

    def _words(self, lexicon: Lexicon) -> Iterator[str]:
        """Yield the words of a lexicon and those that training says, which may be new."""
        yield from lexicon.words
        for row in self.training_set.rows:
            yield from normalise(row["text"]).split()

    def batches(self) -> Iterator[Batch]:
        """Yield batches from where the run is, epoch after epoch."""
        while True:
            yield from self.training_set.loader(self.epoch, self.number, self.world.rank, self.world.size)
            self.epoch, self.number = self.epoch + 1, 0

    def train(self) -> Path:
        """Run to the last step and return the model's folder.

        Told to stop (SIGINT, SIGTERM), it finishes the step, saves, and raises KeyboardInterrupt.
        """
        schedule, batches = self.config.schedule, self.batches()
        if self.step >= schedule.n_steps and (self.run / "model").exists():
            raise TrainingError(f"{self.run}: this run is finished; raise schedule.n_steps or use a new folder")
        columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                   TextColumn("{task.fields[status]}"))  # fmt: skip
        log = _Log(self.run, self.step, self.world)
        with Progress(*columns, disable=not self.world.leads) as progress:
            task = progress.add_task("train", total=schedule.n_steps, completed=self.step, status="")
            with on_interrupt(self._stop):
                while self.step < schedule.n_steps:
                    batch = next(batches).to(self.world.device)
                    log.count(batch, self.update(batch))
                    self._after_step(log)
                    progress.update(task, completed=self.step, status=log.status)
        self.evaluate(log)
        return self.finish(log)

    def _stop(self, *_: object) -> None:
        self.stopping = True

    def update(self, batch: Batch) -> dict[str, float]:
        """Take one optimiser step and return the losses; a step that is not a number is skipped."""
        model, schedule = self.checkpoint.model.train(), self.config.schedule
        rate, ctc_weight = learning_rate(self.step, schedule), ctc_share(self.step, schedule)
        self.optimiser.zero_grad()
        with torch.autocast(self.world.device.partition(":")[0], torch.bfloat16, enabled=self.bf16):
            loss, parts = joint_loss(model, batch, ctc_weight, schedule)
            if schedule.minimum_wer and ctc_weight < 1:
                tokenizer, n_utterances = self.checkpoint.tokenizer, schedule.minimum_wer_utterances
                errors = minimum_wer_loss(model, batch, tokenizer, n_utterances)
                parts["minimum_wer"] = float(errors.detach())
                loss = loss + schedule.minimum_wer * errors
        loss.backward()
        self.world.average(weight.grad for weight in model.parameters())
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip))
        self.step += 1
        self.number += self.world.size
        if not math.isfinite(norm):
            self.bad_steps += 1
            if self.bad_steps >= MAX_BAD_STEPS:
                raise TrainingError(
                    f"{self.run}: {MAX_BAD_STEPS} steps in a row had no finite gradient; lower schedule.lr and resume"
                )
            return {"skipped": 1.0}
        self.bad_steps = 0
        self.optimiser.step(rate)
        return {**parts, "loss": float(loss.detach()), "gradient": norm, "lr": rate}

    def _after_step(self, log: _Log) -> None:
        if self.step % self.config.log_every == 0:
            log.write(self.step)
        if self.step % self.config.evaluate_every == 0 and self.step < self.config.schedule.n_steps:
            self.evaluate(log)
        if self.step % self.config.save_every == 0:
            self.save()
        if self.stopping and self.world.size == 1:
            self.save()
            raise KeyboardInterrupt

    def evaluate(self, log: _Log) -> None:
        """Score dev speech; keep the checkpoint if it is among the best on the real part."""
        ctc_only = ctc_share(self.step - 1, self.config.schedule) == 1.0
        rates = self._rates(self.checkpoint, ctc_only)
        log.evaluated(self.step, rates)
        others = [(rate, step) for rate, step in self.best if step != self.step]
        self.best = sorted([*others, (rates["real"], self.step)])[: self.config.keep_best]
        if self.world.leads and (rates["real"], self.step) in self.best:
            save_checkpoint(self.run / "best" / f"{self.step:07}", self.checkpoint)
        self.save()  # before anything that an earlier state names goes
        if self.world.leads:
            kept = {f"{step:07}" for _, step in self.best}
            for folder in (self.run / "best").glob("*"):
                if folder.name not in kept:
                    shutil.rmtree(folder)

    def _rates(self, checkpoint: Checkpoint, ctc_only: bool) -> dict[str, float]:
        checkpoint.model.eval()
        return self.dev.evaluate(checkpoint, ctc_only, self.world)

    def finish(self, log: _Log) -> Path:
        """Average the best checkpoints; write the average or the best one, whichever real dev speech prefers."""
        folders = [self.run / "best" / f"{step:07}" for _, step in self.best]
        self.world.wait()  # for the leader's files
        average = load_checkpoint(folders[0], self.world.device)
        average.model.load_state_dict(average_weights(folders))
        rates = self._rates(average, ctc_share(self.step - 1, self.config.schedule) == 1.0)
        log.evaluated(self.step, rates, f"average of {len(folders)}")
        chosen = average if rates["real"] <= self.best[0][0] else load_checkpoint(folders[0])
        if self.world.leads:
            save_checkpoint(self.run / "model", chosen)
        return self.run / "model"

    def save(self) -> None:
        """Write all that is needed to go on exactly, atomically."""
        cuda = torch.device(self.world.device).type == "cuda"
        random = self.world.gather((torch.get_rng_state(), torch.cuda.get_rng_state() if cuda else None))
        optimiser = self.optimiser.state_dict()
        if not self.world.leads:
            return
        state = {
            "model": self.checkpoint.model.state_dict(),
            "optimiser": optimiser,
            "random": random,
            "place": [self.step, self.epoch, self.number, self.bad_steps],
            "best": self.best,
        }
        replace_file(self.run / "state.pt", lambda unfinished: torch.save(state, unfinished))

    def resume(self) -> None:
        """Take up the state that `save` wrote."""
        self._check_settings()
        path = self.run / "state.pt"
        try:
            state = torch.load(path, map_location=self.world.device, weights_only=True)
            self.checkpoint.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError, KeyError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise TrainingError(
                f"{path}: the run cannot be resumed with these settings; restore them or use a new folder"
            ) from error
        cpu, cuda = state["random"][min(self.world.rank, len(state["random"]) - 1)]
        torch.set_rng_state(cpu.cpu())
        if cuda is not None and torch.device(self.world.device).type == "cuda":
            torch.cuda.set_rng_state(cuda.cpu())
        self.step, self.epoch, self.number, self.bad_steps = state["place"]
        self.best = [(float(rate), int(step)) for rate, step in state["best"]]

    def _check_settings(self) -> None:
        """Refuse to go on with another network or other features; say what else has changed."""
        if not (self.run / "config.yaml").exists():
            return
        old = load_config(TrainConfig, self.run / "config.yaml")
        for name in ("model", "features", "seed"):
            if getattr(old, name) != getattr(self.config, name):
                raise TrainingError(
                    f'{self.run}: "{name}" is not what the run began with; restore it (see config.yaml there) '
                    "or use a new folder"
                )
        for name in ("data", "augment", "schedule"):
            was, now = to_dict(getattr(old, name)), to_dict(getattr(self.config, name))
            for key in (key for key in now if was[key] != now[key] and self.world.leads):
                print(f"{self.run}: going on with {name}.{key} = {now[key]}, before {was[key]}", file=sys.stderr)


def average_weights(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Return the mean of checkpoints' weights."""
    states = [load_file(folder / "model.safetensors") for folder in folders]
    return {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}


class _Log:
    """Writes what happens to `metrics.jsonl` and TensorBoard, and keeps the progress bar's words."""

    def __init__(self, run: Path, step: int, world: World) -> None:
        self.path, self.world = run / "metrics.jsonl", world
        self.board = (
            SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None) if world.leads else None
        )
        self.sums: dict[str, list[float]] = {}
        self.utterances, self.seconds, self.since = 0, 0.0, time.monotonic()
        self.status = self.dev = ""

    def count(self, batch: Batch, parts: dict[str, float]) -> None:
        for key, value in parts.items():
            self.sums.setdefault(key, []).append(value)
        self.utterances += self.world.size * len(batch.frames_B)
        self.seconds += self.world.size * float(batch.frames_B.sum()) / FRAMES_PER_S

    def write(self, step: int) -> None:
        elapsed = time.monotonic() - self.since
        means = {key: float(np.mean(values)) for key, values in self.sums.items()}
        means |= {"utterances_per_s": self.utterances / elapsed, "audio_s_per_s": self.seconds / elapsed}
        self._record(step, "train", means)
        self.status = f"loss {means.get('loss', math.nan):.3f} · {means['utterances_per_s']:.0f} utterances/s{self.dev}"
        self.sums, self.utterances, self.seconds, self.since = {}, 0, 0.0, time.monotonic()

    def evaluated(self, step: int, rates: dict[str, float], what: str = "checkpoint") -> None:
        self._record(step, "dev", rates, what)
        self.sums, self.utterances, self.seconds = {}, 0, 0.0
        self.dev = f" · dev WER {100 * rates['real']:.1f} %"
        self.since = time.monotonic()

    def _record(self, step: int, kind: str, values: dict[str, float], what: str = "") -> None:
        if self.board is None:
            return
        row = {
            "step": step,
            "kind": kind,
            "time": round(time.time(), 1),
            **({"what": what} if what else {}),
            **values,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for key, value in values.items():
            self.board.add_scalar(f"{kind}/{key}", value, step)
        self.board.flush()


def train(config: TrainConfig, run: Path) -> Path:
    """Train in the folder `run`, or go on there, and return the folder of the finished model."""
    trainer = Trainer(config, run)
    model, world = trainer.train(), trainer.world
    del trainer  # its optimiser holds what the processes have in common
    world.leave()
    return model
