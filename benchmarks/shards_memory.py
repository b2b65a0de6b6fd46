"""Memory and speed of a shard build: encodes a generated corpus and prints MB/s and the peak RSS of all processes.

python benchmarks/shards_memory.py --size-mb 1000
"""

import argparse
import json
import tempfile
import threading
import time
from itertools import count
from pathlib import Path

import psutil

from minimind.data.shards import build
from minimind.data.smallworld import generate
from minimind.tokenizer.bpe import Tokenizer


def write_corpus(path: Path, size_mb: float) -> None:
    """Small-world documents over and over, each time with another number, so that no two are equal."""
    generate(path.parent / "world", None, 0)
    lines = (path.parent / "world" / "pretrain.jsonl").read_text(encoding="utf-8").splitlines()
    with path.open("w", encoding="utf-8", newline="\n") as file:
        written = 0
        for number in count():
            for line in lines:
                written += file.write(json.dumps({"text": f"{json.loads(line)['text']} {number}"}) + "\n")
                if written >= size_mb * 1e6:
                    return


class PeakMemory(threading.Thread):
    """Watches the resident memory of this process and its children, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.all = self.main = self.processes = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self.stopped.wait(0.1):
            sizes = [me.memory_info().rss]
            for child in me.children(recursive=True):
                try:
                    sizes.append(child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            self.all, self.main = max(self.all, sum(sizes)), max(self.main, sizes[0])
            self.processes = max(self.processes, len(sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=float, default=1000)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--tokenizer", default="default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        write_corpus(corpus, options.size_mb)
        size = corpus.stat().st_size
        memory, started = PeakMemory(), time.monotonic()
        memory.start()
        shards = build([corpus], Tokenizer.load(options.tokenizer), Path(folder) / "shards", workers=options.workers)
        seconds = time.monotonic() - started
        memory.stopped.set()
        figures = {
            "corpus_mb": round(size / 1e6, 1),
            "tokens": shards.tokens,
            "seconds": round(seconds, 1),
            "mb_per_second": round(size / 1e6 / seconds, 1),
            "peak_rss_mb": round(memory.all / 1e6, 1),
            "main_rss_mb": round(memory.main / 1e6, 1),
            "processes": memory.processes,
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
