"""The web page: plain files, sent as they are, with a policy that lets nothing else in."""

from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter
from starlette.responses import Response

from minimind.serve.errors import ApiError

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    # Scripts and styles from our own files only, connections to ourselves only: an injected script would not run,
    # and could tell nobody if it did.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def router() -> APIRouter:
    """`/` (the chat), `/docs` (the interface described) and `/page/...`, their parts."""
    routes = APIRouter(include_in_schema=False)
    send = sender(files("minimind.serve") / "page")

    for path, name in (("/", "index.html"), ("/docs", "docs.html"), ("/favicon.ico", "icon.svg")):
        routes.get(path)(partial(send, name))
    routes.get("/page/{name}")(send)
    return routes


def sender(folder: Traversable) -> Callable[[str], Awaitable[Response]]:
    """What answers with a page's file, of a folder that is read now."""
    parts = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    async def send(name: str) -> Response:
        suffix = name[name.rfind(".") :]
        if name not in parts or suffix not in KINDS:
            raise ApiError(404, f"there is no file {name!r} here", "not_found")
        return Response(parts[name], media_type=KINDS[suffix], headers=HEADERS)

    return send
