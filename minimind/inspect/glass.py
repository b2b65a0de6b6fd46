"""Everything that the page asks, answered; `minimind/serve/glass.py` puts it on the network."""

import json
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from minimind.errors import UserError
from minimind.fields import Fields
from minimind.inspect.rooms import QUESTIONS
from minimind.inspect.view import Answer, View, kept

KEPT_ANSWERS = 64


class LookingGlass(View):
    """Answers about the models at `path`; the newest are remembered."""

    page = files("minimind.inspect") / "page"
    """The folder of the page's files."""

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        super().__init__(path, device)
        self._answers: OrderedDict[Hashable, Answer] = OrderedDict()

    def answer(self, room: str, asked: Mapping[str, Any]) -> Answer:
        """The answer to one question.

        Raises:
            UserError: there is no such room, or something is wrong with what is asked.
        """
        if room not in QUESTIONS:
            raise UserError(f"there is no room {room!r} here; there are {', '.join(QUESTIONS)}")
        question = (room, json.dumps(asked, sort_keys=True))
        return kept(self._answers, question, KEPT_ANSWERS, lambda: QUESTIONS[room](self, Fields(asked, "the request")))
