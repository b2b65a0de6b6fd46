"""A chat model behind an OpenAI-compatible HTTP endpoint, asked patiently."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from minimind.errors import UserError
from minimind.text import read_json, write_json


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
            UserError: the endpoint refuses, stays silent, or answers with something else than a chat completion.
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
                if error.code != 429 and error.code < 500:
                    raise UserError(
                        f"{named} refuses ({reason}); check its address, {self.flag}-model {self.model} "
                        f"and the key in OPENAI_API_KEY"
                    ) from None
            except (URLError, TimeoutError, HTTPException, OSError) as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise UserError(f"{named} gave no answer in {self.tries} tries ({reason}); is it running?")

    def _choice(self, body: bytes) -> dict[str, Any]:
        try:
            choice = read_json(body)["choices"][0]
            choice["message"]["content"]
            return dict(choice)
        except (ValueError, LookupError, TypeError):
            raise UserError(
                f"{self.flag} {self.endpoint} answers with something else than a chat completion; "
                f"give the address up to /v1 of an OpenAI-compatible server"
            ) from None
