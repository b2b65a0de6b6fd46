"""What a server allows, and how much of it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """How one server behaves; the defaults are those of `minimind serve`."""

    model: str
    """The name that clients call the model by."""
    adapters: tuple[str, ...] = ()
    """Names of the adapters on it, each a model to clients; the engine has a variant of each name."""
    api_key: str | None = None
    """What clients send as `Authorization: Bearer KEY`; None: nothing is asked."""
    allowed_hosts: tuple[str, ...] = ()
    """Names in the `Host` header to accept besides loopback names and IP addresses."""
    cors_origins: tuple[str, ...] = ()
    """Other web pages that may call the server from a browser, such as `https://chat.example.org`."""
    tools: tuple[str, ...] = ()
    """Built-in tools that the page may run on the server."""
    rollout_root: Path | None = None
    """Answer the rollout protocol, and take new weights from under this directory alone."""
    max_bytes: int = 4 * 2**20
    """Of a request's body."""
    max_messages: int = 1024
    """In a conversation."""
    max_choices: int = 16
    """Answers to one request (`n`, or prompts times `n`)."""
    max_tokens: int | None = None
    """Of one answer; None: as many as the context holds."""
    max_connections: int = 1024
    """Connections at once, if the operating system lets us have so many files open."""
    header_seconds: float = 10.0
    """In which the head of a request must have come."""
    body_seconds: float = 60.0
    """In which its body must have come."""
    max_open: int = 256
    """Answers being written or waiting; more requests are told to come back later."""
    seconds: float = 600.0
    """That one request may take."""
    grace: float = 10.0
    """Seconds that a server told to stop gives running answers; then they are aborted."""
