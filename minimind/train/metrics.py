"""`metrics.jsonl`: one JSON object for every logged step of a run."""

import json
from pathlib import Path
from typing import Any

from minimind.errors import UserError


class Metrics:
    """An append-only log. Opening it at step N cuts off what an interrupted run wrote after step N.

    Raises:
        UserError: the file cannot be written, as on a full disk.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        kept = [line for line in read(path) if line["step"] <= step]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
        self._put(text, "w")

    def write(self, step: int, **figures: Any) -> None:
        """Append the figures of `step`."""
        line = json.dumps({"step": step, **figures}, ensure_ascii=False)
        self._put(line + "\n", "a")

    def _put(self, text: str, mode: str) -> None:
        try:
            with self.path.open(mode, encoding="utf-8", newline="\n") as file:
                file.write(text)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); make room, then run the same command again"
            ) from None


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file; a line that a crash cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
