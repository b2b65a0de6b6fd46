"""Tools of one's own: a Python file whose functions run in a process apart, with limits.

    tools = sandbox.load("mytools.py")      # registers every public function of the file; returns their names

What holds where:
- time: a call that takes too long is an error, its process is killed and the next call gets a new one. Everywhere.
- output: what the function returns is cut, what it prints is thrown away. Everywhere.
- memory: a limit of the operating system, on Linux. macOS does not keep it, Windows has none: there only time counts.
- files, network, other processes: refused by an audit hook in the worker, once the file is imported (so it may read its
  own tables at the top). The hook sees what plain Python does, by mistake or because a model asked for it. It is no
  wall against code that means harm, which can pass it by through a C extension: name only files whose code you trust.
  It is the model's *arguments* that are not trusted.
"""

import atexit
import json
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from minimind.errors import UserError
from minimind.tools import registry
from minimind.tools.process import Died, Late, Process

START_SECONDS = 60.0
"""For a worker to start and import the file; an antivirus can make that slow."""


@dataclass(frozen=True)
class Limits:
    """What one call may use."""

    seconds: float = 5.0
    memory_mb: int = 1024
    """Of the worker's address space: Python itself and the file's imports are in it."""
    characters: int = registry.MAX_CHARACTERS
    """Of the result, as JSON."""


class Sandbox:
    """A worker process that has one file's functions; it is started when it is needed, and again after it died."""

    def __init__(self, file: Path, limits: Limits | None = None) -> None:
        self.file, self.limits = file, limits or Limits()
        self._worker = Process("minimind.tools.worker", str(file.resolve()), json.dumps(vars(self.limits)))
        self._lock = threading.Lock()
        atexit.register(self.close)

    def describe(self) -> list[dict[str, Any]]:
        """The schemas of the file's functions.

        Raises:
            UserError: the file cannot be imported, or a function of it cannot be a tool.
        """
        with self._lock:
            answer = self._ask({"describe": True}, START_SECONDS)
        if "error" in answer:
            raise UserError(f"{self.file}: {answer['error']}")
        return list(answer["schemas"])

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Run a function.

        Raises:
            ValueError: it raised, took too long, or its process died; in words for a model to read.
        """
        with self._lock:
            if not self._worker.runs:
                self._ask({"describe": True}, START_SECONDS)  # starting is not the call's time
            answer = self._ask({"name": name, "arguments": arguments}, self.limits.seconds)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    def _ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            return self._worker.ask(question, seconds)
        except Late:
            return {"error": f"the tool took longer than {seconds:g} s and was stopped"}
        except Died:
            return {"error": "the tool's process died; it may have used more memory than it is allowed"}


def load(path: str | Path, limits: Limits | None = None) -> tuple[str, ...]:
    """Register every public function that a file defines as a tool, and return their names.

    Raises:
        UserError: there is no such file, it cannot be imported, it has no function, or one that cannot be a tool.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"{file}: there is no such file of tools")
    sandbox = Sandbox(file, limits)
    schemas = sandbox.describe()
    names = tuple(schema["function"]["name"] for schema in schemas)
    for name, schema in zip(names, schemas, strict=True):
        registry.add(registry.Tool(name, partial(_remote, sandbox, name), schema))
    return names


def _remote(sandbox: Sandbox, tool: str, /, **arguments: Any) -> Any:
    """A tool's function as seen from here."""
    return sandbox.call(tool, arguments)
