"""The looking-glass on the network: its page, and `POST /inspect/ROOM` with an object, answered by another one."""

from collections.abc import Mapping
from functools import partial
from importlib.resources.abc import Traversable
from typing import Any, Protocol

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from minimind.serve.bodies import value_of
from minimind.serve.errors import ApiError, Json
from minimind.serve.pools import Pool
from minimind.serve.site import sender


class Glass(Protocol):
    """Answers questions about models (`minimind.inspect.glass`)."""

    page: Traversable

    def answer(self, room: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one question.

        Raises:
            UserError: something is wrong with it.
        """


def router(glass: Glass) -> APIRouter:
    """`/inspect`, `/inspect/page/...` and the rooms."""
    routes = APIRouter(include_in_schema=False)
    send = sender(glass.page)
    pictures = Pool("pictures", 1, 32)  # one at a time: each takes all cores

    routes.get("/inspect")(partial(send, "index.html"))
    routes.get("/inspect/page/{name}")(send)

    @routes.post("/inspect/{room}")
    async def answer(room: str, http: Request) -> Response:
        asked = value_of(await http.body())
        if not isinstance(asked, dict):
            raise ApiError(400, "the body should be a JSON object", "invalid_value")
        return Json(await pictures.run(glass.answer, room, asked))

    return routes
