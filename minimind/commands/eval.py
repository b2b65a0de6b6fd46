"""`minimind eval bpb|choice|tools|length|needle|generate MODEL`, `eval tax BEFORE AFTER`, `eval rewards DIR`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from minimind import console
from minimind.commands.arguments import (
    AS_THE_MODEL,
    Device,
    Integer,
    Json,
    Model,
    Number,
    OnBadLine,
    Rope,
    RopeFlags,
    Text,
    Texts,
    at_least,
    call_one_of,
)
from minimind.commands.eval_length import length, needle
from minimind.commands.eval_rewards import rewards
from minimind.errors import UsageError
from minimind.files import check_file

if TYPE_CHECKING:
    import torch

    from minimind.api import LanguageModel

Models = tyro.conf.Positional[Annotated[list[str], tyro.conf.arg(metavar="MODEL")]]

TOOL_TASKS = {
    "arithmetic": "arithmetic with a calculator",
    "choice": "choosing among eight tools",
    "new": "tools never seen before",
}


def main(argv: list[str]) -> int:
    """Run one of the measurements."""
    return call_one_of((bpb, choice, tools, length, needle, generate, tax, rewards), argv, "minimind eval")


def _loaded(model: str, device: str, rope: RopeFlags) -> tuple["LanguageModel", "torch.dtype"]:
    """A model, and the number format that its device is fast at."""
    from minimind import runtime
    from minimind.api import load

    lm = load(model, device, rope.scaling(model))
    return lm, runtime.compute_dtype(lm.model.output_weight.device)


def bpb(
    model: Model,
    data: list[str],
    on_bad_line: OnBadLine = "stop",
    rope: Rope = AS_THE_MODEL,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Bits per byte of text: lower is better, and comparable between any two tokenizers.

    Examples:
        minimind eval bpb runs/laptop/model --data valid.jsonl

    Args:
        data: JSON Lines files with a `text` field (.gz, .zst too), or globs.
    """
    from minimind.data.corpus import read_documents
    from minimind.eval.bpb import bits_per_byte, text_document
    from minimind.model.rope import context_length

    lm, dtype = _loaded(model, device, rope)
    texts = console.track(read_documents(data, on_bad_line=on_bad_line), "reading")
    documents = (text_document(str(text), lm.tokenizer) for text in texts)
    figures = bits_per_byte(lm.model, documents, context_length(lm.model.config), dtype)
    if json:
        console.print_json(figures)
    else:
        console.table(model, ("figure", "value"), list(figures.items()))


def choice(
    model: Model,
    tasks: str = "ceval-valid,cmmlu,arc_easy,piqa,openbookqa,hellaswag,social_iqa",
    data: Text = None,
    limit: Integer = None,
    rope: Rope = AS_THE_MODEL,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Multiple choice: how often the right choice is the likeliest continuation of the question.

    Examples:
        minimind eval choice runs/laptop/model --tasks arc_easy,piqa --data questions
        minimind eval choice runs/laptop/model --tasks ceval-valid --limit 500

    Args:
        tasks: names with commas between them; with --data also names of files in that folder (without .jsonl).
        data: folder of JSON Lines files, {"question": "...", "choices": ["...", "..."], "answer": 0}; without it the
            tasks are fetched from the Hugging Face hub.
        limit: ask only so many questions of each task.
    """
    from minimind.eval.choice import evaluate
    from minimind.eval.tasks import markdown, read_questions

    if limit is not None:
        at_least(1, limit=limit)
    names = list(dict.fromkeys(name for part in tasks.split(",") if (name := part.strip())))
    questions = read_questions(names, data, limit)
    lm, dtype = _loaded(model, device, rope)
    figures = evaluate(lm.model.to(dtype), lm.tokenizer, questions)
    if json:
        console.print_json({"tasks": figures})
    else:
        print(markdown(figures))


def tools(
    model: Model,
    count: int = 20,
    tasks: Literal["all", "arithmetic", "choice", "new"] = "all",
    thinking: bool = False,
    strict: bool = False,
    temperature: float = 0.0,
    seed: int = 0,
    rope: Rope = AS_THE_MODEL,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Using tools: arithmetic that needs the calculator, choosing among eight tools, tools never seen before.

    In English and Chinese. Tools really answer, and the model goes on with their results; only of new tools the call
    is all that counts. The score is the share of the arithmetic tasks whose result is in the final answer.

    Examples:
        minimind eval tools runs/agent/model
        minimind eval tools runs/agent/model --count 240 --tasks arithmetic --json

    Args:
        count: arithmetic tasks, at most 240; a larger count begins with the tasks of a smaller one.
        tasks: all, arithmetic, choice (which tool, with exactly which arguments; none; two), or new (of which the
            model knows only the schema).
        thinking: let the model think before it speaks.
        strict: hold every call to the schemas while it is written, as a server does with `strict` tools.
        temperature: 0 always takes the likeliest word.
        seed: of the draws when the temperature is above 0; the tasks are those that no training file holds.
    """
    from minimind.engine.sampling import Sampling
    from minimind.eval import toolcall

    sampling = Sampling(temperature=temperature, seed=seed)
    every = {"arithmetic": lambda: toolcall.arithmetic(count), "choice": toolcall.choice, "new": toolcall.new}
    chosen = {name: make() for name, make in every.items() if tasks in ("all", name)}
    lm, dtype = _loaded(model, device, rope)
    found = {}
    for name, cases in chosen.items():
        rows = toolcall.run(lm.model, lm.tokenizer, cases, dtype, sampling, thinking, strict)
        found[name] = {**toolcall.figures(rows), "cases": rows}
    if json:
        console.print_json(found.pop(next(iter(found))) | found)
        return
    for name, figures in found.items():
        _print_tool_cases(TOOL_TASKS[name], figures)


def _print_tool_cases(title: str, figures: Mapping[str, Any]) -> None:
    print(title)
    for row in figures["cases"]:
        wanted = ", ".join(row["gt"]) or "no call"
        print(f"  {'✓' if row['ok'] else '✗'} {row['prompt']}\n      wanted {wanted} · got {row['pred'][:100]!r}")
    lines = [*figures["by_kind"].items(), ("all", figures)]
    console.table(title, ("kind", "right", "of"), [(k, round(f["score"] * f["n"]), f["n"]) for k, f in lines])
    print(f"score {figures['score']:.1%}\n")


def generate(
    models: Models,
    prompts: Texts = None,
    chat: bool = False,
    out: Text = None,
    judge: Text = None,
    judge_model: Text = None,
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    seed: int = 0,
    rope: Rope = AS_THE_MODEL,
    device: Device = "auto",
    json: bool = False,
) -> None:
    """What models write: to read, side by side, or to have judged.

    Without --prompts each model answers the same sixteen questions, in English and Chinese.

    Examples:
        minimind eval generate runs/laptop/model --prompts "Once upon a time" "从前"
        minimind eval generate runs/sft/model runs/dpo/model --out answers.html
        minimind eval generate runs/sft/model runs/dpo/model --judge http://localhost:8000/v1 --judge-model qwen3-32b

    Args:
        models: model directories.
        prompts: beginnings to continue, or questions to answer with --chat.
        chat: ask the prompts as a user, instead of continuing them as text.
        out: page to write, with the answers of all models side by side.
        judge: OpenAI-compatible server whose model grades the answers, and compares those of every two models; its
            key, if it needs one, is read from OPENAI_API_KEY.
        judge_model: name of the judging model.
        max_new_tokens: longest continuation.
        temperature: 0 always takes the likeliest word.
        seed: of the draws when the temperature is above 0.
        json: print one line of JSON.
    """
    from minimind import runtime
    from minimind.engine.sampling import Sampling
    from minimind.eval.generate import QUESTIONS, answers
    from minimind.eval.judge import Judge, judge_answers

    if not models:
        raise UsageError("eval generate: name one model directory or more")
    at_least(1, max_new_tokens=max_new_tokens)
    if (judge is None) != (judge_model is None):
        raise UsageError("eval generate: --judge URL and --judge-model NAME go together")
    if len(set(models)) < len(models):
        raise UsageError("eval generate: a model is named twice")
    sampling = Sampling(temperature=temperature, seed=seed)
    if prompts == ():
        raise UsageError("eval generate: --prompts needs a text")
    if out is not None:
        check_file(Path(out))
    asked, as_user = (QUESTIONS, True) if prompts is None else (prompts, chat)
    texts = {}
    for model in console.track(models, "writing"):
        lm, _ = _loaded(model, device, rope)
        texts[model] = answers(lm.model, lm.tokenizer, asked, as_user, max_new_tokens, sampling)

    judgement = None
    if judge and judge_model:
        judgement = judge_answers(Judge(judge, judge_model, runtime.endpoint_key()), asked, texts)
    if out is not None:
        from minimind.report.side_by_side import write_side_by_side

        page = write_side_by_side(Path(out), asked, texts, judgement, judge_model or "")
        console.say(f"written: {page}")
    if json:
        listed = [{"model": m, "prompt": p, "text": texts[m][n]} for n, p in enumerate(asked) for m in models]
        console.print_json({"texts": listed} | ({"judge": judgement} if judgement else {}))
        return
    for n, prompt in enumerate(asked):
        if len(models) == 1:
            print(f"> {prompt}\n{texts[models[0]][n]}\n" if as_user else f"{prompt} | {texts[models[0]][n]}\n")
            continue
        print(f"> {prompt}")
        for model in models:
            print(f"[{model}] {texts[model][n]}")
        print()
    if judgement:
        _print_judgement(judgement)


def tax(
    before: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BEFORE")],
    after: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="AFTER")],
    data: list[str],
    limit: Number = None,
    out: Text = None,
    questions: int = 100,
    on_bad_line: OnBadLine = "stop",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """What a stage gave and what it took: two models answer the same held-out conversations.

    With --limit their weights are averaged, the later model counting as much as it may: λ = 1, 0.9, 0.8 and so on,
    until no ability has lost more.

    Examples:
        minimind eval tax runs/sft/model runs/dpo/model --data world/sft_valid.jsonl
        minimind eval tax runs/sft/model runs/dpo/model --data world/sft_valid.jsonl --limit 2 --out runs/mean/model

    Args:
        before: model directory before the stage.
        after: model directory after it.
        data: JSON Lines files of conversations or texts; an ability is a line's field `ability`, or else its file.
        limit: points that no ability may lose.
        out: model directory to write the mean to.
        questions: conversations or texts of each ability, at most.
    """
    from minimind.convert.tensors import check_new_directory, new_directory
    from minimind.eval.tax import between, compare, read_abilities, show, standing, sweep
    from minimind.model.store import save_model

    at_least(1, questions=questions)
    if (limit is None) != (out is None):
        raise UsageError("eval tax: --limit POINTS and --out MODEL_DIR go together")
    if out is not None:
        check_new_directory(Path(out))
    if limit is not None:
        at_least(0, limit=limit)
    abilities = read_abilities(data, questions, on_bad_line)
    (was, dtype), (now, _) = (_loaded(one, device, AS_THE_MODEL) for one in (before, after))
    if was.tokenizer.fingerprint != now.tokenizer.fingerprint:
        raise UsageError(f"eval tax: {before} and {after} have different tokenizers; compare models of one family")
    if limit is None or out is None:
        start, end = (standing(one.model, one.tokenizer, abilities, dtype) for one in (was, now))
        tried = [(1.0, compare(start, end))]
    else:
        tried = list(sweep(was.model, now.model, now.tokenizer, abilities, dtype, limit))
        with new_directory(Path(out)) as folder:
            mean = between(was.model, now.model, tried[-1][0])
            save_model(mean, folder, "float32")  # 16 bits would round the share away
            now.tokenizer.save(folder)
    share, changes = tried[-1]
    if json:
        worst = [{"share": one, "tax": max(change.tax for change in found.values())} for one, found in tried]
        console.print_json({"abilities": {name: one.figures() for name, one in changes.items()}, "tried": worst})
    else:
        show(f"{before} → {after}, λ = {share:g}", changes)


def _print_judgement(judgement: Mapping[str, Any]) -> None:
    criteria = list(next(iter(judgement["mean"].values())))
    console.table(
        "grades, 1 to 10",
        ("model", *criteria),
        [(name, *grades.values()) for name, grades in judgement["mean"].items()],
    )
    if judgement["pairs"]:
        columns = tuple(judgement["pairs"][0])
        console.table("pairs", columns, [tuple(pair.values()) for pair in judgement["pairs"]])
