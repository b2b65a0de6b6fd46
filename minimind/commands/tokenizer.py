"""`minimind tokenizer train|report`: learn a vocabulary from text, and compare vocabularies on a text."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minimind.commands.arguments import Integer, at_least, call_one_of
from minimind.console import print_json, progress, say, table
from minimind.data.corpus import expand, read_batches, read_object
from minimind.errors import UserError
from minimind.files import folder_for, writing_to
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import plain_text


def main(argv: list[str]) -> int:
    """Run `train` or `report`."""
    return call_one_of((train, report), argv, "minimind tokenizer")


def train(data: list[str], out: Path, vocab_size: int = 6400, max_token_bytes: Integer = None) -> None:
    """Learn a byte-level BPE from text and write it as a Hugging Face tokenizer directory.

    Examples:
        minimind tokenizer train --data corpus.jsonl --out my-tokenizer
        minimind tokenizer train --data a.jsonl b.txt --vocab-size 2048 --out my-tokenizer

    Args:
        data: JSON Lines (`text`, `conversations` or `messages`) or `.txt` files (`.gz`, `.zst`), globs, `hf:NAME`.
        out: directory to write.
        vocab_size: entries, of which 36 are control tokens and 256 the bytes.
        max_token_bytes: longest token; short ones suit small models and texts made from templates.
    """
    from minimind.tokenizer.train import train_tokenizer

    if max_token_bytes is not None:
        at_least(1, max_token_bytes=max_token_bytes)
    with folder_for(out):
        with _texts(data, "learning the vocabulary") as texts:
            tokenizer = train_tokenizer(texts, vocab_size, max_token_bytes)
        with writing_to(out):
            tokenizer.save(out)
    say(f"{tokenizer.vocab_size:,} entries in {out}; next: minimind tokenizer report --tokenizer default {out}")


def report(tokenizer: list[str], data: list[str], json: bool = False) -> None:
    """Compare tokenizers on a text: characters and bytes a token, tokens a word, texts that do not come back.

    Examples:
        minimind tokenizer report --tokenizer default --data valid.jsonl
        minimind tokenizer report --tokenizer default my-tokenizer --data valid.jsonl --json

    Args:
        tokenizer: tokenizer or model directories, or `default`.
        data: JSON Lines (`text`, `conversations` or `messages`) or `.txt` files (`.gz`, `.zst`), globs, `hf:NAME`.
        json: print one line of JSON; with several tokenizers their figures are under `tokenizers`.
    """
    from minimind.tokenizer.report import measure

    rows = {}
    for name in tokenizer:
        loaded = Tokenizer.load(name)
        with _texts(data, f"measuring {name}") as texts:
            rows[name] = measure(loaded, texts)
    if next(iter(rows.values()))["documents"] == 0:
        raise UserError(f'--data {data[0]} holds no text; name a file with lines of {{"text": ...}} or plain text')
    if json:
        print_json(next(iter(rows.values())) if len(rows) == 1 else {"tokenizers": rows})
        return
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


@contextmanager
def _texts(data: list[str], title: str) -> Iterator[Iterator[str]]:
    """Give the texts of all files, under one bar that moves by the bytes read from disk.

    The bar is this thread's, which Ctrl-C ends, whoever reads.
    """
    files = expand(data)
    sizes = [Path(file).stat().st_size for file in files if Path(file).is_file()]
    with progress(title, sum(sizes) if len(sizes) == len(files) else None) as bar:

        def read() -> Iterator[str]:
            for batch in read_batches(files):
                for number, line in batch.lines:
                    yield from _texts_of(batch.file, number, line)
                bar.advance(batch.disk_bytes)

        yield read()


def _texts_of(file: str, number: int, line: bytes) -> Iterator[str]:
    """One text a line of a `.txt` file; of JSON Lines the `text`, or what each turn of a conversation says."""
    try:
        if ".txt" in Path(file).suffixes:
            found = [line.decode("utf-8")]
        else:
            row = read_object(line)
            said = (
                [row["text"]]
                if row.get("text") is not None
                else [turn.get("content") for turn in row.get("messages") or row["conversations"]]
            )
            found = [plain_text(content) for content in said]
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        reason = error if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{file} line {number} is no text and no conversation ({reason}); correct it") from error
    yield from filter(None, found)
