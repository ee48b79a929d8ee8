"""Several processes that train one model together: `torchrun --nproc-per-node N recipes/…/train.py …`.

Each process takes its share of the batches, and gradients are averaged after each (synchronous data
parallelism). Two processes of one thread each also train faster on two CPU cores than one of two threads.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed

from speechformer.errors import ConfigError

Part = TypeVar("Part")


class World:
    """The processes of a run: this one's `rank`, how many there are, and what they tell each other."""

    def __init__(self, device: str) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device
        if device == "cuda":
            if not torch.cuda.is_available():
                raise ConfigError("device is cuda and there is no CUDA device here; use device=cpu")
            torch.cuda.set_device(self.device)
        if self.size > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if device == "cuda" else "gloo")

    @property
    def leads(self) -> bool:
        """Whether this process writes files and draws the progress bar."""
        return self.rank == 0

    def average(self, gradients: Iterable[Tensor | None]) -> None:
        """Replace gradients by their mean over the processes, all in one message."""
        if self.size == 1:
            return
        real = [gradient for gradient in gradients if gradient is not None]
        flat = torch.cat([gradient.flatten() for gradient in real])
        distributed.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(real, torch.split(flat, [gradient.numel() for gradient in real]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def wait(self) -> None:
        """Return when every process has come to this line."""
        if self.size > 1:
            distributed.barrier()

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Do something in the leader, then in the others: what it leaves on disk they need not make again."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def gather(self, part: Part) -> list[Part]:
        """Return every process's part, in order of rank, to every process."""
        if self.size == 1:
            return [part]
        parts: list[Part | None] = [None] * self.size
        distributed.all_gather_object(parts, part)
        return cast("list[Part]", parts)

    def leave(self) -> None:
        """End what the processes have in common, in all of them, once nothing that was made with it is in use.

        Threads of gloo that outlive the interpreter abort the process, after all its work is done.
        """
        if self.size > 1:
            self.wait()
            gc.collect()
            distributed.destroy_process_group()
