"""What the rooms of the looking-glass share: the models, prompts that were traced, and how values are written.

Shape letters are those of `trace`.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from minimind.fields import Fields
from minimind.inspect.prompts import read_prompt, shown
from minimind.inspect.shelf import Place, Shelf
from minimind.inspect.trace import Trace, trace, without
from minimind.model.qwen3 import Transformer

Answer = dict[str, Any]
T = TypeVar("T")
KEPT_TRACES = 8


class View:
    """The models at `path`, and what a question says about them. Not thread-safe."""

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        self.shelf = Shelf(path, device)
        self.tokenizer = self.shelf.tokenizer
        self.words_of_experts: OrderedDict[Hashable, Answer] = OrderedDict()
        """Of the models whose experts were looked at."""
        self._traces: OrderedDict[Hashable, Trace] = OrderedDict()

    def place(self, asked: Fields) -> Place:
        """The checkpoint that is asked."""
        return self.shelf.place(asked.text("checkpoint", None))

    def trace(self, asked: Fields) -> Trace:
        """The trace of a prompt; the newest are kept, for one prompt is looked at in many ways."""
        place, ids, off = self.place(asked), read_prompt(asked, self.tokenizer).ids, asked.items("off")

        def traced() -> Trace:
            model = self.shelf.model(place)
            with switched_off(model, off):
                return trace(model, ids)

        return kept(self._traces, (place, tuple(ids), json.dumps(off, sort_keys=True)), KEPT_TRACES, traced)

    def token(self, asked: Fields, name: str, default: int | None) -> int:
        """The token id that a question names."""
        id = asked.integer(name, default, 0, self.tokenizer.vocab_size - 1)
        if id is None:
            raise asked.wrong(name, "a token's id")
        return id

    def shown(self, id: int) -> str:
        """A token as the page writes it."""
        return shown(self.tokenizer, id)

    def texts(self, ids: Sequence[int]) -> list[str]:
        """Tokens as the page writes them."""
        return [self.shown(id) for id in ids]

    def likeliest(self, logits_V: Tensor, k: int) -> list[Answer]:
        """The `k` likeliest tokens and their probabilities."""
        best = logits_V.softmax(-1).topk(k)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"id": id, "text": self.shown(id), "probability": rounded(p)} for id, p in pairs]


@contextmanager
def switched_off(model: Transformer, off: Sequence[Any]) -> Iterator[None]:
    """Parts as the page names them: `{"layer": 2, "head": 3}`, `{"layer": 2, "mlp": true}` or `{"layer": 2}`."""
    with ExitStack() as stack:
        for one in off:
            part = Fields(one if isinstance(one, Mapping) else {}, "the request: off")
            layer, head = part.integer("layer", None), part.integer("head", None)
            if layer is None:
                raise part.wrong("layer", "the number of a layer")
            if head is not None:
                stack.enter_context(without(model, head=(layer, head)))
            elif part.flag("mlp"):
                stack.enter_context(without(model, mlp=layer))
            else:
                stack.enter_context(without(model, layer=layer))
        yield


def kept(store: OrderedDict[Hashable, T], key: Hashable, most: int, make: Callable[[], T]) -> T:
    """What the store has under the key, or will have: it holds the `most` newest."""
    if key not in store:
        store[key] = make()
        while len(store) > most:
            store.popitem(last=False)
    store.move_to_end(key)
    return store[key]


def rounded(value: float) -> float:
    """Four significant digits: enough to draw, and short as JSON."""
    return float(f"{value:.4g}")


def all_rounded(values: Sequence[float]) -> list[float]:
    """The same for each."""
    return [rounded(value) for value in values]
