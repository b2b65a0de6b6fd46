import math
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from minimind import recipe
from minimind.config import PRESETS
from minimind.errors import UsageError
from minimind.recipe import Recipe
from minimind.rl.settings import ScoringConfig
from minimind.train.settings import TrainConfig

ALL = sorted(recipe.recipe_folder().glob("*/*.toml"))


@pytest.mark.parametrize("path", ALL, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_recipe_is_valid(path):
    loaded = recipe.load(Recipe, path)
    assert path.stem.startswith(loaded.stage)
    assert path.parent.name == loaded.preset
    assert recipe.model_config(loaded, 6400).parameters() > 0


def test_every_preset_has_its_recipes():
    for preset in PRESETS:
        for stage in ("pretrain", "sft"):
            assert recipe.find(preset, stage).is_file()


def test_the_resolved_recipe_reads_back(tmp_path):
    for path in ALL:
        loaded = recipe.override(recipe.load(Recipe, path), {"optim.lr": 1e-3, "model.num_hidden_layers": 2})
        (tmp_path / "recipe.toml").write_text(recipe.dump(loaded), encoding="utf-8")
        assert recipe.load(Recipe, tmp_path / "recipe.toml") == loaded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[optim]\nlearning_rat = 1", "optim.learning_rat"),
        ("[optim]\nlr = 'fast'", "optim.lr = 'fast' must be of type float"),
        ("[optim]\nschedule = 'cosin'", "cosine"),
        ("[train]\nmax_step = 3", "did you mean 'max_steps'"),
        ("[train]\nmax_steps = -3", "train.max_steps = -3 must be at least 0 and below"),
        ("[train]\nepochs = 1e308", "train.epochs = 1e+308 must be above 0 and below"),
        ("[train]\ntokens_per_step = 100000000000", "train.tokens_per_step = 100000000000 must be at least data.seq"),
        ("[rehearsal]\ntokens = 1024000000000", "rehearsal.tokens = 1024000000000 must be at least 1 and below"),
        ("[guard]\nlimit = 2.0", "guard.limit needs guard.files"),
        ("[data]\nsequence_length = 2", "data.sequence_length = 2 must be at least 8"),
        ("[rl]\nstop_kl = -1.0\nepochs = 2", "rl.stop_kl = -1.0 must be at least 0"),
        ("[rl]\nserver_timeout = 0.0", "rl.server_timeout = 0.0 must be above 0"),
        ("[rl]\ntemperature = 0.0", "rl.temperature = 0.0 must be above 0 (there all answers are the same)"),
        (
            "[rl]\ngroups = 3\nsamples = 2\nminibatches = 7",
            "minibatches = 7 must be at most rl.groups × rl.samples (6)",
        ),
        ("[rl]\nepochs = 1000000000", "rl.epochs = 1000000000 must be at least 1 and below"),
        ("[rl]\nclip_low = 0.1", 'rl.clip_low has no effect with rl.algorithm = "cispo"; all others read it'),
        (
            "[rl]\nalgorithm = 'grpo'\nratio_max = 2.0",
            'ratio_max has no effect with rl.algorithm = "grpo"; "cispo" alone',
        ),
        ("stage = 'ppo'\n[rl]\nratio_max = 2.0", 'rl.ratio_max has no effect with rl.algorithm = "ppo_clip"'),
        ("[scoring]\nweights = { exact = 'high' }", "scoring.weights.exact = 'high' must be of type float"),
        ("[scoring]\nweights = { exact = nan }", "scoring.weights.exact = nan must be within ±2**31"),
        ("[scoring]\nweights = { exact = 1e308 }", "scoring.weights.exact = 1e+308 must be within ±2**31"),
        ("stage = ", "not valid TOML"),
        ("train = 3", "train is a section"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path, text, expected):
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(expected)) as caught:
        recipe.load(Recipe, path)
    assert "\n" not in str(caught.value).replace("not valid TOML", "")


@pytest.mark.parametrize(
    "text",
    [
        "stage = 'ppo'\n[rl]\nclip_low = 0.1\nclip_high = 0.3",
        "[rl]\nalgorithm = 'dapo'\nclip_low = 0.1\nclip_high = 0.3",
        "[rl]\nratio_max = 2.0",
        "[rl]\nimportance_limit = inf",
        "[optim]\nclip = inf",
        "[rl]\ngroups = 3\nsamples = 2\nminibatches = 6",
        "[guard]\nlimit = 2.0\nfiles = ['a.jsonl']",
    ],
)
def test_what_has_an_effect_is_taken(tmp_path, text):
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    recipe.load(Recipe, tmp_path / "r.toml")


def test_no_number_of_a_recipe_is_without_end():
    """10**30 of anything overflows or never ends, and infinity is for the bounds that it switches off."""
    unbounded = {"optim.clip", "train.max_minutes", "rl.importance_limit"}
    for section, config in asdict(Recipe()).items():
        for name, value in config.items() if isinstance(config, dict) else ():
            if type(value) in (int, float) and f"{section}.{name}" not in unbounded:
                for large in (type(value)(10**30), *([math.inf, math.nan] if type(value) is float else [])):
                    with pytest.raises(UsageError, match=f"{section}.{name}"):
                        recipe.override(Recipe(), {f"{section}.{name}": large})


def test_the_keys_of_older_recipes_still_load(tmp_path, capsys):
    old = "[rl]\nrows = 3\nspread = 'keep'\nspread_by = 'exact'\n[agent]\nmost_turns = 2"
    (tmp_path / "r.toml").write_text(old, encoding="utf-8")
    read = recipe.load(Recipe, tmp_path / "r.toml", {"agent.most_turns": 5})
    assert (read.rl.max_batch_size, read.rl.filter_groups, read.rl.filter_metric) == (3, "keep", "exact")
    assert read.agent.max_turns == 5
    said = capsys.readouterr().err
    assert all(f"{before} is called {now} now" in said for before, now in recipe.RENAMED.items())
    assert "spread" not in recipe.dump(read)
    (tmp_path / "r.toml").write_text("[rl]\nrows = 3\nmax_batch_size = 4\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"rl.max_batch_size is given twice, by its old name and its new one"):
        recipe.load(Recipe, tmp_path / "r.toml")


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")


def test_a_recipe_says_only_what_differs_from_the_one_it_extends(tmp_path):
    (tmp_path / "sub").mkdir()
    write(
        tmp_path,
        base='prompts = ["a"]\npreset = "laptop"\nmodel = { num_hidden_layers = 2 }\n[optim]\nlr = 0.1\nwarmup = 0.3',
    )
    write(tmp_path / "sub", middle='extends = "../base.toml"\n[optim]\nlr = 0.2')
    write(tmp_path, own='extends = "sub/middle.toml"\nprompts = ["c"]\nmodel = { hidden_size = 64 }\n[optim]\nlr = 0.4')
    own = recipe.load(Recipe, tmp_path / "own.toml", {"train.seed": 3})
    assert (own.preset, own.prompts) == ("laptop", ["c"])
    assert own.model == {"num_hidden_layers": 2, "hidden_size": 64}
    assert (own.optim.lr, own.optim.warmup, own.optim.decay) == (0.4, 0.3, Recipe().optim.decay)
    assert "extends" not in recipe.dump(own)
    write(tmp_path, installed='extends = "laptop/sft"\n[optim]\nlr = 0.5')
    installed = recipe.load(Recipe, tmp_path / "installed.toml")
    assert installed == recipe.override(recipe.load(Recipe, recipe.find("laptop", "sft")), {"optim.lr": 0.5})


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"r": 'extends = "r.toml"'}, r"r\.toml: extends itself, through .*r\.toml → .*r\.toml"),
        ({"r": 'extends = "a.toml"', "a": 'extends = "r.toml"'}, r"through .*r\.toml → .*a\.toml → .*r\.toml"),
        ({"r": 'extends = "none.toml"'}, r"r\.toml: extends = 'none\.toml': no such recipe"),
        ({"r": 'extends = "laptop/sfd"'}, r"r\.toml: extends = 'laptop/sfd': .*did you mean 'laptop/sft'"),
        ({"r": "extends = 3"}, r"r\.toml: extends = 3 must be"),
        ({"r": 'extends = "a.toml"', "a": "[optim]\nrl = 1"}, r"a\.toml: unknown key 'optim\.rl'"),
        ({"r": 'extends = "a.toml"\n[optim]\nrl = 1', "a": ""}, r"r\.toml: unknown key 'optim\.rl'"),
        ({"r": 'extends = "a.toml"', "a": "[optim"}, r"a\.toml: not valid TOML"),
    ],
)
def test_a_mistake_in_what_is_extended_is_named(tmp_path, files, expected):
    write(tmp_path, **files)
    with pytest.raises(UsageError, match=expected):
        recipe.load(Recipe, tmp_path / "r.toml")


def test_every_number_and_every_name_reads_back(tmp_path):
    scoring = ScoringConfig(weights={"礼貌": 1.0, "a b": 2.0}, file="del\x7f.py")
    made = Recipe(stage="grpo", scoring=scoring, train=TrainConfig(max_minutes=math.inf))
    (tmp_path / "recipe.toml").write_text(recipe.dump(made), encoding="utf-8")
    assert recipe.load(Recipe, tmp_path / "recipe.toml") == made


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'laptop'"):
        recipe.find("laptp", "pretrain")
    with pytest.raises(UsageError, match="did you mean 'minimind-3'"):
        recipe.model_config(Recipe(preset="minimind3"), 10)
    with pytest.raises(UsageError, match="did you mean 'hidden_size'"):
        recipe.model_config(Recipe(model={"hiden_size": 3}), 10)
    with pytest.raises(UsageError, match="did you mean 'optim'"):
        recipe.override(Recipe(), {"optm.lr": 1})
    with pytest.raises(UsageError, match="no such recipe file"):
        recipe.find(str(Path("nowhere.toml")), "pretrain")


def test_values_on_the_command_line_are_toml():
    assert recipe.parse_value("1e-3") == 1e-3
    assert recipe.parse_value("true") is True
    assert recipe.parse_value('["a", "b"]') == ["a", "b"]
    assert recipe.parse_value("cosine") == "cosine"
