"""What is written after each part: its rows as JSON and as a table, and the report of all of them so far."""

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.gpu.goals import goals, path_minutes
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.work import Row
from minimind.console import table
from minimind.files import write_json, write_text

WIDEST = 100
"""Characters of a cell."""
ASIDE = ("planned_memory_bytes", "planned_tokens_per_second", "warm_up_seconds", "padding", "turns")
"""In the JSON only."""


@dataclass
class Report:
    """The parts so far."""

    out: Path
    sizes: Sizes
    about: dict[str, Any]
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    text: str = ""

    def add(self, name: str, error: str | None, seconds: float) -> None:
        """A part has ended, well if `error` is None; its rows are on the disk, whatever became of it."""
        rows = read_rows(self.out / f"{name}.jsonl")
        part = {"part": name, "ok": error is None, "error": error, "seconds": round(seconds, 1), "rows": rows}
        self.parts[name] = part
        write_json(self.out / f"{name}.json", part)
        self.show(f"{name}: {error or 'done'}, {seconds:.0f} s", rows)
        self.write()

    def conclude(self) -> None:
        """The goals, and the length of the whole way."""
        found = {name: part["rows"] for name, part in self.parts.items()}
        self.about |= {"goals": goals(found, self.sizes), "path": path_minutes(found, self.sizes)}
        self.show("mini data, one epoch of pretraining and of SFT, at the measured speeds", self.about["path"])
        self.show("goals for one H100", self.about["goals"])
        self.write()

    def show(self, title: str, rows: Sequence[Row]) -> None:
        """Print a table, and keep it for `report.txt`."""
        columns = list(dict.fromkeys(column for row in rows for column in row if column not in ASIDE))
        cells = [[shortened(row.get(column)) for column in columns] for row in rows]
        lines = StringIO()
        with redirect_stdout(lines):
            table(title, [column.replace("_", " ") for column in columns], cells)
        print(lines.getvalue(), flush=True)
        self.text += lines.getvalue() + "\n"

    def write(self) -> None:
        """Both files anew."""
        write_json(self.out / "report.json", {**self.about, "parts": self.parts})
        write_text(self.out / "report.txt", self.text)


def shortened(value: object) -> object:
    """A cell that fits; nothing where there is no value."""
    if value is None:
        return ""
    return value[: WIDEST - 1] + "…" if isinstance(value, str) and len(value) > WIDEST else value


def read_rows(path: Path) -> list[Row]:
    """The whole lines of a part's file: one that was killed may have left half a line."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
