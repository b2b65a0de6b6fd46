"""A model directory for the commands and the tools that read one: untrained, but with opinions."""

import pytest
import torch

from minimind.config import PRESETS
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "model"
    tokenizer = Tokenizer.load("default")
    torch.manual_seed(0)
    config = PRESETS["tiny"].with_(vocab_size=tokenizer.vocab_size, num_hidden_layers=2, max_position_embeddings=256)
    model = Transformer(config)
    with torch.no_grad():  # far from uniform, so that a wrong token or position shows
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    save_model(model, folder, dtype="float32")
    tokenizer.save(folder)
    return folder
