"""Everything that the page asks, answered as plain values for JSON; `minimind/serve/glass.py` puts it on the network.

A question is a room's name and an object. In most of them there is a prompt: `{"text": "..."}`, read as in pretraining,
or `{"messages": [...]}`, a conversation; and which checkpoint is asked. Shape letters are those of `trace`.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from minimind.errors import UserError
from minimind.fields import Fields
from minimind.inspect.shelf import Shelf

Answer = dict[str, Any]


class LookingGlass:
    """Answers about the models at `path`. Not thread-safe."""

    page = files("minimind.inspect") / "page"
    """The folder of the page's files."""

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        self.shelf = Shelf(path, device)
        self.rooms: dict[str, Callable[[Fields], Answer]] = {"model": self.model}

    def answer(self, room: str, asked: Mapping[str, Any]) -> Answer:
        """The answer to one question.

        Raises:
            UserError: there is no such room, or something is wrong with what is asked.
        """
        if room not in self.rooms:
            raise UserError(f"there is no room {room!r} here; there are {', '.join(self.rooms)}")
        return self.rooms[room](Fields(asked, "the request"))

    def model(self, asked: Fields) -> Answer:
        """What there is to look at."""
        shelf = self.shelf
        model = shelf.model(shelf.place(None))
        config = model.config
        return {
            "name": shelf.name,
            "parameters": config.parameters(),
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "hidden": config.hidden_size,
            "vocab": config.vocab_size,
            "experts": config.num_experts,
            "sparse_layers": [layer for layer in range(config.num_hidden_layers) if config.is_sparse(layer)],
            "context": config.max_position_embeddings,
            "checkpoints": [{"name": one.name, "step": one.step, "stage": one.stage} for one in shelf.models],
            "others": [{"name": one.name} for one in shelf.others],
        }
