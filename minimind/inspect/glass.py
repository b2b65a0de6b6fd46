"""Everything that the page asks, answered; `minimind/serve/glass.py` puts it on the network."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from minimind.errors import UserError
from minimind.fields import Fields
from minimind.inspect.rooms import QUESTIONS
from minimind.inspect.view import Answer, View


class LookingGlass(View):
    """Answers about the models at `path`."""

    page = files("minimind.inspect") / "page"
    """The folder of the page's files."""

    def answer(self, room: str, asked: Mapping[str, Any]) -> Answer:
        """The answer to one question.

        Raises:
            UserError: there is no such room, or something is wrong with what is asked.
        """
        if room not in QUESTIONS:
            raise UserError(f"there is no room {room!r} here; there are {', '.join(QUESTIONS)}")
        return QUESTIONS[room](self, Fields(asked, "the request"))
