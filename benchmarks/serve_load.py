"""Many clients stream from one server: is every stream complete, is it what the request gives alone, does memory grow?

    python benchmarks/serve_load.py --clients 64 --seconds 60

Starts `minimind serve` on a model of random weights (`laptop` in size), asks some prompts alone and greedily, then lets
all clients ask them again and again at the same time. A stream may leave its own answer only where the two likeliest
tokens lie within a near-tie of each other (`minimind.engine.engine.NEAR_TIE`): a product of other shape rounds other
last bits.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

TOPICS = (
    "the sea",
    "a short story about a cat",
    "北京的天气",
    "prices of apples",
    "a family",
    "十二加三十",
    "music",
    "snow",
)
TOKENS = (16, 32, 64)


class Answer(NamedTuple):
    """One stream: its tokens, each with the lead of the likeliest over the second, and how it ended."""

    tokens: list[str]
    leads: list[float]
    finish: str | None
    complete: bool
    first: float
    """Seconds until the first token."""


@dataclass
class Outcome:
    """What all clients together saw."""

    streams: int = 0
    tokens: int = 0
    broken: list[str] = field(default_factory=list)
    near_tie: float = 0.0
    """Lead in nats up to which rounding may choose another token."""
    near_ties: int = 0
    widest: float = 0.0
    """Largest lead at which a stream left its own answer."""
    first: list[float] = field(default_factory=list)


def requests(count: int) -> list[dict]:
    """Prompts of several lengths, some with a beginning in common; greedy, with the runner-up of each token."""
    shared = {"role": "system", "content": "You are an assistant of a small world. " * 4}
    bodies = []
    for i in range(count):
        question = {"role": "user", "content": f"Tell me about {TOPICS[i % len(TOPICS)]}. " * (1 + i % 5)}
        rules = {"max_tokens": TOKENS[i % len(TOKENS)], "temperature": 0, "logprobs": True, "top_logprobs": 2}
        bodies.append({"messages": [*([shared] if i % 2 else []), question], "stream": True, **rules})
    return bodies


async def ask(url: str, body: dict) -> Answer:
    """One request on a connection of its own. Plain sockets: a client library would take the server's processor."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
    start, first = time.perf_counter(), 0.0
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    tokens, leads, finish, complete, status = [], [], None, False, b""
    try:
        status = await reader.readline()
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                complete = True
            elif line.startswith(b"data: "):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise OSError(chunk["error"]["message"])
                choice = chunk["choices"][0]
                for token in (choice["logprobs"] or {}).get("content", []):
                    first = first or time.perf_counter() - start
                    tokens.append(token["token"])
                    likeliest, second = token["top_logprobs"]
                    leads.append(likeliest["logprob"] - second["logprob"])
                finish = choice["finish_reason"] or finish
    finally:
        writer.close()
    if b" 200 " not in status:
        raise OSError(status.decode().strip())
    return Answer(tokens, leads, finish, complete, first)


def compare(got: Answer, alone: Answer, outcome: Outcome) -> None:
    """Note what `got` has wrong."""
    outcome.streams += 1
    outcome.tokens += len(got.tokens)
    outcome.first.append(got.first)
    if not got.complete or got.finish is None:
        outcome.broken.append(f"a stream ended after {len(got.tokens)} tokens without [DONE]")
    elif got.tokens != alone.tokens:
        pairs = zip(got.tokens, alone.tokens, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(got.tokens), len(alone.tokens)))
        lead = min(answer.leads[at] for answer in (got, alone) if at < len(answer.leads))
        outcome.near_ties += 1
        outcome.widest = max(outcome.widest, lead)
        if lead > outcome.near_tie:
            outcome.broken.append(f"token {at} is another than alone, though the likeliest leads by {lead:.3f} nats")


async def load(url: str, clients: int, seconds: float, near_tie: float, prompts: int = 24) -> Outcome:
    """Ask every prompt alone, then let `clients` ask for so many seconds."""
    bodies, outcome = requests(prompts), Outcome(near_tie=near_tie)
    alone = [await ask(url, body) for body in bodies]
    end = time.monotonic() + seconds

    async def client(seed: int) -> None:
        dice = random.Random(seed)
        while time.monotonic() < end:
            i = dice.randrange(len(bodies))
            try:
                compare(await ask(url, bodies[i]), alone[i], outcome)
            except (OSError, ValueError) as error:
                outcome.broken.append(repr(error))

    await asyncio.gather(*map(client, range(clients)))
    return outcome


def random_model(preset: str, folder: Path) -> None:
    """Save a model of random weights; its layers have more say than a fresh one's, so that answers differ."""
    import torch

    from minimind.config import PRESETS
    from minimind.model.qwen3 import Transformer
    from minimind.model.store import save_model
    from minimind.tokenizer.bpe import Tokenizer

    torch.manual_seed(0)
    tokenizer = Tokenizer.load("default")
    model = Transformer(PRESETS[preset].with_(vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight *= 5
    save_model(model, folder, dtype="bfloat16")
    tokenizer.save(folder)


@contextmanager
def started(preset: str, *flags: str) -> Iterator[tuple[str, int]]:
    """`minimind serve` on random weights, ready: its address and its process."""
    with tempfile.TemporaryDirectory() as folder:
        random_model(preset, Path(folder) / "model")
        command = [sys.executable, "-m", "minimind", "serve", f"{folder}/model", "--port", "0", *flags]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert server.stderr
        url = ""
        for line in server.stderr:
            if "chat page" in line:
                url = line.split()[-1].rstrip("/")
            if line.startswith("Ready"):
                break
        else:
            raise SystemExit(line)  # what it said last
        threading.Thread(target=sys.stderr.writelines, args=[server.stderr], daemon=True).start()
        try:
            yield url, server.pid
        finally:
            server.terminate()
            server.wait(30)


@asynccontextmanager
async def watched(process: int) -> AsyncIterator[list[float]]:
    """Resident memory of a process and its children in MB, every second."""
    import psutil

    server, memory = psutil.Process(process), []

    def resident() -> Iterator[float]:
        for one in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                yield one.memory_info().rss / 2**20

    async def watch() -> None:
        while True:
            memory.append(sum(resident()))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    yield memory
    watching.cancel()


def tenths(memory: list[float]) -> list[int]:
    """Ten figures of a course, and its last."""
    return [round(memory[len(memory) * i // 10]) for i in range(10)] + [round(memory[-1])]


async def run(url: str, process: int, clients: int, seconds: float) -> tuple[Outcome, list[float]]:
    """The load, and the server's memory during it."""
    import torch

    from minimind.engine.engine import NEAR_TIE

    async with watched(process) as memory:
        return await load(url, clients, seconds, NEAR_TIE[torch.bfloat16]), memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--serve", nargs=argparse.REMAINDER, default=[], help="further flags for `minimind serve`")
    options = parser.parse_args()
    with started(options.preset, *options.serve) as (url, process):
        outcome, memory = asyncio.run(run(url, process, options.clients, options.seconds))
    print(json.dumps({"clients": options.clients, **figures(outcome, options.seconds), "memory_mb": tenths(memory)}))
    sys.exit(bool(outcome.broken))


def figures(outcome: Outcome, seconds: float) -> dict[str, object]:
    """What to print of it."""
    first = sorted(outcome.first)
    return {
        "streams": outcome.streams,
        "broken": len(outcome.broken),
        "examples": outcome.broken[:3],
        "near_ties": outcome.near_ties,
        "widest_near_tie_nats": round(outcome.widest, 4),
        "tokens_per_second": round(outcome.tokens / seconds, 1),
        "first_token_seconds": {
            "median": round(first[len(first) // 2], 3),
            "p95": round(first[len(first) * 95 // 100], 3),
        },
    }


if __name__ == "__main__":
    main()
