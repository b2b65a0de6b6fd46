"""The demo's steps in order. Each leaves a file that says it is finished, so a second run takes it from there."""

import importlib
import json
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from minimind import console, files
from minimind.commands.outlook import Outlook
from minimind.errors import UserError

CALCULATIONS = 60
"""Held-out tasks for the calculator that each stage is asked."""

SAMPLES = 4
"""Answers to each sum in two steps that are drawn at temperature 1, as reinforcement learning draws them."""

FEW = 8
"""Questions of each kind for a model that cannot answer yet: none will be right, and each is answered at length."""


class Lesson(NamedTuple):
    """One stage of training: a recipe of `tiny`, the stage whose model it starts from, the file that it learns from.

    `teacher` is the stage whose model explains the file, and `rehearsed` another file that is not to be forgotten,
    where there is one.
    """

    stage: str
    start: str
    data: str
    teacher: str = ""
    rehearsed: str = ""


COURSE = {
    "pretrain": Lesson("pretrain", "", "pretrain"),
    "sft": Lesson("sft", "pretrain", "sft"),
    "distill": Lesson("distill", "pretrain", "sft", teacher="sft"),
    "lora": Lesson("lora", "sft", "lora", rehearsed="sft"),
    "dpo": Lesson("dpo", "sft", "dpo", rehearsed="sft"),
    "grpo": Lesson("grpo", "dpo", "rl"),
    "agent": Lesson("agent", "grpo", "agent_mixed"),
}
STAGES = ("random", *COURSE)
TALKS = "sft"
"""The first stage whose model answers."""
_FEW_ANSWERS = {"rl.groups": 2, "rl.samples": 2, "rl.filter_groups": "keep", "rl.max_new_tokens": 16}
QUICK: dict[str, dict[str, Any]] = {
    "pretrain": {"train.max_steps": 12, "train.tokens_per_step": 1024, "train.micro_batch_tokens": 1024},
    "sft": {"train.max_steps": 4, "train.tokens_per_step": 2048, "train.micro_batch_tokens": 2048},
    "distill": {"train.max_steps": 2, "train.tokens_per_step": 2048, "train.micro_batch_tokens": 2048},
    "lora": {"train.max_steps": 2, "train.tokens_per_step": 1024, "train.micro_batch_tokens": 1024},
    "dpo": {"train.max_steps": 2},
    "grpo": {"train.max_steps": 2, **_FEW_ANSWERS},
    "agent": {"train.max_steps": 1, **_FEW_ANSWERS},
}


class Pipeline:
    """What is made in `folder`: data, tokenizer, and of each stage a run with its scores."""

    def __init__(self, folder: Path, quick: bool, device: str, seeds: int = 1, until: str = STAGES[-1]) -> None:
        self.folder, self.quick, self.device, self.seeds = folder, quick, device, seeds
        self.corpus = folder / "data"
        self.stages = STAGES[: STAGES.index(until) + 1]
        self.results: dict[str, dict[str, Any]] = {}
        self.outlook = Outlook(self.stages, seeds, self.results)

    def begin(self, fresh: bool) -> None:
        """Make the folder; if `fresh`, delete what an earlier demo made here, and nothing else.

        Raises:
            UserError: the folder holds something else, or a demo of the other size (a quick one and a full one must
                not continue each other), or cannot be written.
        """
        marker, made = self.folder / "demo.json", ("data", "tokenizer", "seeds", *STAGES)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            foreign = next((name for name in made if (self.folder / name).exists()), None)
            if foreign and not marker.exists():
                raise UserError(f"{self.folder / foreign} is no demo's; choose another --out")
            if fresh:
                for name in made:
                    shutil.rmtree(self.folder / name, ignore_errors=True)
                for name in ("report.json", "report.html", "demo.json"):
                    (self.folder / name).unlink(missing_ok=True)
            if marker.exists() and read_json(marker)["quick"] != self.quick:
                raise UserError(f"{self.folder} holds a demo of the other size; use --fresh, or another --out")
            write_json(marker, {"quick": self.quick})
        except OSError as error:
            raise UserError(f"--out {self.folder}: cannot be written ({error.strerror}); choose another") from None

    def data(self) -> None:
        """The small world as JSON Lines."""
        from minimind.data.smallworld import generate

        def make() -> dict[str, Any]:
            return generate(self.corpus, size_mb=0.5 if self.quick else None)

        self._once("data", make, self.corpus / "finished.json")

    def tokenizer(self) -> Path:
        """A vocabulary of 2,560, learned from the world's own text: of 2,304 some names are no tokens any more."""
        from minimind.tokenizer.train import train_tokenizer

        where = self.folder / "tokenizer"

        def make() -> dict[str, Any]:
            tokenizer = train_tokenizer(self._texts(), 2560, max_token_bytes=8)
            tokenizer.save(where)
            return {"vocab_size": tokenizer.vocab_size}

        self._once("tokenizer", make, where / "finished.json")
        return where

    def run(self, tokenizer: Path) -> dict[str, dict[str, Any]]:
        """All stages in order; the first model that answers is announced."""
        with console.in_all(self.outlook.line):
            for name in self.stages:
                self.results[name] = self.stage(name, tokenizer)
        return self.results

    def talk(self, stage: str) -> str:
        """The command that talks to the model of a stage."""
        return f"minimind chat {shlex.quote(str(self.folder / stage / 'model'))}"

    def stage(self, name: str, tokenizer: Path) -> dict[str, Any]:
        """Train one stage and measure its model; `again` are the scores of the same stage with other seeds.

        Those start from the same model, so pretraining is done once.
        """

        def once(title: str, run: Path, seed: int) -> dict[str, Any]:
            def make() -> dict[str, Any]:
                start = time.monotonic()
                self.outlook.enter(name)
                model = self._random(tokenizer) if name == "random" else self._train(name, tokenizer, run, seed)
                trained = time.monotonic()
                if title == TALKS and name != self.stages[-1]:
                    console.say("You can talk to it now, in another terminal:  ", console.bold(self.talk(name)))
                    console.say("The later stages go on here. Ctrl-C stops them; the same command continues.")
                self.outlook.enter(name, asking=True)
                figures = self._measure(model, FEW if STAGES.index(name) < STAGES.index(TALKS) else None)
                seconds = round(max(trained - start, _seconds(run)), 1)
                return {"seconds": seconds, "asking": time.monotonic() - trained, "tokens": _tokens(run), **figures}

            return self._once(title, make, run / "finished.json")

        result = once(name, self.folder / name, 0)
        others = range(1, self.seeds) if name in COURSE and COURSE[name].start else ()
        again = [once(f"{name} with seed {seed}", self.folder / "seeds" / f"{name}-{seed}", seed) for seed in others]
        return result | {"again": [other["scores"] for other in again]}

    def _once(self, title: str, make: Callable[[], dict[str, Any]], marker: Path) -> dict[str, Any]:
        if marker.exists():
            console.say(console.dim(f"{title}: finished before"))
            return read_json(marker)
        start = time.monotonic()
        console.say(console.bold(title))
        result = make()
        write_json(marker, result)
        console.say(console.dim(f"{title}: {time.monotonic() - start:.0f} s"))
        return result

    def _texts(self) -> Iterator[str]:
        """What the tokenizer will meet, each kind weighted by what a small vocabulary should spend on it.

        Text comes line by line, so that a line's end is a token of its own: an answer in a chat follows one, after
        `</think>`, and a name is only copied there if names followed that token in the text (measured: facts_zh 78 %
        where it was joined to the full stop). Every Chinese character that is not rare counts often enough to become
        a token: a name that falls apart into bytes is not learned (measured: facts_zh 56 %). Schemas count in each
        dialogue that offers them: all eight are 750 tokens then, and 1,130 if they count once.
        """
        seen: Counter[str] = Counter()
        for row in self._rows("pretrain.jsonl"):
            seen.update(character for character in row["text"] if "\u4e00" <= character <= "\u9fff")
            yield from row["text"].splitlines()
        for character, count in seen.items():
            yield from [character] * (1000 if count >= 50 else 0)
        for row in self._rows("sft.jsonl"):
            for turn in row["conversations"]:
                spoken = ("content", "reasoning_content", "tool_calls", "tools")
                yield from (turn[key] for key in spoken if turn.get(key))

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        with (self.corpus / name).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def _recipe(self, name: str, tokenizer: Path, seed: int = 0) -> Any:
        from minimind.recipe import Recipe, find, load

        lesson = COURSE[name]
        changes: dict[str, Any] = {
            "tokenizer": str(tokenizer),
            "init": str(self.folder / lesson.start / "model") if lesson.start else "",
            "data.files": [str(self.corpus / f"{lesson.data}.jsonl")],
            "data.valid": [str(self.corpus / f"{lesson.data}_valid.jsonl")],
            "train.device": self.device,
        }
        if seed:
            changes["train.seed"] = seed
        if lesson.teacher:
            changes["distill.teacher"] = str(self.folder / lesson.teacher / "model")
        if lesson.rehearsed:
            changes["rehearsal.files"] = [str(self.corpus / f"{lesson.rehearsed}.jsonl")]
        if self.quick:
            changes |= {"data.valid": [], "data.valid_fraction": 0.0, "train.compile": "never"}
            changes |= dict.fromkeys(("train.valid_every", "train.save_every", "train.sample_every"), 0)
            changes |= {"model": {"num_hidden_layers": 2}, **QUICK[name]}
        return load(Recipe, find(f"tiny/{name}", lesson.stage), changes)

    def _random(self, tokenizer: Path) -> Path:
        from minimind.stages import setup

        recipe = self._recipe("pretrain", tokenizer)
        words = setup.load_tokenizer(recipe)
        model = setup.make_model(recipe, words)
        setup.write_model(model, words, self.folder / "random" / "model")
        return self.folder / "random" / "model"

    def _train(self, name: str, tokenizer: Path, run: Path, seed: int) -> Path:
        stage = importlib.import_module(f"minimind.stages.{COURSE[name].stage}")
        return stage.run(self._recipe(name, tokenizer, seed), run)

    def _measure(self, directory: Path, most: int | None) -> dict[str, Any]:
        """Bits per byte on unseen text, and the share of held-out questions answered right, at most so many a kind."""
        from minimind import runtime
        from minimind.data.smallworld import behaviours, persona_questions, questions, small_talk_questions
        from minimind.engine.sampling import Sampling
        from minimind.eval import toolcall
        from minimind.eval.abilities import score
        from minimind.eval.bpb import bits_per_byte, text_document
        from minimind.model.store import load_model
        from minimind.tokenizer.bpe import Tokenizer

        most = 2 if self.quick else most
        device = runtime.device(self.device)
        dtype = runtime.compute_dtype(device)
        model, words = load_model(directory, device=device), Tokenizer.load(directory)
        rows = islice(self._rows("pretrain_valid.jsonl"), 5 if self.quick else None)
        documents = [text_document(row["text"], words) for row in rows]
        bpb = bits_per_byte(model, documents, model.config.max_position_embeddings, dtype)["bpb"]
        asked = {**questions(), **small_talk_questions(), **persona_questions(), **behaviours()}
        asked = {name: items[:most] for name, items in asked.items()}
        scores, answers = score(model, words, asked, dtype)
        several = {"thinking": SAMPLES * asked["thinking"]}
        scores["thinking_t1"] = score(model, words, several, dtype, Sampling(temperature=1.0))[0]["thinking"]
        cases = toolcall.arithmetic(most or CALCULATIONS)
        scores["calculator"] = toolcall.figures(toolcall.run(model, words, cases, dtype))["score"]
        figures = {"bpb": round(bpb, 4), "scores": scores, "parameters": model.config.parameters()}
        return {**figures, "model": str(directory), "answers": answers}


def _seconds(run: Path) -> float:
    """How long a run has trained, in all processes that continued it."""
    from minimind.train.metrics import read

    lines = [line for line in read(run / "metrics.jsonl") if "tokens_per_second" in line]
    before = [0, *(line["tokens"] for line in lines)]
    return sum((line["tokens"] - at) / line["tokens_per_second"] for at, line in zip(before, lines, strict=False))


def _tokens(run: Path) -> int:
    from minimind.train.metrics import read

    lines = read(run / "metrics.jsonl")
    return lines[-1]["tokens"] if lines else 0


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        UserError: it is damaged.
    """
    try:
        return files.read_json(path)
    except UserError as error:
        raise UserError(f"{error}; start over with --fresh") from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file that a crash cannot leave half there: a marker that was cut short must not count as finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, content)
