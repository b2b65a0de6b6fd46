"""The models that can be looked at: one, a run's checkpoints, or all runs of a folder, each loaded when asked for."""

import re
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from minimind import runtime
from minimind.errors import UserError
from minimind.model.qwen3 import Transformer
from minimind.model.store import load_config, load_model
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import metrics

MAX_BYTES = 4 * 2**30
"""Of weights that are kept in memory: 15 checkpoints of a model of 64 M parameters."""
_STEP = re.compile(r"step-(\d+)$")


class Place(NamedTuple):
    """A model directory on the shelf."""

    name: str
    folder: Path
    stage: str
    """Name of the run that it comes from."""
    step: int | None
    """Optimizer steps of that run; None where nothing says so."""


class Shelf:
    """What lies at `path`: a model directory, a run's folder or a folder of runs.

    Raises:
        UserError: there is no model, or it cannot be read.
    """

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        path = Path(path).absolute()
        self.device = runtime.device(device)
        self.models: list[Place]
        """In the order of training; the last one is what is looked at first."""
        self.others: list[Place] = []
        """Models that are not part of its history, to compare it with."""
        self.runs: list[Path]
        """Folders of the runs that the models come from."""
        if _is_model(path):
            run = _run_of(path)
            history = [place for place in _models_of(run) if place.folder != path] if run else []
            last = Place(path.name, path, run.name if run else path.name, _step(path, run))
            self.models = [place for place in history if _earlier(place, last)] + [last]
            self.runs = [run] if run else []
            self.others = _beside(run or path)
        elif models := _models_of(path):
            self.models, self.runs = models, [path]
            self.others = _beside(path)
        elif runs := _runs_in(path):
            self.runs = sorted(runs, key=lambda run: (runs[run][-1].folder.stat().st_mtime, run.name))
            self.models = [place._replace(name=f"{run.name}/{place.name}") for run in self.runs for place in runs[run]]
        else:
            load_config(path)  # says what is wrong with it
            raise UserError(f"{path} has no model in it: name a model directory or a run's folder")
        self._vocabulary = load_config(self.models[-1].folder).vocab_size
        self.tokenizer = Tokenizer.load(self.models[-1].folder)
        self.name = path.parent.name if path.name == "model" else path.name
        self._loaded: OrderedDict[Path, Transformer] = OrderedDict()

    def place(self, name: str | None) -> Place:
        """The model of a name; None: the one that is looked at first.

        Raises:
            UserError: there is none of this name.
        """
        if name is None:
            return self.models[-1]
        found = next((place for place in (*self.models, *self.others) if place.name == name), None)
        if found is None:
            raise UserError(f"there is no checkpoint or model {name!r} here; choose one that the page lists")
        return found

    def model(self, place: Place) -> Transformer:
        """A model, kept in memory until newer ones need the room.

        Raises:
            UserError: it cannot be read, or does not read the tokens of the others.
        """
        if place.folder not in self._loaded:
            if load_config(place.folder).vocab_size != self._vocabulary:
                raise UserError(
                    f"{place.name} has another vocabulary than {self.models[-1].name}, whose tokenizer is used here: "
                    f"open it alone, minimind inspect {place.folder}"
                )
            self._loaded[place.folder] = load_model(place.folder, device=self.device)
            while len(self._loaded) > 2 and sum(map(_bytes, self._loaded.values())) > MAX_BYTES:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(place.folder)
        return self._loaded[place.folder]


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() or (path / "adapter_config.json").is_file()


def _run_of(model: Path) -> Path | None:
    """The run that a model directory is the result of, or a checkpoint of."""
    parent = model.parent
    run = parent.parent if parent.name == "checkpoints" else parent
    return run if (run / "metrics.jsonl").is_file() else None


def _models_of(run: Path) -> list[Place]:
    """A run's checkpoints, and its result; not the checkpoint that is the same as the result."""
    complete = (folder for folder in (run / "checkpoints").glob("step-*") if (folder / "complete").is_file())
    found = [Place(folder.name, folder, run.name, _step(folder, run)) for folder in sorted(complete)]
    result = run / "model"
    if _is_model(result):
        last = Place("model", result, run.name, _step(result, run))
        found = [place for place in found if _earlier(place, last)] + [last]
    return found


def _earlier(place: Place, last: Place) -> bool:
    return last.step is None or place.step is None or place.step < last.step


def _beside(run: Path) -> list[Place]:
    """The results of the runs that lie beside one."""
    return [models[-1]._replace(name=other.name) for other, models in _runs_in(run.parent).items() if other != run]


def _runs_in(folder: Path) -> dict[Path, list[Place]]:
    """Folders that hold a language model's run, or its result alone, and their models."""
    found = {}
    with suppress(OSError):  # others' folders, which need not be ours to read
        for run in sorted(folder.iterdir()):
            with suppress(OSError, UserError):  # a reward model, or something broken
                if models := _models_of(run):
                    load_config(models[-1].folder)
                    found[run] = models
    return found


def _step(folder: Path, run: Path | None) -> int | None:
    if match := _STEP.search(folder.name):
        return int(match[1])
    lines = metrics.read(run / "metrics.jsonl") if run else []
    return max((int(line["step"]) for line in lines), default=None)


def _bytes(model: Transformer) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
