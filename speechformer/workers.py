"""Several workers that transcribe files, each with a model of its own: processes here, or a Ray cluster.

Both have the same function called with some of the paths at a time, and yield its results in the order of the paths.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from speechformer.decoding import DecodingConfig
from speechformer.errors import AudioError, SpeechformerError
from speechformer.transcribe import Engine, Precision, Transcriber
from speechformer.transcript import Transcript

CHUNK = 32  # paths that a worker gets at a time
AHEAD = 3  # chunks that wait for each worker

Result = Transcript | AudioError


@dataclass(frozen=True)
class Loading:
    """What `Transcriber.from_pretrained` is told, by every worker."""

    model: str | None = None
    decoding: DecodingConfig | None = None
    device: str = "auto"
    commands: Path | None = None
    precision: Precision = "auto"
    word_times: bool = False
    engine: Engine = "auto"
    threads: int | None = None
    batch_size: int | None = None

    def load(self) -> Transcriber:
        """Load the model. Raises what `from_pretrained` raises."""
        return Transcriber.from_pretrained(**vars(self))


@cache
def _loaded(loading: Loading) -> Transcriber:
    return loading.load()


def transcribe_some(loading: Loading, paths: Sequence[str]) -> list[Result]:
    """Transcribe files with the worker's model, which is loaded for the first of them."""
    return list(_loaded(loading).transcribe_files(paths))


def in_processes(loading: Loading, paths: Sequence[str | os.PathLike[str]], n_workers: int) -> Iterator[Result]:
    """Yield what processes of this machine make of files, in order.

    Raises SpeechformerError where one of them is killed; what has been yielded stands.
    """
    names = [os.fspath(path) for path in paths]
    chunks = deque(names[start : start + CHUNK] for start in range(0, len(names), CHUNK))
    pool = ProcessPoolExecutor(n_workers, multiprocessing.get_context("spawn"), _leave_with_the_parent)
    waiting: deque[Future[list[Result]]] = deque()
    try:
        while chunks or waiting:
            while chunks and len(waiting) < AHEAD * n_workers:
                waiting.append(pool.submit(transcribe_some, loading, chunks.popleft()))
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise SpeechformerError(
            "a worker was killed, perhaps for want of memory; go on with --resume and fewer --jobs"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _leave_with_the_parent() -> None:
    """Have a worker end when its parent does, whatever ends that; the parent alone hears Ctrl+C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _RayWorker:
    """An actor of a Ray cluster."""

    def __init__(self, loading: Loading) -> None:
        self.loading = loading

    def __call__(self, batch: Any) -> Any:
        batch["result"] = transcribe_some(self.loading, list(batch.pop("path")))
        return batch


def on_ray(loading: Loading, paths: Sequence[str | os.PathLike[str]], n_workers: int) -> Iterator[Result]:
    """Yield what a Ray cluster makes of files that all of its machines can read, in order.

    It joins the cluster that `RAY_ADDRESS` names, or starts one on this machine.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise SpeechformerError("Ray is not installed; install it with: pip install 'speechformer[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"number": number, "path": os.fspath(Path(path).absolute())} for number, path in enumerate(paths)]
    heard = ray.data.from_items(rows).map_batches(
        _RayWorker, fn_constructor_args=(loading,), batch_size=CHUNK, batch_format="pandas",
        concurrency=(1, n_workers),
    )  # fmt: skip
    yield from _in_order((row["number"], row["result"]) for row in heard.iter_rows())


def _in_order(numbered: Iterator[tuple[int, Result]]) -> Iterator[Result]:
    """Yield results by their numbers, 0, 1, 2 …, each as soon as it and all before it are there."""
    early: dict[int, Result] = {}
    wanted = 0
    for number, result in numbered:
        early[number] = result
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1
