"""Running the application: a socket, a thread that loads the model, and an end that loses no answer it can finish."""

import asyncio
import gc
import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Callable

import uvicorn

from minimind.console import say
from minimind.engine.background import EngineThread
from minimind.errors import UserError
from minimind.serve.api import create_app
from minimind.serve.connections import BACKLOG, Connections
from minimind.serve.events import SLACK
from minimind.serve.service import Service


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        UserError: the port is taken, or the host is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from error


def address(host: str, listening: socket.socket) -> str:
    """What a browser is told to open."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def configure(service: Service) -> uvicorn.Config:
    """How the application is served."""
    return uvicorn.Config(
        create_app(service),
        http=Connections(service.settings),  # type: ignore[arg-type]  # it is called as the class would be
        backlog=BACKLOG,
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=int(service.settings.grace + SLACK),
        server_header=False,
    )


def run(service: Service, load: Callable[[], EngineThread], listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; requests are answered with 503 until `load` has returned.

    Raises:
        Exception: what `load` raised.
    """
    server = _Server(configure(service), service)
    failed: list[BaseException] = []

    def loading() -> None:
        try:
            engine = load()
            # What is there now is there to stay. To look through it for garbage again and again would stop every
            # thread: for 0.2 s, or for seconds on a busy machine.
            gc.collect()
            gc.freeze()
            service.attach(engine)
            tokens, memory = engine.engine.cache_size
            say(
                f"Ready: {engine.engine.model.config.parameters() / 1e6:.1f} M parameters, context "
                f"{engine.engine.context:,} tokens, cache {tokens:,} tokens ({memory / 2**20:,.0f} MiB)."
            )
        except BaseException as error:  # raised below, in the thread that the user sees
            failed.append(error)
            server.should_exit = True

    thread = threading.Thread(target=loading, name="loading", daemon=True)
    thread.start()
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn has shut down and passes the signal on
        pass
    finally:
        service.close()
    if failed:
        raise failed[0]
    if thread.is_alive():  # the interpreter's end would pull Python from under what it runs in C++: an abort
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class _Server(uvicorn.Server):
    """Told to stop, it lets running answers end; those that take longer than the grace are aborted, and told so."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, wait, abort."""
        abort = asyncio.create_task(self._abort())
        await super().shutdown(sockets)
        abort.cancel()

    async def _abort(self) -> None:
        await asyncio.sleep(self._service.settings.grace)
        await asyncio.to_thread(self._service.close)
