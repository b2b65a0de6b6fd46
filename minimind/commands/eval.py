"""`minimind eval bpb|generate MODEL`: measure a model."""

from typing import Annotated, Literal

import tyro

from minimind import console
from minimind.commands.arguments import at_least, call_one_of

Model = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]


def main(argv: list[str]) -> int:
    """Run one of the measurements."""
    return call_one_of({"bpb": bpb, "choice": choice, "generate": generate}, argv, "minimind eval")


def bpb(
    model: Model,
    data: list[str],
    on_bad_line: Literal["stop", "skip"] = "stop",
    device: str = "auto",
    json: bool = False,
) -> int:
    """Bits per byte of text: lower is better, and comparable between any two tokenizers.

    Examples:
        minimind eval bpb runs/laptop/model --data valid.jsonl

    Args:
        model: model directory.
        data: JSON Lines files with a `text` field (.gz, .zst too), or globs.
        on_bad_line: stop (default) at a malformed line, or skip it and count.
        device: auto, cpu, cuda or mps.
        json: print one line of JSON.
    """
    from minimind import runtime
    from minimind.api import load
    from minimind.data.corpus import read_documents
    from minimind.eval.bpb import bits_per_byte, text_document

    lm = load(model, device)
    dtype = runtime.compute_dtype(lm.model.output_weight.device)
    texts = console.track(read_documents(data, on_bad_line=on_bad_line), "reading")
    documents = (text_document(str(text), lm.tokenizer) for text in texts)
    figures = bits_per_byte(lm.model, documents, lm.model.config.max_position_embeddings, dtype)
    if json:
        console.print_json(figures)
    else:
        console.table(model, ("figure", "value"), list(figures.items()))
    return 0


def choice(
    model: Model,
    tasks: str = "ceval-valid,cmmlu,arc_easy,piqa,openbookqa,hellaswag,social_iqa",
    data: str | None = None,
    limit: int | None = None,
    device: str = "auto",
    json: bool = False,
) -> int:
    """Multiple choice: how often the right choice is the likeliest continuation of the question.

    Examples:
        minimind eval choice runs/laptop/model --tasks arc_easy,piqa --data questions
        minimind eval choice runs/laptop/model --tasks ceval-valid --limit 500

    Args:
        model: model directory.
        tasks: names with commas between them; with --data also names of files in that folder (without .jsonl).
        data: folder of JSON Lines files, {"question": "...", "choices": ["...", "..."], "answer": 0}; without it the
            tasks are fetched from the Hugging Face hub.
        limit: ask only so many questions of each task.
        device: auto, cpu, cuda or mps.
        json: print one line of JSON.
    """
    from minimind import runtime
    from minimind.api import load
    from minimind.eval.choice import evaluate
    from minimind.eval.tasks import markdown, read_questions

    if limit is not None:
        at_least(1, limit=limit)
    names = list(dict.fromkeys(name for part in tasks.split(",") if (name := part.strip())))
    questions = read_questions(names, data, limit)
    lm = load(model, device)
    lm.model.to(runtime.compute_dtype(lm.model.output_weight.device))
    figures = evaluate(lm.model, lm.tokenizer, questions)
    if json:
        console.print_json({"tasks": figures})
    else:
        print(markdown(figures))
    return 0


def generate(
    model: Model,
    prompts: tuple[str, ...] = (),
    chat: bool = False,
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    seed: int = 0,
    device: str = "auto",
    json: bool = False,
) -> int:
    """Continue prompts, to read what a model writes.

    Examples:
        minimind eval generate runs/laptop/model --prompts "Once upon a time" "从前"
        minimind eval generate runs/demo/sft/model --chat --prompts "Who are you?"

    Args:
        model: model directory.
        prompts: beginnings to continue, or questions to answer with --chat.
        chat: ask the prompts as a user, instead of continuing them as text.
        max_new_tokens: longest continuation.
        temperature: 0 always takes the likeliest word.
        seed: of the draws when the temperature is above 0.
        device: auto, cpu, cuda or mps.
        json: print one line of JSON.
    """
    from minimind.api import load
    from minimind.engine.sampling import Sampling
    from minimind.errors import UsageError

    if not prompts:
        raise UsageError('eval generate: give one or more beginnings with --prompts "Once upon a time"')
    at_least(1, max_new_tokens=max_new_tokens)
    lm = load(model, device)
    sampling = Sampling(temperature=temperature, seed=seed)
    texts = []
    for prompt in console.track(prompts, "writing"):
        if chat:
            message = {"role": "user", "content": prompt}
            texts.append(lm.chat([message], max_new_tokens=max_new_tokens, sampling=sampling)["content"])
        else:
            texts.append(lm.generate(prompt, max_new_tokens, sampling))
    if json:
        console.print_json({"texts": [{"prompt": p, "text": t} for p, t in zip(prompts, texts, strict=True)]})
    else:
        for prompt, text in zip(prompts, texts, strict=True):
            print(f"{prompt} | {text}\n" if not chat else f"> {prompt}\n{text}\n")
    return 0
