"""How the shipped tokenizer was made: mixtures of a bilingual corpus, measured, and the chosen one written.

    python benchmarks/default_tokenizer.py --corpus DIR                    measure every mixture below
    python benchmarks/default_tokenizer.py --corpus DIR --mixture shipped --write minimind/tokenizer/default

DIR holds pretrain.jsonl, pretrain_valid.jsonl, sft_valid.jsonl and xiyouji.txt. Only pretrain.jsonl and the small
world's pretraining text (1 MB, seed 0) are trained on. BPE gives its entries to what is frequent, so a mixture says
how often each kind of text counts: weight 2.35 takes every document twice and the first 35 % a third time. The kinds
are told apart by crude signs (particles of modern Chinese, pronouns of stories, long words of expository English),
not by source.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from minimind.console import print_json, say
from minimind.data.smallworld.generate import generate
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.report import han_share, measure
from minimind.tokenizer.train import train_tokenizer


@dataclass(frozen=True)
class Mixture:
    zh_modern: float
    zh_novel: float  # classical novels and histories
    zh_poem: float
    en_expository: float  # encyclopedia, textbooks, web pages
    en_plain: float  # short words, but no story: dialogues, word problems, questions
    en_story: float
    small_world: float


MIXTURES = {
    "everything": Mixture(1, 1, 1, 1, 1, 1, 0),
    "modern": Mixture(1, 0.5, 0.5, 1, 1, 0.25, 0),
    "more English": Mixture(1, 0.5, 0.5, 1.5, 1.5, 0.25, 0),
    "no stories": Mixture(1, 0.5, 0.5, 2, 2, 0, 0),
    "expository": Mixture(1, 0.6, 0.6, 3, 1, 0, 0),
    "few poems": Mixture(1, 0.8, 0.2, 2.4, 1.2, 0.1, 0),
    "without the small world": Mixture(1, 0.7, 0.4, 2.3, 1.3, 0.05, 0),
    "much small world": Mixture(1, 0.7, 0.45, 2.45, 1.3, 0.1, 1),
    "shipped": Mixture(1, 0.75, 0.42, 2.35, 1.26, 0.05, 0.3),
}
GOALS = {"pretrain zh": 1.17, "pretrain en": 3.25, "sft zh": 1.27, "sft en": 3.06, "xiyouji zh": 1.04}

_PARTICLES = re.compile("[的了是在们]")
_HAN = re.compile("[\u3400-\u9fff]")
_PRONOUNS = re.compile(r"\b(he|she|his|her|him|was|were|had|said|upon|they|them)\b", re.IGNORECASE)
_WORD = re.compile("[A-Za-z]+")


def kind_of(text: str) -> str:
    if han_share(text) >= 0.3:
        if len(_PARTICLES.findall(text)) >= 0.035 * len(_HAN.findall(text)):
            return "zh_modern"
        return "zh_poem" if text.startswith("《") else "zh_novel"
    words = _WORD.findall(text)
    if len(_PRONOUNS.findall(text)) > 0.07 * max(1, len(words)):
        return "en_story"
    return "en_expository" if sum(map(len, words)) >= 4.55 * max(1, len(words)) else "en_plain"


def documents(corpus: Path) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {kind: [] for kind in Mixture.__annotations__}
    for text in texts_of(corpus / "pretrain.jsonl"):
        kinds[kind_of(text)].append(text)
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), size_mb=1, seed=0)
        kinds["small_world"] = texts_of(Path(folder) / "pretrain.jsonl")
    return kinds


def texts_of(file: Path) -> list[str]:
    return [json.loads(line)["text"] for line in file.open(encoding="utf-8")]


def mixed(kinds: dict[str, list[str]], mixture: Mixture) -> Iterator[str]:
    for kind, weight in asdict(mixture).items():
        whole, part = divmod(weight, 1)
        yield from kinds[kind] * int(whole)
        yield from kinds[kind][: round(part * len(kinds[kind]))]


def figures(tokenizer: Tokenizer, corpus: Path) -> dict[str, float]:
    """Characters a token on what no mixture was trained on."""
    lines = (corpus / "sft_valid.jsonl").open(encoding="utf-8")
    turns = [turn["content"] for line in lines for turn in json.loads(line)["conversations"] if turn.get("content")]
    pretrain = measure(tokenizer, texts_of(corpus / "pretrain_valid.jsonl"))["chars_per_token"]
    sft = measure(tokenizer, turns)["chars_per_token"]
    novel = measure(tokenizer, [(corpus / "xiyouji.txt").read_text(encoding="utf-8")])["chars_per_token"]
    found = (pretrain["zh"], pretrain["en"], sft["zh"], sft["en"], novel["zh"])
    return dict(zip(GOALS, found, strict=True))


def main(corpus: Path, mixture: str = "", write: Path | None = None) -> None:
    """Measure mixtures, or one, and write that one's tokenizer."""
    kinds = documents(corpus)
    say(", ".join(f"{kind} {len(texts):,} documents" for kind, texts in kinds.items()))
    for name in [mixture] if mixture else MIXTURES:
        tokenizer = train_tokenizer(mixed(kinds, MIXTURES[name]))
        found = figures(tokenizer, corpus)
        missed = [goal for goal in GOALS if found[goal] < GOALS[goal]]
        print_json({"mixture": name, **{goal: round(value, 4) for goal, value in found.items()}, "missed": missed})
        if write:
            tokenizer.save(write)


if __name__ == "__main__":
    tyro.cli(main)
