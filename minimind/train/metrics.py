"""`metrics.jsonl`: one JSON object for every logged step of a run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
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
        draft = path.with_name(f"{path.name}.tmp")  # a crash here must not lose the lines of the whole run
        with self._complaining():
            draft.write_text(text, encoding="utf-8", newline="\n")
            draft.replace(path)

    def write(self, step: int, **figures: Any) -> None:
        """Append the figures of `step`."""
        line = json.dumps({"step": step, **figures}, ensure_ascii=False)
        with self._complaining(), self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")

    @contextmanager
    def _complaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); make room, then run the same command again"
            ) from None


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a metrics file; a line that a crash cut short is left out.

    Raises:
        UserError: it is another kind of file.
    """
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if not isinstance(line, dict) or "step" not in line:
            raise UserError(f"{path} is not the log of a run; delete it or choose another --out")
        lines.append(line)
    return lines
