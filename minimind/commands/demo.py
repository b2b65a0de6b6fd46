"""`minimind demo`: the whole pipeline on the embedded small world, ending in a report and a chat."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from minimind import console
from minimind.commands.arguments import call
from minimind.errors import UserError

STAGES = ("random", "pretrain", "sft")
SHOWN = ("facts_en", "facts_zh", "arithmetic")


def main(argv: list[str]) -> int:
    """Run the demo."""
    return call(demo, argv, "minimind demo")


def demo(out: str = "runs/demo", quick: bool = False, fresh: bool = False, device: str = "auto") -> int:
    """Make a bilingual model from nothing: data, tokenizer, pretraining, SFT, evaluation, report.

    Under eight minutes on two CPU cores. What is finished is kept: run it again to continue or to see the results.

    Examples:
        minimind demo
        minimind demo --quick --out runs/quick

    Args:
        out: folder of everything that is made.
        quick: shrink everything to under a minute; the scores then mean nothing.
        fresh: delete OUT's demo and start over.
        device: auto, cpu, cuda or mps.
    """
    from minimind import runtime
    from minimind.report.html import write_report

    runtime.device(device)  # a wrong name is said now, not after the data
    folder = Path(out)
    pipeline = Pipeline(folder, quick, device)
    if fresh:
        pipeline.forget()
    pipeline.check_size()
    console.say(f"MiniMind demo in [bold]{folder}[/bold]" + (" (quick: its scores mean nothing)" if quick else ""))
    pipeline.data()
    tokenizer = pipeline.tokenizer()
    results = {stage: pipeline.stage(stage, tokenizer) for stage in STAGES}
    report = {
        "stages": {stage: {k: v for k, v in result.items() if k != "answers"} for stage, result in results.items()},
        "model": results["sft"]["model"],
        "parameters": results["sft"]["parameters"],
        "quick": quick,
    }
    _write(folder / "report.json", report)
    samples = _samples(results)
    page = write_report(folder, report, {stage: folder / stage for stage in STAGES}, samples)

    _show(results, samples)
    console.say(f"\nReport:      {page}\nTalk to it:  [bold]minimind chat {report['model']}[/bold]")
    console.say(f"In a page:   [bold]minimind serve {report['model']}[/bold], then open http://127.0.0.1:8000/")
    return 0


class Pipeline:
    """The steps in order. Each leaves a file that says it is finished, so a second run takes it from there."""

    def __init__(self, folder: Path, quick: bool, device: str) -> None:
        self.folder, self.quick, self.device = folder, quick, device
        self.corpus = folder / "data"

    def forget(self) -> None:
        """Delete what an earlier demo made here, and nothing else."""
        for name in ("data", "tokenizer", *STAGES):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("demo.json", "report.json", "report.html"):
            (self.folder / name).unlink(missing_ok=True)

    def check_size(self) -> None:
        """A quick demo and a full one must not continue each other.

        Raises:
            UserError: the folder holds the other kind, or cannot be written.
        """
        marker = self.folder / "demo.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if marker.exists() and _read(marker)["quick"] != self.quick:
                raise UserError(f"{self.folder} holds a demo of the other size; use --fresh, or another --out")
            _write(marker, {"quick": self.quick})
        except OSError as error:
            raise UserError(f"--out {self.folder}: cannot be written ({error.strerror}); choose another") from None

    def data(self) -> None:
        """The small world as JSON Lines."""
        from minimind.data.smallworld import generate

        def make() -> dict[str, Any]:
            return generate(self.corpus, size_mb=1.0 if self.quick else None)

        self._once("data", make, self.corpus / "finished.json")

    def tokenizer(self) -> Path:
        """A vocabulary of 2,048, learned from the world's own text."""
        from minimind.tokenizer.train import train_tokenizer

        where = self.folder / "tokenizer"

        def make() -> dict[str, Any]:
            tokenizer = train_tokenizer(self._texts(), 2048, max_token_bytes=8)
            tokenizer.save(where)
            return {"vocab_size": tokenizer.vocab_size}

        self._once("tokenizer", make, where / "finished.json")
        return where

    def stage(self, name: str, tokenizer: Path) -> dict[str, Any]:
        """Train one stage, then measure its model."""

        def make() -> dict[str, Any]:
            start = time.monotonic()
            model = {"random": self._random, "pretrain": self._pretrain, "sft": self._sft}[name](tokenizer)
            seconds = round(time.monotonic() - start, 1)
            return {"seconds": seconds, "tokens": _tokens(self.folder / name), **self._measure(model)}

        return self._once(name, make, self.folder / name / "finished.json")

    def _once(self, title: str, make: Callable[[], dict[str, Any]], marker: Path) -> dict[str, Any]:
        if marker.exists():
            console.say(f"[dim]{title}: finished before[/dim]")
            return _read(marker)
        start = time.monotonic()
        console.say(f"[bold]{title}[/bold]")
        result = make()
        _write(marker, result)
        console.say(f"[dim]{title}: {time.monotonic() - start:.0f} s[/dim]")
        return result

    def _texts(self) -> Iterator[str]:
        """What the tokenizer will meet, each kind weighted by what a vocabulary of 2,048 should spend on it.

        Text comes line by line, so that a line's end is a token of its own: an answer in a chat follows one, after
        `</think>`, and a name is only copied there if names followed that token in the text (measured: facts_zh 78 %
        where it was joined to the full stop). Tool schemas, the same in hundreds of dialogues, count once. Every
        Chinese character that is not rare counts often enough to become a token: a name that falls apart into bytes
        is not learned (measured: facts_zh 56 %).
        """
        seen: Counter[str] = Counter()
        for row in self._rows("pretrain.jsonl"):
            seen.update(character for character in row["text"] if "\u4e00" <= character <= "\u9fff")
            yield from row["text"].splitlines()
        for character, count in seen.items():
            yield from [character] * (1000 if count >= 50 else 0)
        schemas: set[str] = set()
        for row in self._rows("sft.jsonl"):
            for turn in row["conversations"]:
                schemas.update(json.dumps(tool, ensure_ascii=False) for tool in json.loads(turn.get("tools", "[]")))
                yield from (turn[key] for key in ("content", "reasoning_content", "tool_calls") if turn.get(key))
        yield from sorted(schemas)

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        with (self.corpus / name).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def _recipe(self, stage: str, tokenizer: Path, init: str = "") -> Any:
        from minimind.recipe import Recipe, find, load

        changes: dict[str, Any] = {
            "tokenizer": str(tokenizer),
            "init": init,
            "data.files": [str(self.corpus / f"{stage}.jsonl")],
            "data.valid": [str(self.corpus / f"{stage}_valid.jsonl")],
            "train.device": self.device,
        }
        if self.quick:
            changes |= {"train.max_steps": 12, "train.valid_every": 0, "train.save_every": 0}
            changes |= {"model": {"num_hidden_layers": 2}, "train.compile": "never"}
        return load(Recipe, find("tiny", stage), changes)

    def _random(self, tokenizer: Path) -> Path:
        from minimind.stages import common

        recipe = self._recipe("pretrain", tokenizer)
        words = common.load_tokenizer(recipe)
        model = common.make_model(recipe, words)
        common.write_model(model, words, self.folder / "random" / "model")
        return self.folder / "random" / "model"

    def _pretrain(self, tokenizer: Path) -> Path:
        from minimind.stages import pretrain

        return pretrain.run(self._recipe("pretrain", tokenizer), self.folder / "pretrain")

    def _sft(self, tokenizer: Path) -> Path:
        from minimind.stages import sft

        init = str(self.folder / "pretrain" / "model")
        return sft.run(self._recipe("sft", tokenizer, init), self.folder / "sft")

    def _measure(self, directory: Path) -> dict[str, Any]:
        """Bits per byte on unseen text, and the share of held-out questions answered exactly right."""
        from minimind import runtime
        from minimind.data.smallworld import questions
        from minimind.eval.abilities import score
        from minimind.eval.bpb import bits_per_byte, text_document
        from minimind.model.store import load_model
        from minimind.tokenizer.bpe import Tokenizer

        device = runtime.device(self.device)
        dtype = runtime.compute_dtype(device)
        model, words = load_model(directory, device=device), Tokenizer.load(directory)
        rows = islice(self._rows("pretrain_valid.jsonl"), 20 if self.quick else None)
        documents = [text_document(row["text"], words) for row in rows]
        bpb = bits_per_byte(model, documents, model.config.max_position_embeddings, dtype)["bpb"]
        asked = {name: items[: 8 if self.quick else None] for name, items in questions().items()}
        scores, answers = score(model, words, asked, dtype)
        figures = {"bpb": round(bpb, 4), "scores": scores, "parameters": model.config.parameters()}
        return {**figures, "model": str(directory), "answers": answers}


def _tokens(run: Path) -> int:
    from minimind.train.metrics import read

    lines = read(run / "metrics.jsonl")
    return lines[-1]["tokens"] if lines else 0


def _samples(results: dict[str, dict[str, Any]], count: int = 5) -> list[dict[str, Any]]:
    """The same held-out questions, answered by each stage's model."""
    samples = []
    for index in range(count):
        ability = SHOWN[index % len(SHOWN)]
        answers = {stage: result["answers"][ability][index // len(SHOWN)] for stage, result in results.items()}
        first = answers["random"]
        samples.append(
            {
                "question": first["question"],
                "expected": first["expected"],
                "answers": {stage: answer["answer"] for stage, answer in answers.items()},
            }
        )
    return samples


def _show(results: dict[str, dict[str, Any]], samples: list[dict[str, Any]]) -> None:
    abilities = list(results["sft"]["scores"])
    rows = [
        (stage, f"{r['seconds']:.0f} s", r["tokens"], r["bpb"], *(f"{r['scores'][a]:.0%}" for a in abilities))
        for stage, r in results.items()
    ]
    console.table("Held-out scores", ("stage", "time", "tokens", "bits per byte", *abilities), rows)
    for sample in samples:
        print(f"\n> {sample['question']}\n{sample['answers']['sft'][:200]}")


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        raise UserError(f"{path} is damaged; start over with --fresh") from None


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")  # a marker that a crash cut short must not count as finished
    draft.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8", newline="\n")
    draft.replace(path)
