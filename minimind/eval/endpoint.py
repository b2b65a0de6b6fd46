"""A chat model behind an OpenAI-compatible HTTP endpoint, asked patiently."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from minimind.console import warn
from minimind.errors import UserError
from minimind.text import read_json, write_json

K = TypeVar("K")
T = TypeVar("T")
PARALLEL = 8
"""Requests that a server has at a time."""
MAX_SILENT = 8
"""Requests in a row without any answer, after which nobody is asked any more: the server has gone."""
MAX_REFUSED = 32
"""Requests refused, and none answered yet, after which it is clear that it is not the requests."""


class RequestFailed(UserError):
    """One request was not answered; the next one may be."""

    def __init__(self, message: str, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent
        """There was no answer at all, several times: perhaps there is no server either."""


class Failures:
    """The failed requests of a batch: some are left out and counted, all of them are an error."""

    def __init__(self) -> None:
        self.count = self.answered = 0
        self.first: RequestFailed | None = None
        self._silent = 0

    def answer(self) -> None:
        """Count a request that was answered."""
        self.answered += 1
        self._silent = 0

    def add(self, failure: RequestFailed) -> None:
        """Count one that failed.

        Raises:
            RequestFailed: it makes no sense to go on.
        """
        self.count += 1
        self.first = self.first or failure
        self._silent = self._silent + 1 if failure.silent else 0
        if self._silent >= MAX_SILENT or (self.count >= MAX_REFUSED and not self.answered):
            raise failure

    def conclude(self, what: str, answered_before: int = 0) -> None:
        """Say how many failed, and why the first of them did.

        Raises:
            RequestFailed: all did, and nothing was answered before either.
        """
        if self.first and not self.answered and (self.first.silent or not answered_before):
            raise self.first
        if self.first:
            warn(f"{self.count:,} {what} left out, as they failed; the first: {self.first}")


def at_once(tasks: Mapping[K, Callable[[], T]]) -> Iterator[tuple[K, T | RequestFailed]]:
    """Do all tasks side by side, and yield what each gives, or why its request failed, in the order in which they end.

    In that order, so that whoever stops at a failure has what came before it; `as_completed` may hold it back.

    Raises:
        Exception: what else a task raises.
    """
    waiting, ended = SimpleQueue[tuple[K, Callable[[], T]]](), SimpleQueue[tuple[K, T | BaseException]]()
    for item in tasks.items():
        waiting.put(item)

    def work() -> None:
        with suppress(Empty):
            while True:
                key, task = waiting.get_nowait()
                try:
                    ended.put((key, task()))
                except BaseException as error:
                    ended.put((key, error))

    for _ in range(min(PARALLEL, len(tasks))):
        # A daemon, which no thread of a pool is: whoever ends does not wait for a server that hangs.
        Thread(target=work, daemon=True).start()
    try:
        for _ in tasks:
            key, found = ended.get()
            if isinstance(found, BaseException) and not isinstance(found, RequestFailed):
                raise found
            yield key, found
    finally:
        with suppress(Empty):
            while True:
                waiting.get_nowait()


@dataclass(frozen=True)
class Endpoint:
    """A chat model behind `endpoint`, such as https://api.example.com/v1."""

    endpoint: str
    model: str
    key: str | None = None
    timeout: float = 60.0
    """Seconds to wait for one reply."""
    tries: int = 4
    """How often to ask when the endpoint is busy, failing or silent; the pauses between are 1, 2, 4 ... seconds."""
    pause: float = 1.0
    flag: str = "--teacher"
    """By which the user named it, for errors; the flag of the model's name is this with `-model`."""

    def complete(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> dict[str, Any]:
        """The first choice of a chat completion: `message`, and where the server says it `finish_reason`.

        options: further fields of the request.

        Raises:
            RequestFailed: it refuses this request, stays silent, or answers with something else than a chat completion.
            UserError: it refuses any request: the address, the model's name or the key is wrong.
        """
        body = write_json({"model": self.model, "messages": list(messages), **options}).encode()
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        named = f"{self.flag} {self.endpoint}"
        try:
            request = Request(f"{self.endpoint.rstrip('/')}/chat/completions", body, headers)
        except ValueError:
            raise UserError(f"{named}: not a URL; write it like http://localhost:8000/v1") from None
        for attempt in range(self.tries):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with urlopen(request, timeout=self.timeout) as response:
                    return self._choice(response.read())
            except HTTPError as error:
                reason = f"status {error.code}"
                if error.code in (401, 403, 404, 405):
                    raise UserError(
                        f"{named} refuses ({reason}); check its address, {self.flag}-model {self.model} "
                        f"and the key in OPENAI_API_KEY"
                    ) from None
                if error.code != 429 and error.code < 500:
                    raise RequestFailed(f"{named} refuses a request ({reason}: {_said(error)})") from None
            except (URLError, TimeoutError, HTTPException, OSError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            except ValueError as error:  # of the HTTP library, which sends only ASCII there
                raise UserError(f"{named}: the address or the key in OPENAI_API_KEY cannot be sent ({error})") from None
        raise RequestFailed(f"{named} gave no answer in {self.tries} tries ({reason}); is it running?", silent=True)

    def _choice(self, body: bytes) -> dict[str, Any]:
        try:
            choice = read_json(body)["choices"][0]
            return {**choice, "message": dict(choice["message"])}
        except (ValueError, LookupError, TypeError):
            raise RequestFailed(
                f"{self.flag} {self.endpoint} answers with something else than a chat completion; "
                f"give the address up to /v1 of an OpenAI-compatible server"
            ) from None


def _said(error: HTTPError) -> str:
    """The beginning of what a server says about an error."""
    try:
        return " ".join(error.read(1000).decode("utf-8", "replace").split())[:200]
    except (OSError, HTTPException):
        return "it says no more"
