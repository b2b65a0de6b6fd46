"""Multiple choice by log-likelihood: the model never writes an answer, it only says how likely each choice is.

A question is one document that branches: the prompt is computed once, and every choice continues from it.

    prompt ─┬─ choice A        a token sees the trunk (what all choices share: the prompt, and the words that
            ├─ choice B        they begin with) and the earlier tokens of its own branch; positions go on from
            └─ choice C        the end of the trunk in every branch

So the scores are those of the separate texts prompt + choice, at the price of one. Letters: B rows, T time,
N scored tokens, C hidden, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from minimind import runtime
from minimind.compiler import can_compile
from minimind.console import progress
from minimind.errors import UserError
from minimind.eval.tasks import Question
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.text import utf8
from minimind.tokenizer.bpe import Tokenizer

LOGIT_ROWS = 1024
"""Scored tokens whose logits exist at a time."""
BATCH_TOKENS = {"cpu": 2048}
"""More only spills out of the caches of a CPU."""
COMPILE_FROM = 1e13
"""Parameters times tokens from which compiling is won back: it takes 8 s, then all is 1.45 times as fast (2 cores)."""


class Tree(NamedTuple):
    """Token ids of a context (at least one) and of the continuations (at least one each) to be scored after it."""

    context: list[int]
    continuations: list[list[int]]


class Score(NamedTuple):
    """Log-likelihood of a continuation in nats, and whether greedy decoding would have written it."""

    logprob: float
    greedy: bool


class _Row(NamedTuple):
    """A tree laid out as one row, and which of the results it gives."""

    tree: int
    choices: list[int]
    ids: list[int]
    branches: list[int]
    """Of each token: 0 in the trunk, 1, 2, ... in the branches."""
    positions: list[int]
    scored: list[list[tuple[int, int]]]
    """For each choice, (column whose state predicts it, token id) of its tokens."""


def plant(question: Question, tokenizer: Tokenizer) -> Tree:
    """Encode a question under one policy, that of lm-eval, so that scores are comparable.

    - No bos before the prompt (a tokenizer's own template may add one elsewhere; ours never does). Only an empty
      prompt becomes bos, or eos where there is no bos.
    - A choice is separated from the prompt by one space, which belongs to the choice, as does whitespace at the
      end of the prompt; prompt and choice are encoded together, then cut where the prompt's own tokens end.
    """
    prompt = question.prompt.rstrip()
    gap = question.prompt[len(prompt) :] + " "
    if prompt:
        context, start = tokenizer.encode(prompt), len(tokenizer.encode(prompt))
    else:
        first = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
        if first is None:
            raise UserError("a question without a prompt needs a tokenizer with a bos or an eos token")
        context, start = [first], 0
    return Tree(context, [tokenizer.encode(prompt + gap + choice)[start:] for choice in question.choices])


@torch.no_grad()
def log_likelihoods(
    model: Transformer, trees: Sequence[Tree], longest: int | None = None, batch_tokens: int = 0, title: str = "scoring"
) -> list[list[Score]]:
    """Score every continuation of every tree, in the number format of the model's weights and in the order of `trees`.

    Context and continuation longer than the model's context are cut at the left, as lm-eval does. A float32 model
    agrees with other implementations to about 1e-4 nats.

    Args:
        model: the model.
        trees: what to score.
        longest: the most tokens that are read of one text; the model's context if not given.
        batch_tokens: tokens of a batch, padding included; 0 chooses by device.
        title: of the progress bar.

    Raises:
        UserError: a continuation alone is longer than the model's context.
    """
    longest = longest or model.config.max_position_embeddings
    batch_tokens = batch_tokens or BATCH_TOKENS.get(model.output_weight.device.type, 32768)
    rows = [row for number, tree in enumerate(trees) for row in _fit(tree, number, longest)]
    rows.sort(key=lambda row: -len(row.ids))
    results: list[list[Score]] = [[Score(0.0, True)] * len(tree.continuations) for tree in trees]
    with progress(title, len(rows)) as bar, runtime.evaluating(model):
        while rows:
            count = max(1, batch_tokens // len(rows[0].ids))
            batch, rows = rows[:count], rows[count:]
            logprobs, greedy = _score(model, batch)
            at = 0
            for row in batch:
                for choice, scored in zip(row.choices, row.scored, strict=True):
                    end = at + len(scored)
                    results[row.tree][choice] = Score(math.fsum(logprobs[at:end]), all(greedy[at:end]))
                    at = end
            bar.advance(len(batch))
    return results


def _fit(tree: Tree, number: int, longest: int) -> list[_Row]:
    """One row for the tree; where a choice is too long for the context, a row for each choice with its own cut."""
    context, continuations = tree
    if len(context) + max(map(len, continuations)) <= longest + 1:
        return [_lay_out(number, list(range(len(continuations))), context, continuations)]
    rows = []
    for choice, continuation in enumerate(continuations):
        if len(continuation) > longest:
            raise UserError(
                f"question {number + 1} has a choice of {len(continuation)} tokens, "
                f"but the model's context is {longest}: shorten the choice"
            )
        rows.append(_lay_out(number, [choice], context[-(longest + 1 - len(continuation)) :], [continuation]))
    return rows


def _lay_out(number: int, choices: list[int], context: list[int], continuations: list[list[int]]) -> _Row:
    texts = [context + continuation for continuation in continuations]
    read = [text[:-1] for text in texts]  # the last token is predicted, never read
    trunk = next((at for at, here in enumerate(zip(*read, strict=False)) if len(set(here)) > 1), min(map(len, read)))
    ids, branches, positions = texts[0][:trunk], [0] * trunk, list(range(trunk))
    scored = []
    for branch, text in enumerate(texts, 1):
        shift = len(ids) - trunk  # from a position in the text to its column, beyond the trunk
        predicted_from = range(len(context) - 1, len(text) - 1)
        scored.append([(at if at < trunk else at + shift, text[at + 1]) for at in predicted_from])
        ids += text[trunk:-1]
        branches += [branch] * (len(text) - 1 - trunk)
        positions += range(trunk, len(text) - 1)
    return _Row(number, choices, ids, branches, positions, scored)


def _score(model: Transformer, rows: list[_Row]) -> tuple[list[float], list[bool]]:
    """Log-probability of each scored token of the rows, in order, and whether it was the likeliest."""
    device, longest = model.output_weight.device, len(rows[0].ids)

    def padded(lists: list[list[int]], padding: int) -> Tensor:
        return torch.tensor([one + [padding] * (longest - len(one)) for one in lists], device=device)

    ids_BT = padded([row.ids for row in rows], 0)
    branches_BT = padded([row.branches for row in rows], -1)
    positions_BT = padded([row.positions for row in rows], 0)
    segments = Segments(branches_BT.clamp(max=0).int(), positions_BT, branches_BT.clamp(min=0))
    states_BTC = model(ids_BT, segments).states
    places = [(i, column, token) for i, row in enumerate(rows) for scored in row.scored for column, token in scored]
    row_N, column_N, label_N = torch.tensor(places, device=device).unbind(1)
    logprobs, greedy = [], []
    for states_NC, labels_N in zip(
        states_BTC[row_N, column_N].split(LOGIT_ROWS), label_N.split(LOGIT_ROWS), strict=True
    ):
        logits_NV = F.linear(states_NC, model.output_weight).float()
        label_logit_N = logits_NV.gather(1, labels_N[:, None]).squeeze(1)
        logprobs += (label_logit_N - logits_NV.logsumexp(-1)).tolist()
        greedy += (logits_NV.argmax(-1) == labels_N).tolist()
    return logprobs, greedy


def evaluate(
    model: Transformer, tokenizer: Tokenizer, questions: Mapping[str, Sequence[Question]]
) -> dict[str, dict[str, float | int | None]]:
    """Ask the questions of each task and count the right answers; see `accuracy` for what is returned of each."""
    trees = {task: [plant(question, tokenizer) for question in asked] for task, asked in questions.items()}
    device = model.output_weight.device
    if device.type == "cpu" and _work(model, trees) >= COMPILE_FROM and can_compile(device.type):
        model.compile_blocks(dynamic=True)
    figures = {}
    for task, asked in questions.items():
        scores = log_likelihoods(model, trees[task], title=task)
        figures[task] = accuracy(asked, [[score.logprob for score in of_one] for of_one in scores])
    return figures


def _work(model: Transformer, trees: Mapping[str, Sequence[Tree]]) -> float:
    """Parameters that work, times tokens."""
    tokens = sum(len(t.context) + sum(map(len, t.continuations)) for of_task in trees.values() for t in of_task)
    return float(tokens) * model.config.parameters(active=True)


def accuracy(
    questions: Sequence[Question], log_likelihoods: Sequence[Sequence[float]]
) -> dict[str, float | int | None]:
    """What share of the questions has its right choice on top (the first of equals wins).

    Returns:
        `acc`: by log-likelihood; `acc_norm`: by log-likelihood per UTF-8 byte of the choice, so that long choices
        are not at a disadvantage; `stderr` of `acc`, from the sample's variance (None for one question); `n`; `random`:
        what guessing would score.
    """
    right = right_per_byte = 0
    for question, values in zip(questions, log_likelihoods, strict=True):
        sizes = [len(utf8(choice)) for choice in question.choices]
        per_byte = [value / max(1, size) for value, size in zip(values, sizes, strict=True)]
        right += values.index(max(values)) == question.answer
        right_per_byte += per_byte.index(max(per_byte)) == question.answer
    n = len(questions)
    share = right / n
    return {
        "acc": share,
        "acc_norm": right_per_byte / n,
        "stderr": math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None,
        "n": n,
        "random": sum(1 / len(question.choices) for question in questions) / n,
    }
