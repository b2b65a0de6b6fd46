"""`minimind data synth|download|answers|prepare|stats`: make, fetch, encode and describe corpora."""

import shlex
import time
from pathlib import Path
from typing import Literal

from minimind.commands.arguments import Device, Integer, Json, Number, OnBadLine, at_least, call_one_of
from minimind.console import print_json, say, table


def main(argv: list[str]) -> int:
    """Run `synth`, `download`, `answers`, `prepare` or `stats`."""
    return call_one_of((synth, download, answers, prepare, stats), argv, "minimind data")


def synth(out: Path, size_mb: Number = None, seed: int = 0, json: Json = False) -> None:
    """Write the small world: a bilingual corpus for every training stage, from a seed, without any network.

    Examples:
        minimind data synth --out data/smallworld
        minimind data synth --out data/smallworld --size-mb 100 --seed 1 --json

    Args:
        out: folder to write.
        size_mb: size of all files together; by default the world of the demo.
        seed: the same seed gives the same bytes.
    """
    from minimind.data.smallworld import generate
    from minimind.files import writing_to

    with writing_to(out):
        files = generate(out, size_mb, seed)
    if json:
        print_json({"files": files})
    else:
        table(str(out), ["file", "rows", "bytes"], [(name, one["rows"], one["bytes"]) for name, one in files.items()])


def download(
    name: list[str],
    out: Path = Path("data"),
    hub: Literal["auto", "huggingface", "modelscope"] = "auto",
    json: Json = False,
) -> None:
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
    """
    from minimind.data.download import fetch

    files = fetch(name, out, hub)
    if json:
        print_json({"files": files})
    else:
        rows = [(key, one["bytes"], one["hub"]) for key, one in files.items()]
        table(str(out), ["file", "bytes", "from"], rows)


def answers(
    data: list[str],
    teacher: str,
    out: Path,
    teacher_model: str = "",
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    seed: int = 0,
    thinking: bool = False,
    on_bad_line: OnBadLine = "stop",
    device: Device = "auto",
    json: bool = False,
) -> None:
    """Let a teacher answer prompts, and write conversations for `train sft`: distillation through words alone.

    A prompt is a conversation up to its last assistant turn, and is asked once however often it occurs. Every answer
    is written as it comes; run the same command again to go on after an interruption.

    Examples:
        minimind data answers --data prompts.jsonl --teacher runs/minimind-3-sft/model --out answers.jsonl
        minimind data answers --data prompts.jsonl --teacher http://localhost:8000/v1 --teacher-model big --out a.jsonl

    Args:
        data: JSON Lines files (.gz, .zst too) or globs of conversations or prompts.
        teacher: a model directory, or the address up to /v1 of an OpenAI-compatible server; its key, if it needs one,
            is read from OPENAI_API_KEY.
        out: file to write, or to go on with.
        teacher_model: name of the model on the server.
        max_new_tokens: an answer that is not over by then is left out.
        temperature: 0 always takes the likeliest word.
        seed: of the draws when the temperature is above 0 and the teacher is a directory.
        thinking: let a teacher that is a directory think first.
        json: print one line of JSON instead of a sentence.
    """
    from dataclasses import asdict

    from minimind import runtime
    from minimind.data.prompts import read_prompts
    from minimind.errors import UsageError
    from minimind.eval.answers import PATIENCE, Teacher, from_model, from_server, write_answers
    from minimind.eval.endpoint import Endpoint

    at_least(1, max_new_tokens=max_new_tokens)
    served = teacher.startswith(("http://", "https://"))
    if served and not teacher_model:
        raise UsageError("data answers: name the server's model with --teacher-model NAME")
    prompts = read_prompts(data, on_bad_line)
    ask: Teacher
    if served:
        endpoint = Endpoint(teacher, teacher_model, runtime.endpoint_key(), timeout=PATIENCE)
        ask = from_server(endpoint, temperature=temperature, max_tokens=max_new_tokens)
    else:
        from minimind.api import load
        from minimind.engine.sampling import Sampling

        lm = load(teacher, device)
        sampling = Sampling(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
        ask = from_model(lm.model, lm.tokenizer, sampling, runtime.compute_dtype(runtime.device(device)), thinking)
    count = write_answers(prompts, ask, out)
    if json:
        print_json(asdict(count))
        return
    left_out = f"; {count.cut_off:,} had no end and were left out" if count.cut_off else ""
    say(
        f"{out}: {count.written:,} answers written, {count.there:,} were there, {count.repeated:,} prompts repeated"
        f"{left_out}\nTrain on it:  minimind train sft laptop --data {shlex.quote(str(out))} --init MODEL"
    )


def prepare(
    data: list[str],
    out: Path,
    tokenizer: str = "default",
    kind: Literal["text", "sft", "dpo"] = "text",
    on_bad_line: OnBadLine = "stop",
    max_length: Integer = None,
    too_long: Literal["drop_oldest", "skip"] = "drop_oldest",
    random_system_prompt: float = 0.0,
    drop_empty_think: float = 0.0,
    json: Json = False,
) -> None:
    """Encode a corpus into token shards once; `minimind train ... --data OUT` then reads them as they are.

    Examples:
        minimind data prepare --data corpus.jsonl --out shards
        minimind data prepare --data "chats/*.jsonl.gz" --kind sft --max-length 1024 --out chat-shards --json

    Args:
        data: JSON Lines files (.gz, .zst too), globs, or a Hugging Face dataset as hf:NAME.
        out: folder to write; a killed build goes on from where it was.
        tokenizer: tokenizer or model directory, or `default`.
        kind: text for lines with `text`, sft for conversations, dpo for pairs of them.
        max_length: longest conversation in tokens (of dpo: prompt and both answers); give the row length
            (data.sequence_length) you will train with.
        too_long: a longer one loses its oldest turns, or is skipped.
        random_system_prompt: fraction of the conversations without a system prompt that get one.
        drop_empty_think: fraction of the conversations whose empty think blocks are left out; give these three as the
            recipe has them (data.*).
    """
    from minimind.data.corpus import MANIFEST
    from minimind.data.shards import RENDERING, Options, build, tell_of_losses
    from minimind.limits import FRACTION, check
    from minimind.recipe import Recipe, find, load
    from minimind.tokenizer.bpe import Tokenizer

    started = time.monotonic()
    options = Options(kind, on_bad_line, max_length, too_long, random_system_prompt, drop_empty_think)
    check("data", options, FRACTION, "random_system_prompt", "drop_empty_think")
    there = (out / MANIFEST).is_file()
    shards = build(data, Tokenizer.load(tokenizer), out, options)
    if there:  # since when, and what has happened to it?
        shards.verify()
    tell_of_losses(shards)
    manifest = shards.manifest
    names = ["documents", "tokens", "bytes", "bad_lines"]
    if kind != "text":
        names += ["supervised", "shortened", "dropped_turns", "dropped"]
    figures = {name: manifest[name] for name in names} | {"seconds": round(time.monotonic() - started, 2)}
    if json:
        print_json(figures)
    else:
        table(str(out), ["figure", "value"], [(name.replace("_", " "), value) for name, value in figures.items()])
        stage, start = ("pretrain", "") if kind == "text" else (kind, " --init MODEL")
        recipe = load(Recipe, find("laptop", stage)).data
        for name in RENDERING if kind != "text" else ():
            if getattr(recipe, name) != (value := getattr(options, name)):
                start += f" --set.data.{name} {value}"
        say(f"Train on it:  minimind train {stage} laptop --data {shlex.quote(str(out))}{start}")


def stats(
    data: list[str],
    tokenizer: str = "default",
    against: tuple[str, ...] = (),
    kind: Literal["auto", "text", "sft", "dpo"] = "auto",
    json: Json = False,
) -> None:
    """Describe a corpus: documents, lengths, duplicates, languages, bad lines, overlap with evaluation files.

    Examples:
        minimind data stats --data corpus.jsonl
        minimind data stats --data "chats/*.jsonl" --against eval/ceval.jsonl eval/piqa.jsonl --json

    Args:
        data: JSON Lines files (.gz, .zst too), globs, or a Hugging Face dataset as hf:NAME.
        tokenizer: tokenizer or model directory, or `default`; lengths are counted with it.
        against: evaluation files; questions that share 13 words or Han characters in a row with the corpus are counted.
        kind: text, sft (conversations), dpo (pairs of them), or auto: as the first line is.
    """
    from minimind.data.stats import measure
    from minimind.tokenizer.bpe import Tokenizer

    figures = measure(data, Tokenizer.load(tokenizer), against, None if kind == "auto" else kind)
    if json:
        print_json(figures)
        return
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
