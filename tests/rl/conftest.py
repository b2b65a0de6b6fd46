import pytest
from toys import toy

from minimind.recipe import Recipe
from minimind.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.load("default")


@pytest.fixture
def model(tokenizer):
    return toy(tokenizer)


@pytest.fixture
def recipe():
    recipe = Recipe(stage="grpo", init="somewhere")
    recipe.data.sequence_length, recipe.train.micro_batch_tokens, recipe.train.tokens_per_step = 128, 256, 1024
    recipe.train.device, recipe.train.dtype = "cpu", "float32"
    recipe.rl.groups, recipe.rl.samples, recipe.rl.max_new_tokens = 2, 3, 12
    return recipe


@pytest.fixture
def folder(tmp_path):
    return tmp_path
