"""Recipes: one TOML file says everything about a training run, one-to-one with the dataclasses here.

`load` is strict: an unknown or mistyped key is an error with the nearest valid name. A file that begins with
`extends = "MODEL/STAGE"`, or with another file's path, says only what differs from that one. The resolved
recipe (base, file, then command-line flags) is saved with the run as `recipe.toml`, complete.
"""

import tomllib
import types
import typing
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from minimind.config import PRESETS, ModelConfig
from minimind.console import warn
from minimind.data.settings import DataConfig
from minimind.errors import UsageError, did_you_mean
from minimind.files import read_text
from minimind.limits import Limit, check
from minimind.losses.settings import DistillConfig, DpoConfig
from minimind.model.settings import LoraConfig
from minimind.optim.settings import OptimConfig
from minimind.rl.settings import AgentConfig, PpoConfig, RlConfig, ScoringConfig
from minimind.text import write_toml
from minimind.train.settings import GuardConfig, RehearsalConfig, RunConfig, TrainConfig


@dataclass
class Recipe:
    """A training run. `model` changes single fields of the preset."""

    stage: str = "pretrain"
    preset: str = "tiny"
    tokenizer: str = "default"
    """A model directory with a `tokenizer.json`, or `default`: the built-in 6,400-entry one."""
    init: str = ""
    """Model directory to start from; stages after pretraining need one."""
    prompts: list[str] = field(default_factory=list)
    """Beginnings that `sample_every` and `sample_seconds` complete."""
    model: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    dpo: DpoConfig = field(default_factory=DpoConfig)
    rl: RlConfig = field(default_factory=RlConfig)
    ppo: PpoConfig = field(default_factory=PpoConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)


R = TypeVar("R", bound=Recipe)
RENAMED = {
    "rl.rows": "rl.max_batch_size",
    "rl.spread": "rl.filter_groups",
    "rl.spread_by": "rl.filter_metric",
    "agent.most_turns": "agent.max_turns",
}
"""Keys by the names that they had in older recipes."""


def recipe_folder() -> Path:
    """Where the installed recipes are: the repository's `recipes/`, or the package's copy of it."""
    package = Path(__file__).resolve().parent
    return package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"


def find(name: str, stage: str) -> Path:
    """Return the file of a recipe given by path, by the model's name (`laptop`) or as MODEL/VARIANT.

    Raises:
        UsageError: no such file, no such name.
    """
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise UsageError(f"{name}: no such recipe file")
        return Path(name)
    path = recipe_folder() / (f"{name}.toml" if "/" in name else f"{name}/{stage}.toml")
    if not path.is_file():
        raise UsageError(f"no recipe {name!r} for {stage}{did_you_mean(name, known(stage))}")
    return path


def known(stage: str) -> list[str]:
    """Names of the installed recipes of a stage: `laptop`, and `minimind-3/sft-source-full` for a variant."""
    files = sorted(recipe_folder().glob(f"*/{stage}*.toml"))
    return [file.parent.name if file.stem == stage else f"{file.parent.name}/{file.stem}" for file in files]


def load(kind: type[R], path: Path, overrides: dict[str, Any] | None = None) -> R:
    """Read the TOML file `path`, over the one that it extends, into a `kind`; then apply `{"section.field": value}`.

    Raises:
        UsageError: not TOML, an unknown key, a value of the wrong type or out of range, a missing base, a circle.
    """
    recipe = _build(kind, _read(kind, path, []), str(path), "")
    return override(recipe, overrides or {})


def override(recipe: R, changes: dict[str, Any]) -> R:
    """Return `recipe` with `{"optim.lr": 1e-3, ...}` applied and checked."""
    tree = asdict(recipe)
    for given, value in changes.items():
        branch, dotted = tree, _newest(given, "--set")
        *sections, last = dotted.split(".")
        for section in sections:
            if not isinstance(branch.get(section), dict):
                raise UsageError(f"--set.{dotted}: no section {section!r}{did_you_mean(section, branch)}")
            branch = branch[section]
        branch[last] = value
    result = _build(type(recipe), tree, "--set", "")
    _check(result)
    return result


def parse_value(text: str) -> Any:
    """Read a command-line value as TOML reads it (`1e-3`, `true`, `["a"]`); anything else is a string."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text


def model_config(recipe: Recipe, vocab_size: int, **ids: Any) -> ModelConfig:
    """The preset with the recipe's changes, its vocabulary the tokenizer's.

    Raises:
        UsageError: no such preset or field, a value of the wrong type, or a shape that cannot be built.
    """
    if recipe.preset not in PRESETS:
        raise UsageError(f"preset {recipe.preset!r} does not exist{did_you_mean(recipe.preset, PRESETS)}")
    hints = typing.get_type_hints(ModelConfig)
    changes = {}
    for name, value in recipe.model.items():
        if name not in hints:
            raise UsageError(f"recipe: [model] has no field {name!r}{did_you_mean(name, hints)}")
        plain = hints[name] in (int, float, bool)
        changes[name] = _coerce(value, hints[name], "recipe", f"model.{name}") if plain else value
    config = PRESETS[recipe.preset].with_(**{"vocab_size": vocab_size, **ids, **changes})
    config.check()
    return config


def run_config(recipe: Recipe) -> RunConfig:
    """What the training loop is told of a recipe."""
    samples = recipe.stage in ("ppo", "grpo", "agent") or (recipe.stage == "distill" and recipe.distill.on_policy)
    return RunConfig(recipe.stage, recipe.train, recipe.optim, recipe.data.sequence_length, samples, asdict(recipe))


def dump(recipe: Recipe) -> str:
    """Write a recipe as TOML that `load` reads back to the same values."""
    return write_toml(asdict(recipe))


def _read(kind: type[R], path: Path, chain: list[Path]) -> dict[str, Any]:
    """The keys of `path` over those of its bases; `chain` is the files that led to it, each extending the next."""
    if path.resolve() in [file.resolve() for file in chain]:
        raise UsageError(f"{path}: extends itself, through {' → '.join(map(str, [*chain, path]))}")
    try:
        tree = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    extends = tree.pop("extends", None)
    for name, section in tree.items():
        if isinstance(section, dict):
            tree[name] = _renamed(name, section, str(path))
    _build(kind, tree, str(path), "")  # a mistake is named with the file that it is in
    return tree if extends is None else _merge(_read(kind, _base(extends, path), [*chain, path]), tree)


def _renamed(name: str, section: dict[str, Any], where: str) -> dict[str, Any]:
    """A section with each key's name of now."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        newest = _newest(f"{name}.{key}", where).partition(".")[2]
        if newest in found:
            raise UsageError(f"{where}: {name}.{newest} is given twice, by its old name and its new one; delete one")
        found[newest] = value
    return found


def _newest(name: str, where: str) -> str:
    """The name that a key has now; an older one is said to be old."""
    if name in RENAMED:
        warn(f"{where}: {name} is called {RENAMED[name]} now")
    return RENAMED.get(name, name)


def _base(extends: Any, path: Path) -> Path:
    """The file that `path` extends: a path from its folder, or MODEL/STAGE of an installed recipe."""
    if not isinstance(extends, str):
        raise UsageError(f"{path}: extends = {extends!r} must be one file, or MODEL/STAGE of an installed recipe")
    base = path.parent / extends if extends.endswith(".toml") else recipe_folder() / f"{extends}.toml"
    if not base.is_file():
        raise UsageError(f"{path}: extends = {extends!r}: no such recipe{did_you_mean(extends, known(''))}")
    return base


def _merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` over `base`: tables key by key, everything else (lists too) as a whole."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _build(kind: type, tree: dict[str, Any], where: str, section: str) -> Any:
    """Turn a dict into the dataclass `kind`, refusing what the dataclass does not have."""
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in tree.items():
        name = f"{section}{key}"
        if key not in hints:
            raise UsageError(f"{where}: unknown key {name!r}{did_you_mean(key, hints)}")
        if is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise UsageError(f"{where}: {name} is a section, write [{name}]")
            values[key] = _build(hints[key], value, where, f"{name}.")
        else:
            values[key] = _coerce(value, hints[key], where, name)
    return kind(**values)


def _coerce(value: Any, hint: Any, where: str, name: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise UsageError(f"{where}: {name} = {value!r} must be one of {', '.join(map(str, choices))}")
        return value
    if origin is list:
        (inner,) = typing.get_args(hint)
        items = value if isinstance(value, list) else [value]
        return [_coerce(item, inner, where, name) for item in items]
    if origin is dict and isinstance(value, dict) and (inner := typing.get_args(hint)[1]) is not Any:
        return {key: _coerce(one, inner, where, f"{name}.{key}") for key, one in value.items()}
    plain = origin if origin is not None and origin is not types.UnionType else hint
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        expected = getattr(plain, "__name__", str(plain))
        raise UsageError(f"{where}: {name} = {value!r} must be of type {expected}")
    return value


def _check(recipe: Recipe) -> None:
    """Refuse values that cannot work, before anything is read or written."""
    for section in vars(recipe).values():
        if hasattr(section, "check"):
            section.check()
    length = recipe.data.sequence_length
    whole_row = Limit(
        lambda value: length <= value < 2**28, f"at least data.sequence_length ({length}) and below 2**28"
    )
    check("train", recipe.train, whole_row, "tokens_per_step", "micro_batch_tokens")
    algorithm = "ppo_clip" if recipe.stage == "ppo" else recipe.rl.algorithm
    unread = ("clip_low", "clip_high") if algorithm == "cispo" else ("ratio_max",)
    if wrong := next((name for name in unread if getattr(recipe.rl, name)), None):
        readers = "all others read it" if algorithm == "cispo" else '"cispo" alone reads it'
        raise UsageError(
            f'recipe: rl.{wrong} has no effect with rl.algorithm = "{algorithm}"; {readers}, so set it to 0'
        )
