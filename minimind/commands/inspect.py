"""`minimind inspect MODEL|RUN`: the looking-glass, a page that shows what a model computes and how it came to."""

from typing import Annotated

import tyro

from minimind import console
from minimind.commands.arguments import Device, at_least, call, server_for
from minimind.errors import UsageError


def main(argv: list[str]) -> int:
    """Start the server of the page."""
    return call(inspect, argv, "minimind inspect")


def inspect(
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL|RUN")]],
    host: str = "127.0.0.1",
    port: int = 8001,
    context: int = 2048,
    device: Device = "auto",
) -> None:
    """Look into a model: its tokens, layers, attention, experts and facts, and how training made them.

    Examples:
        minimind inspect runs/demo/sft/model
        minimind inspect runs/demo/pretrain
        minimind inspect runs/demo

    Args:
        model: model directory; or a run's folder, for all of its checkpoints; or a folder of runs, for all of theirs.
        host: address to listen on, one of this machine's own: the page is for who sits at it.
        port: port to listen on; 0 takes a free one.
        context: longest conversation on the chat page beside it, in tokens.
    """
    at_least(1, context=context)
    server = server_for(port)
    if not server.is_loopback(host):
        raise UsageError(
            f"--host {host}: the looking-glass is for this machine alone; use 127.0.0.1, or minimind serve"
        )
    from minimind.engine.background import EngineThread
    from minimind.engine.engine import Engine
    from minimind.inspect.glass import LookingGlass
    from minimind.model.store import load_model
    from minimind.serve.service import Service
    from minimind.serve.settings import Settings

    glass = LookingGlass(model, device)
    shelf = glass.shelf
    listening = server.listen(host, port)
    url = server.address(host, listening)
    console.say(f"  looking-glass  {url}/inspect   {shelf.name}, {len(shelf.models)} checkpoint(s)")
    console.say(f"  chat page      {url}/          Ctrl-C stops the server.")

    def load() -> EngineThread:
        weights = load_model(shelf.models[-1].folder, device=shelf.device)  # its own: those looked into have hooks
        return EngineThread(Engine(weights, shelf.tokenizer, max_batch_size=2, context=context), max_waiting=16)

    server.run(Service(Settings(model=shelf.name), shelf.tokenizer, glass), load, listening)
