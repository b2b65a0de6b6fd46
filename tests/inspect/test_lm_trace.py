"""The looking-glass from Python: `lm.trace` and `lm.without`."""

import pytest
import torch

from minimind.api import LanguageModel
from minimind.config import PRESETS
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="module")
def lm():
    torch.manual_seed(0)
    tokenizer = Tokenizer.load("default")
    model = Transformer(PRESETS["tiny"].with_(vocab_size=tokenizer.vocab_size, num_hidden_layers=2))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight *= 5
    return LanguageModel(model, tokenizer)


def test_a_text_is_traced_as_pretraining_reads_it(lm):
    found = lm.trace("Alice lives in Paris.")
    assert found.ids == [lm.tokenizer.bos_id, *lm.tokenizer.encode("Alice lives in Paris.")]
    assert torch.equal(found.logits_per_layer[-1], lm.logits(found.ids))
    assert torch.equal(lm.trace(found.ids).residual, found.residual)


def test_without_a_part_everything_is_done_without_it(lm):
    """Generation too, whose cache and compiled step know nothing of a part that is off."""
    ids = lm.trace("Alice").ids
    whole, said = lm.logits(ids), lm.generate("Alice", max_new_tokens=6)
    with lm.without(layer=0), lm.without(head=(1, 0)):
        assert not torch.allclose(lm.logits(ids), whole, atol=1e-2)
        less = lm.generate("Alice", max_new_tokens=6)
        own, ids_left = [], list(ids)
        for _ in range(6):
            own.append(int(lm.logits(ids_left)[-1].argmax()))
            ids_left.append(own[-1])
        assert less == lm.tokenizer.decode(own, skip_special=True)
    assert less != said
    assert lm.generate("Alice", max_new_tokens=6) == said
    assert torch.equal(lm.logits(ids), whole)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in lm.model.modules())


def test_a_failure_inside_leaves_nothing_switched_off(lm):
    with pytest.raises(ZeroDivisionError), lm.without(mlp=0):
        raise ZeroDivisionError
    assert not any(one._forward_hooks for one in lm.model.modules())
