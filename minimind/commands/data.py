"""`minimind data synth|download|prepare|stats`: make, fetch, encode and describe corpora."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from minimind.commands.arguments import call_one_of
from minimind.console import print_json, say, table


def main(argv: list[str]) -> int:
    """Run `synth`, `download`, `prepare` or `stats`."""
    commands: dict[str, Callable[..., int]] = {"synth": synth, "download": download, "prepare": prepare, "stats": stats}
    return call_one_of(commands, argv, "minimind data")


def synth(out: Path, size_mb: float | None = None, seed: int = 0, json: bool = False) -> int:
    """Write the small world: a bilingual corpus for every training stage, from a seed, without any network.

    Examples:
        minimind data synth --out data/smallworld
        minimind data synth --out data/smallworld --size-mb 100 --seed 1 --json

    Args:
        out: folder to write.
        size_mb: size of all files together; by default the world of the demo.
        seed: the same seed gives the same bytes.
        json: print one line of JSON instead of a table.
    """
    from minimind.data.shard_files import writing_to
    from minimind.data.smallworld import generate

    with writing_to(out):
        files = generate(out, size_mb, seed)
    if json:
        print_json({"files": files})
    else:
        table(str(out), ["file", "rows", "bytes"], [(name, one["rows"], one["bytes"]) for name, one in files.items()])
    return 0


def download(
    name: list[str],
    out: Path = Path("data"),
    hub: Literal["auto", "huggingface", "modelscope"] = "auto",
    json: bool = False,
) -> int:
    """Fetch MiniMind's published corpora; an interrupted download goes on, checksums are compared.

    Names: mini (pretrain-mini and sft-mini), full (pretrain and sft), pretrain, pretrain-mini, sft, sft-mini, dpo,
    rlaif, agent, agent-math, all.

    Examples:
        minimind data download --name mini --out data
        minimind data download --name dpo rlaif --hub modelscope --out data

    Args:
        name: what to fetch.
        out: folder to write.
        hub: auto asks Hugging Face first and ModelScope where that fails.
        json: print one line of JSON instead of a table.
    """
    from minimind.data.download import fetch

    files = fetch(name, out, hub)
    if json:
        print_json({"files": files})
    else:
        rows = [(key, one["bytes"], one["hub"]) for key, one in files.items()]
        table(str(out), ["file", "bytes", "from"], rows)
    return 0


def prepare(
    data: list[str],
    out: Path,
    tokenizer: str = "default",
    kind: Literal["text", "sft", "dpo"] = "text",
    on_bad_line: Literal["stop", "skip"] = "stop",
    max_length: int | None = None,
    too_long: Literal["drop_oldest", "skip"] = "drop_oldest",
    random_system_prompt: float = 0.0,
    drop_empty_think: float = 0.0,
    json: bool = False,
) -> int:
    """Encode a corpus into token shards once; `minimind train ... --data OUT` then reads them as they are.

    Examples:
        minimind data prepare --data corpus.jsonl --out shards
        minimind data prepare --data "chats/*.jsonl.gz" --kind sft --max-length 1024 --out chat-shards --json

    Args:
        data: JSON Lines files (.gz, .zst too), globs, or a Hugging Face dataset as hf:NAME.
        out: folder to write; a killed build goes on from where it was.
        tokenizer: tokenizer or model directory, or `default`.
        kind: text for lines with `text`, sft for conversations, dpo for pairs of them.
        on_bad_line: stop (default) at a malformed line, or skip it and count.
        max_length: longest conversation in tokens (of dpo: prompt and both answers); give the row length
            (data.sequence_length) you will train with.
        too_long: a longer one loses its oldest turns, or is skipped.
        random_system_prompt: fraction of the conversations without a system prompt that get one.
        drop_empty_think: fraction of the conversations whose empty think blocks are left out.
        json: print one line of JSON instead of a table.
    """
    from minimind.data.shards import Options, build
    from minimind.tokenizer.bpe import Tokenizer

    started = time.monotonic()
    options = Options(kind, on_bad_line, max_length, too_long, random_system_prompt, drop_empty_think)
    manifest = build(data, Tokenizer.load(tokenizer), out, options).manifest
    names = ["documents", "tokens", "bytes", "bad_lines"]
    if kind != "text":
        names += ["supervised", "shortened", "dropped_turns", "dropped"]
    figures = {name: manifest[name] for name in names} | {"seconds": round(time.monotonic() - started, 2)}
    if json:
        print_json(figures)
    else:
        table(str(out), ["figure", "value"], [(name.replace("_", " "), value) for name, value in figures.items()])
        say(f"Train on it:  minimind train {'pretrain' if kind == 'text' else kind} laptop --data {out}")
    return 0


def stats(
    data: list[str],
    tokenizer: str = "default",
    against: tuple[str, ...] = (),
    kind: Literal["auto", "text", "sft", "dpo"] = "auto",
    json: bool = False,
) -> int:
    """Describe a corpus: documents, lengths, duplicates, languages, bad lines, overlap with evaluation files.

    Examples:
        minimind data stats --data corpus.jsonl
        minimind data stats --data "chats/*.jsonl" --against eval/ceval.jsonl eval/piqa.jsonl --json

    Args:
        data: JSON Lines files (.gz, .zst too), globs, or a Hugging Face dataset as hf:NAME.
        tokenizer: tokenizer or model directory, or `default`; lengths are counted with it.
        against: evaluation files; questions that share 13 words or Han characters in a row with the corpus are counted.
        kind: text, sft (conversations), dpo (pairs of them), or auto: as the first line is.
        json: print one line of JSON instead of tables.
    """
    from minimind.data.stats import measure
    from minimind.tokenizer.bpe import Tokenizer

    figures = measure(data, Tokenizer.load(tokenizer), against, None if kind == "auto" else kind)
    if json:
        print_json(figures)
        return 0
    rows = [(name.replace("_", " "), figures[name]) for name in ("documents", "bytes", "tokens", "mean_tokens")]
    rows += [(f"tokens, percentile {p}", value) for p, value in figures["token_percentiles"].items()]
    rows += [("duplicates", figures["duplicates"])]
    rows += [(f"language {name}", count) for name, count in figures["languages"].items()]
    rows += [("bad lines", figures["bad_lines"])]
    table(", ".join(data), ["figure", "value"], rows)
    if figures["first_bad_line"]:
        say(f"first bad line: {figures['first_bad_line']}")
    if against:
        columns = ["questions", "too_short", "contaminated", "share", "corpus_documents"]
        overlap = figures["contamination"].items()
        table(
            "shared with evaluation files",
            ["file", *(name.replace("_", " ") for name in columns)],
            [(Path(name).name, *(one[column] for column in columns)) for name, one in overlap],
        )
    return 0
