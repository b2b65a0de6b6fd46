"""What a stage gave and what it took: the model before and the model after are asked the same held-out conversations.

Every stage of fine-tuning changes more than it is asked to: the "alignment tax" (Ouyang et al. 2022,
https://arxiv.org/abs/2203.02155). The cheapest cure needs no training at all: a point on the straight line between both
models' weights often has most of the gain and little of the loss (Wortsman et al. 2022, "WiSE-FT",
https://arxiv.org/abs/2109.01903).

    weights(λ) = (1 - λ) · before + λ · after
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from minimind.console import table, track
from minimind.data.conversations import Conversation, check_answers, read_conversation
from minimind.data.corpus import expand, read_lines, read_object, text_of
from minimind.data.smallworld import Question
from minimind.errors import UserError
from minimind.eval.abilities import called, score
from minimind.eval.bpb import Document, bits_per_byte, text_document
from minimind.model.qwen3 import Transformer
from minimind.model.rope import context_length
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

SHARES = tuple(tenth / 10 for tenth in range(10, -1, -1))
"""Values of λ that are tried, the whole change first."""


class Standing(NamedTuple):
    """How a model does in one ability."""

    right: float
    """Share of the first answers that are exactly the expected ones, 0 to 1; 0 of text."""
    bpb: float
    """Bits per byte of all that the assistant should say, or of the whole text."""


class Change(NamedTuple):
    """One ability before and after."""

    before: Standing
    after: Standing

    @property
    def tax(self) -> float:
        """What was lost, below 0 what was gained: in points of right answers.

        Where no answer was exactly right before, as in free conversation and in text, in percent of the bits per byte.
        """
        if self.before.right:
            return 100 * (self.before.right - self.after.right)
        return 100 * (self.after.bpb / self.before.bpb - 1)

    def figures(self) -> dict[str, Any]:
        """For programs to read."""
        return {"before": self.before._asdict(), "after": self.after._asdict(), "tax": self.tax}


def read_abilities(
    files: Sequence[str], most: int, on_bad_line: Literal["stop", "skip"] = "stop"
) -> dict[str, list[Conversation | str]]:
    """The first `most` conversations or texts of each ability: a line's field `ability`, or else its file's name.

    Raises:
        UserError: as `read_lines`; a line in whose conversation nothing is answered is a bad one.
    """
    found: dict[str, list[Conversation | str]] = {}
    for file in expand(files):

        def read(line: bytes, name: str = Path(file).name.partition(".")[0]) -> tuple[str, Conversation | str]:
            row = read_object(line)
            item: Conversation | str
            if "text" in row:
                item = text_of(row)
            else:
                item = read_conversation(row)
                check_answers(item)
            return str(row.get("ability") or name), item

        for ability, item in read_lines([file], read, on_bad_line):
            kept = found.setdefault(ability, [])
            if len(kept) < most:
                kept.append(item)
    if not found:
        raise UserError(f"{', '.join(files)}: no conversation to ask about, every line is a bad one")
    return found


def standing(
    model: Transformer, tokenizer: Tokenizer, abilities: Mapping[str, Sequence[Conversation | str]], dtype: torch.dtype
) -> dict[str, Standing]:
    """Ask every conversation's first question, and score what the assistant should say in all of it, or the text."""
    asked = {name: [question(one) for one in items if not isinstance(one, str)] for name, items in abilities.items()}
    right = score(model, tokenizer, asked, dtype)[0] if any(asked.values()) else dict.fromkeys(asked, 0.0)
    context = context_length(model.config)
    found = {}
    for name, items in abilities.items():
        bpb = bits_per_byte(model, (document(item, tokenizer) for item in items), context, dtype)["bpb"]
        found[name] = Standing(right[name], bpb)
    return found


def question(conversation: Conversation) -> Question:
    """The conversation up to its first answer, and that answer: its words, or its calls."""
    index = next(i for i, turn in enumerate(conversation.messages) if turn["role"] == "assistant")
    answer = conversation.messages[index]
    return Question(
        messages=conversation.messages[:index],
        tools=conversation.tools or None,
        answer=answer["content"].strip(),
        calls=[called(call) for call in answer.get("tool_calls", [])] or None,
        open_thinking="reasoning_content" in answer,
    )


def document(item: Conversation | str, tokenizer: Tokenizer) -> Document:
    """The rendered conversation, of which what the assistant says is scored and control tokens are not; or the text."""
    if isinstance(item, str):
        return text_document(item, tokenizer)
    ids, mask = render(item.messages, tokenizer, item.tools)
    scored = np.array(mask) & np.array([not tokenizer.is_special(id) for id in ids])
    size = sum(len(tokenizer.token_bytes(id)) for id, counts in zip(ids, scored, strict=True) if counts)
    return Document(np.array(ids, dtype=np.int64), scored, size)


def compare(before: Mapping[str, Standing], after: Mapping[str, Standing]) -> dict[str, Change]:
    """Each ability before and after."""
    return {name: Change(was, after[name]) for name, was in before.items()}


def show(title: str, changes: Mapping[str, Change]) -> None:
    """Print what was gained and what was lost, the largest loss last."""
    columns = ("ability", "right before", "after", "bits/byte before", "after", "gain", "tax")
    rows = [
        (
            *(name, f"{one.before.right:.1%}", f"{one.after.right:.1%}", one.before.bpb, one.after.bpb),
            *(f"{-one.tax:.1f}" if one.tax < 0 else "", f"{one.tax:.1f}" if one.tax > 0 else ""),
        )
        for name, one in sorted(changes.items(), key=lambda item: item[1].tax)
    ]
    table(title, columns, rows)


def within(changes: Mapping[str, Change], limit: float) -> bool:
    """Whether no ability lost more than `limit` points."""
    return all(change.tax <= limit + 1e-9 for change in changes.values())


@torch.no_grad()
def between(before: Transformer, after: Transformer, share: float) -> Transformer:
    """The model at `share` of the way.

    Raises:
        UserError: they are not of one shape.
    """
    weights, others = dict(before.named_parameters()), dict(after.named_parameters())
    if {name: weight.shape for name, weight in weights.items()} != {name: one.shape for name, one in others.items()}:
        raise UserError("models of different shapes have no mean; compare a model with what was trained from it")
    mixed = type(after)(after.config)
    mixed.load_state_dict({name: weights[name].lerp(weight, share) for name, weight in others.items()})
    return mixed.to(after.output_weight.device).eval()


def sweep(
    before: Transformer,
    after: Transformer,
    tokenizer: Tokenizer,
    abilities: Mapping[str, Sequence[Conversation | str]],
    dtype: torch.dtype,
    limit: float,
) -> Iterator[tuple[float, dict[str, Change]]]:
    """Yield (λ, changes) from the whole change downwards, until no ability loses more than `limit`."""
    start = standing(before, tokenizer, abilities, dtype)
    for share in track(SHARES, "weighing both models"):
        changes = compare(start, standing(between(before, after, share), tokenizer, abilities, dtype))
        yield share, changes
        if within(changes, limit):
            return
