"""What the server bears: many requests for a 3 s clip from several clients at once, over HTTP or Wyoming.

    python tests/benchmarks/serve_load.py --n 10000 --clients 16

The server is a process of its own on free ports of the loopback. Each client sends its next request when it has the
answer to its last; who is told that the server is busy asks again, and that time counts. Times are those of a client.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np
from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient

from speechformer.audio import SAMPLE_RATE_HZ, load_audio, write_wav

SAMPLE = Path(__file__).parents[2] / "assets/set-a-timer-for-five-minutes.wav"
SERVER = """
import sys
from speechformer import Transcriber
from speechformer.serve import serve
transcriber = Transcriber.from_pretrained(threads=int(sys.argv[1]), word_times=True)  # as the command line does
serve(transcriber, "commands-en", http_port=0, wyoming_port=0)
"""
BUSY_S = 0.1  # until a client that was refused asks again

Ask = Callable[[], Awaitable[str | None]]  # the text, or None when the server is busy


def memory_mb(pid: int) -> float:
    """Return the memory that a process holds now, in MB."""
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)])) / 1024


def http(port: int, wav: bytes, client: httpx.AsyncClient) -> Ask:
    async def ask() -> str | None:
        response = await client.post(f"http://127.0.0.1:{port}/v1/audio/transcriptions", files={"file": wav})
        if response.status_code == 429:
            return None
        response.raise_for_status()
        return str(response.json()["text"])

    return ask


def wyoming(port: int, pcm: bytes) -> Ask:
    async def ask() -> str | None:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(AudioStart(SAMPLE_RATE_HZ, 2, 1).event())
            for start in range(0, len(pcm), 2048):
                await client.write_event(AudioChunk(SAMPLE_RATE_HZ, 2, 1, pcm[start : start + 2048]).event())
            await client.write_event(AudioStop().event())
            event = await client.read_event()
            return Transcript.from_event(event).text if event and Transcript.is_type(event.type) else None

    return ask


async def load(args: argparse.Namespace, ports: list[int], pid: int) -> None:
    waveform_N = np.resize(load_audio(SAMPLE), 3 * SAMPLE_RATE_HZ)
    pcm = (waveform_N * 32_767).astype("<i2").tobytes()
    with tempfile.TemporaryDirectory() as folder:
        write_wav(Path(folder) / "clip.wav", waveform_N)
        wav = (Path(folder) / "clip.wav").read_bytes()
    times: list[float] = []
    texts: Counter[str] = Counter()
    n_left, n_busy, memory = args.n, 0, [memory_mb(pid)]

    async def client(ask: Ask) -> None:
        nonlocal n_left, n_busy
        while n_left:
            n_left -= 1
            started = time.perf_counter()
            while (text := await ask()) is None:
                n_busy += 1
                await asyncio.sleep(BUSY_S)
            times.append(time.perf_counter() - started)
            texts[text] += 1
            if len(times) == args.n // 2:
                memory.append(memory_mb(pid))

    async with httpx.AsyncClient(timeout=600) as connection:
        ask = http(ports[0], wav, connection) if args.protocol == "http" else wyoming(ports[1], pcm)
        await ask()
        started = time.perf_counter()
        await asyncio.gather(*(client(ask) for _ in range(args.clients)))
        took = time.perf_counter() - started
        health = (await connection.get(f"http://127.0.0.1:{ports[0]}/health")).json()
    memory.append(memory_mb(pid))
    cuts = statistics.quantiles(times, n=100)
    print(f"{args.protocol}, {args.clients} clients: {args.n / took:.1f} requests/s", end=", ")
    print(f"p50 {1000 * cuts[49]:.0f} ms, p95 {1000 * cuts[94]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms")
    print(f"{len(times)} of {args.n} answered, {len(texts)} different texts, {n_busy} times busy", end=", ")
    print(f"{health['answered'] / health['batches']:.1f} recordings a batch")
    print("memory of the server: " + ", ".join(f"{one:.0f} MB" for one in memory) + " at the start, middle and end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=2_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--protocol", choices=("http", "wyoming"), default="http")
    parser.add_argument("--threads", type=int, default=1, help="of the model (1, as speechformer serve)")
    args = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(args.threads)], stderr=subprocess.PIPE, text=True)
    assert server.stderr
    try:
        ports = [int(server.stderr.readline().rsplit(":", 1)[1]) for _ in range(2)]
        asyncio.run(load(args, ports, server.pid))
    finally:
        server.terminate()
        print(f"the server ended with status {server.wait(60)}")


if __name__ == "__main__":
    main()
