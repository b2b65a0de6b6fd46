"""`minimind tokenizer train|report`: learn a vocabulary from text, and compare vocabularies on a text."""

import gzip
import json as jsonlib
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any, BinaryIO

from minimind.commands.arguments import call_one_of
from minimind.console import print_json, progress, say, table
from minimind.errors import UsageError, UserError
from minimind.tokenizer.bpe import Tokenizer


def main(argv: list[str]) -> int:
    """Run `train` or `report`."""
    return call_one_of({"train": train, "report": report}, argv, "minimind tokenizer")


def train(data: list[Path], out: Path, vocab_size: int = 6400, max_token_bytes: int | None = None) -> int:
    """Learn a byte-level BPE from text and write it as a Hugging Face tokenizer directory.

    Examples:
        minimind tokenizer train --data corpus.jsonl --out my-tokenizer
        minimind tokenizer train --data a.jsonl b.txt --vocab-size 2048 --out my-tokenizer

    Args:
        data: JSON Lines (`text`, `conversations` or `messages`) or plain text files, `.gz` too.
        out: directory to write.
        vocab_size: entries, of which 36 are control tokens and 256 the bytes.
        max_token_bytes: longest token; short ones suit small models and texts made from templates.
    """
    from minimind.tokenizer.train import train_tokenizer

    tokenizer = train_tokenizer(_with_progress(data, "learning the vocabulary"), vocab_size, max_token_bytes)
    tokenizer.save(out)
    say(f"{tokenizer.vocab_size:,} entries in {out}; next: minimind tokenizer report --tokenizer default {out}")
    return 0


def report(tokenizer: list[str], data: list[Path], json: bool = False) -> int:
    """Compare tokenizers on a text: characters and bytes a token, tokens a word, texts that do not come back.

    Examples:
        minimind tokenizer report --tokenizer default --data valid.jsonl
        minimind tokenizer report --tokenizer default my-tokenizer --data valid.jsonl --json

    Args:
        tokenizer: tokenizer or model directories, or `default`.
        data: JSON Lines (`text`, `conversations` or `messages`) or plain text files, `.gz` too.
        json: print one line of JSON; with several tokenizers their figures are under `tokenizers`.
    """
    from minimind.tokenizer.report import measure

    rows = {}
    for name in tokenizer:
        loaded = Tokenizer.load(name)
        rows[name] = measure(loaded, _with_progress(data, f"measuring {name}"))
    if next(iter(rows.values()))["documents"] == 0:
        raise UserError(f'--data {data[0]} holds no text; name a file with lines of {{"text": ...}} or plain text')
    if json:
        print_json(next(iter(rows.values())) if len(rows) == 1 else {"tokenizers": rows})
        return 0
    figures = list(rows.values())
    table(
        f"{figures[0]['documents']:,} documents, {figures[0]['bytes']:,} bytes",
        ["", *rows],
        [
            ("entries", *(row["vocab_size"] for row in figures)),
            ("characters a token, Chinese", *(row["chars_per_token"]["zh"] for row in figures)),
            ("characters a token, English", *(row["chars_per_token"]["en"] for row in figures)),
            ("characters a token, not Chinese", *(row["chars_per_token"]["other"] for row in figures)),
            ("bytes a token", *(row["bytes_per_token"] for row in figures)),
            ("tokens a word (fertility)", *(row["fertility"] for row in figures)),
            ("texts that do not come back", *(row["round_trip_failures"] for row in figures)),
            ("MB/s on one core", *(row["mb_per_second"] for row in figures)),
        ],
    )
    return 0


def _with_progress(patterns: list[Path], title: str) -> Iterator[str]:
    """Texts of all files under one bar that moves by the bytes read from disk."""
    files = [Path(name) for pattern in patterns for name in sorted(glob(str(pattern))) or [str(pattern)]]
    for file in files:
        if not file.is_file():
            raise UsageError(f"--data {file}: there is no such file")
    with progress(title, sum(file.stat().st_size for file in files)) as bar:
        for file in files:
            seen = 0
            with file.open("rb") as raw:
                for text in _texts(file, raw):
                    yield text
                    position = raw.tell()
                    bar.advance(position - seen)
                    seen = position


def _texts(file: Path, raw: BinaryIO) -> Iterator[str]:
    """One text a line of a plain file; of JSON Lines the `text`, or what each turn of a conversation says."""
    stream: Any = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw
    is_json = ".jsonl" in file.suffixes
    for number, line in enumerate(stream, 1):
        try:
            if not is_json:
                yield line.decode("utf-8")
            elif line.strip():
                yield from _fields(jsonlib.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{file} line {number} is no text and no conversation ({reason}); correct it") from error


def _fields(row: dict[str, Any]) -> Iterator[str]:
    if "text" in row:
        if not isinstance(row["text"], str):
            raise TypeError("text is no string")
        yield row["text"]
        return
    for turn in row["conversations"] if "conversations" in row else row["messages"]:
        if isinstance(turn.get("content"), str):
            yield turn["content"]
