"""Rewards that ask a model: a judge behind an OpenAI-compatible endpoint, a reward model, or a scoring service."""

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.request import Request, urlopen

import torch

from minimind import runtime
from minimind.errors import UsageError
from minimind.eval.endpoint import RequestFailed, at_once
from minimind.eval.judge import BEST, Judge
from minimind.files import read_json as read_file
from minimind.model.attend import Segments
from minimind.model.hf_config import scores_texts
from minimind.model.qwen3 import Scorer
from minimind.model.store import load_scorer
from minimind.rl.rewards import Reward, RewardContext, built
from minimind.rl.rollout import Sample
from minimind.text import read_json, write_json
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

BATCH_TOKENS = 8192
Texts = Sequence[tuple[list[dict[str, Any]], str]]
"""A conversation and what is said next."""


def weighed(score: Any, thinking_weight: float) -> Reward:
    """A reward from `score(texts) -> list[float | None]`: of the answers, and of their thinking if it has a weight."""

    def judge(samples: Sequence[Sample]) -> list[float | None]:
        found: list[float | None] = score([(sample.prompt.messages, sample.answer) for sample in samples])
        if not thinking_weight:
            return found
        thoughts = [(n, str(sample.message.get("reasoning_content", ""))) for n, sample in enumerate(samples)]
        thoughts = [(n, thought) for n, thought in thoughts if thought]
        scores = score([(samples[n].prompt.messages, thought) for n, thought in thoughts])
        for (n, _), value in zip(thoughts, scores, strict=True):
            answer = found[n]
            both = answer is not None and value is not None
            found[n] = (answer + thinking_weight * value) / (1 + thinking_weight) if both else None
        return found

    return judge


@built
def judge(context: RewardContext) -> Reward:
    """The mean of a judge's grades, from 0 to 1; equal answers to equal questions are graded once."""
    config = context.scoring
    if not config.judge or not config.judge_model:
        raise UsageError(
            "recipe: the reward `judge` needs scoring.judge (an address up to /v1) and scoring.judge_model"
        )
    asked = Judge(config.judge, config.judge_model, runtime.endpoint_key(), config.timeout / 2, config.judge_tries, 0.5)
    known: dict[tuple[str, str], float | None] = {}

    def score(texts: Texts) -> list[float | None]:
        """None for what could not be graded, which is asked about again when it is said again."""
        pairs = [(_question(messages), said) for messages, said in texts]
        new = list(dict.fromkeys(pair for pair in pairs if pair not in known))
        failures: list[RequestFailed] = []
        for pair, grades in at_once({pair: partial(asked.grade, *pair) for pair in new}):
            if isinstance(grades, RequestFailed):
                failures.append(grades)
            else:
                known[pair] = None if grades is None else (mean(grades.values()) - 1) / (BEST - 1)
        if new and len(failures) == len(new):
            raise failures[0]
        return [known.get(pair) for pair in pairs]

    return weighed(score, config.thinking_weight)


@built
def reward_model(context: RewardContext) -> Reward:
    """The score of a reward model: ours, or any other sequence-classification directory through `transformers`."""
    config = context.scoring
    if not config.reward_model:
        raise UsageError("recipe: the reward `reward_model` needs scoring.reward_model, its directory")
    directory = Path(config.reward_model)
    content = read_file(directory / "config.json")
    if content.get("model_type") in ("qwen3", "qwen3_moe") and scores_texts(content):
        scorer = load_scorer(directory, device=context.device)
        tokenizer = Tokenizer.load(directory)
        return weighed(lambda texts: score_texts(scorer, tokenizer, texts), config.thinking_weight)
    return weighed(_through_transformers(directory, content, config.trust_remote_code), config.thinking_weight)


@torch.no_grad()
def score_texts(scorer: Scorer, tokenizer: Tokenizer, texts: Texts) -> list[float | None]:
    """A reward model's score of each text, read where it was trained: at the last token of the whole conversation."""
    rows = [render([*messages, {"role": "assistant", "content": said}], tokenizer)[0] for messages, said in texts]
    device = scorer.score.weight.device
    scores: list[float | None] = []
    at_once = max(1, BATCH_TOKENS // max(map(len, rows), default=1))
    for first in range(0, len(rows), at_once):
        some = rows[first : first + at_once]
        lengths_B = torch.tensor([len(row) for row in some])
        longest = max(map(len, some))
        ids_BT = torch.tensor([row + [0] * (longest - len(row)) for row in some], device=device)
        states = scorer(ids_BT, Segments.right_padded(lengths_B, longest, device)).states
        last = states[torch.arange(len(some), device=device), (lengths_B - 1).to(device)]
        scores += scorer.scores(last).tolist()
    return scores


def _through_transformers(directory: Path, content: dict[str, Any], trust: bool) -> Any:
    """Another library's reward model; one that brings its own code is run only where the recipe says so."""
    if "auto_map" in content and not trust:
        raise UsageError(
            f"{directory} brings code of its own, which can do anything; if you trust it, set "
            f"scoring.trust_remote_code = true"
        )
    if "auto_map" not in content and not scores_texts(content):  # transformers would give it a head of random weights
        raise UsageError(f"{directory} is a language model: it writes texts and scores none; name a reward model")
    try:
        transformers: Any = import_module("transformers")
    except ImportError:
        raise UsageError(f'{directory} needs transformers: pip install "minimind[export]"') from None
    kind = transformers.AutoModel if "auto_map" in content else transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(directory, trust_remote_code=trust).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=trust)

    @torch.no_grad()
    def score(texts: Texts) -> list[float | None]:
        chats = [[*messages, {"role": "assistant", "content": said}] for messages, said in texts]
        if hasattr(model, "get_scores"):  # InternLM2's
            return [float(value) for value in model.get_scores(tokenizer, chats)]
        found: list[float | None] = []
        for chat in chats:
            ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=False)
            found.append(float(model(ids).logits[0, 0]))
        return found

    return score


@built
def service(context: RewardContext) -> Reward:
    """What a scoring service says: it is posted messages and answers, and replies with a list of numbers.

    Null, or anything else that is no number, means that it cannot say.
    """
    config = context.scoring
    if not config.service:
        raise UsageError("recipe: the reward `service` needs scoring.service, its address")

    def judged(samples: Sequence[Sample]) -> list[float | None]:
        rows = [
            {
                **{"messages": sample.prompt.messages, "answer": sample.answer, "gt": sample.prompt.gt},
                **{"reasoning": sample.message.get("reasoning_content", ""), "status": sample.status},
            }
            for sample in samples
        ]
        body = write_json({"samples": rows}).encode()
        request = Request(config.service, body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=config.timeout) as response:
            scores = read_json(response.read())["scores"]
        return [float(score) if isinstance(score, int | float) else None for score in scores]

    return judged


def _question(messages: Sequence[dict[str, Any]]) -> str:
    said = [turn["content"] for turn in messages if turn["role"] == "user"]
    return str(said[-1]) if said else ""
