"""Small models for the converters: any shape with random weights, and one that was taught to call a tool."""

import pytest
import torch
from small_models import ASKED, CALL, DENSE, GREETED, SHAPES, THOUGHT, TOKENIZER, TOOL, random_model, write
from torch.nn import functional as F

from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.chat import render


@pytest.fixture(scope="session")
def model_of(tmp_path_factory):
    """`model_of(shape)`: a directory with a random model of that shape, made once."""
    made = {}

    def make(shape: str):
        if shape not in made:
            made[shape] = write(random_model(SHAPES[shape]), tmp_path_factory.mktemp("model") / "model")
        return made[shape]

    return make


@pytest.fixture(scope="session")
def taught(tmp_path_factory):
    """A directory with a model that knows one tool call and one thought by heart."""
    torch.manual_seed(0)
    model = Transformer(DENSE).train()
    rows = []
    for messages, tools in ((([*ASKED, CALL]), [TOOL]), ([*GREETED, THOUGHT], None)):
        ids, mask = render(messages, TOKENIZER, tools)
        labels = [id if learned else -100 for id, learned in zip(ids, mask, strict=True)]
        rows.append((torch.tensor([ids]), torch.tensor(labels)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(60):
        for ids, labels in rows:
            logits = model.logits(model(ids, Segments.whole(ids)).states)[0]
            F.cross_entropy(logits[:-1], labels[1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return write(model.eval(), tmp_path_factory.mktemp("taught") / "model", "bfloat16")
