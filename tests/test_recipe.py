from pathlib import Path

import pytest

from minimind import recipe
from minimind.config import PRESETS
from minimind.errors import UsageError
from minimind.recipe import Recipe

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
        ("[train]\nmax_steps = -3", "train.max_steps = -3 must be at least 0"),
        ("[data]\nsequence_length = 2", "data.sequence_length = 2 must be at least 8"),
        ("stage = ", "not valid TOML"),
        ("train = 3", "train is a section"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path, text, expected):
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=expected.replace("[", r"\[")) as caught:
        recipe.load(Recipe, path)
    assert "\n" not in str(caught.value).replace("not valid TOML", "")


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
