import pytest
import torch
from torch import nn

from minimind.optim.groups import make_optimizers
from minimind.optim.muon import Muon
from minimind.optim.settings import OptimConfig
from minimind.train.loop import _update


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(8, 4)
        self.norm = nn.LayerNorm(4, bias=False)
        self.q_proj = nn.Linear(4, 4, bias=False)
        self.experts = nn.Parameter(torch.zeros(2, 4, 4))


def test_every_parameter_has_exactly_one_optimizer():
    model = Toy()
    optimizers = make_optimizers(model, OptimConfig())
    owned = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    muon = next(o for o in optimizers if isinstance(o, Muon))
    assert {id(p) for p in muon.param_groups[0]["params"]} == {id(model.q_proj.weight), id(model.experts)}


@pytest.mark.parametrize("matrices", ["muon", "adamw"])
@pytest.mark.parametrize("embedding_lr", [1, 4])
@pytest.mark.parametrize("embedding_decay", [0.0, 2.0])
def test_norms_never_decay_and_embeddings_only_as_they_are_told(matrices, embedding_lr, embedding_decay):
    settings = {"embedding_lr": embedding_lr, "embedding_decay": embedding_decay, "weight_decay": 0.1}
    optimizers = make_optimizers(model := Toy(), OptimConfig(matrices=matrices, **settings))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
        "embed_tokens.weight": embedding_decay,
        "norm.weight": 0,
        "q_proj.weight": 0.1,
        "experts": 0.1,
    }


@pytest.mark.parametrize("matrices", ["muon", "adamw"])
def test_embeddings_have_a_rate_of_their_own(matrices):
    model = Toy()
    optimizers = make_optimizers(model, OptimConfig(matrices=matrices, embedding_lr=4))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    scales = {id(p): group.get("lr_scale", 1) for group in groups for p in group["params"]}
    assert {name: scales[id(p)] for name, p in model.named_parameters()} == {
        "embed_tokens.weight": 4,
        "norm.weight": 1,
        "q_proj.weight": 1,
        "experts": 1,
    }
    _update(optimizers, 0.5)
    assert {group["lr"] for group in groups} == {0.5, 2.0}
