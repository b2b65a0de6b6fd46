"""The numbers of a trace are the model's own: equal to its logits, to transformers' states, alone or in a batch."""

import pytest
import torch

from minimind.config import PRESETS
from minimind.errors import UsageError
from minimind.inspect.heads import head_scores
from minimind.inspect.lens import followers, likeliest, of_tokens
from minimind.inspect.pair import divergence
from minimind.inspect.routing import routing, words_of_experts
from minimind.inspect.trace import trace, traces, without
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model

IDS = [1, 300, 17, 1200, 300, 99, 45, 300, 17]
SIZES = {"vocab_size": 1500, "num_hidden_layers": 3}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": False}


def made(**more):
    """A random model whose layers have more say than a fresh one's."""
    torch.manual_seed(0)
    model = Transformer(PRESETS["tiny"].with_(**SIZES, **more)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight *= 5
    return model


@pytest.fixture(scope="module", params=[{}, EXPERTS, {"tie_word_embeddings": False}], ids=["dense", "moe", "untied"])
def model(request):
    return made(**request.param)


def hooks(model):
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in model.modules())


def test_the_lens_at_the_last_layer_is_the_models_logits(model):
    found = trace(model, IDS)
    ids_BT = torch.tensor([IDS])
    with torch.no_grad():
        own = model.logits(model(ids_BT, Segments.whole(ids_BT)).states)[0]
    assert found.logits_per_layer.shape == (4, len(IDS), 1500)
    assert found.logits_per_layer.dtype == torch.float32
    assert torch.equal(found.logits_per_layer[-1], own)
    assert hooks(model) == 0


def test_blocks_add_up_to_the_residual_stream(model):
    found = trace(model, IDS)
    assert torch.equal(found.residual[0], model.embed_tokens.weight[IDS])
    torch.testing.assert_close(found.residual[:-1] + found.attention_out + found.mlp_out, found.residual[1:])


def test_contributions_add_up_to_the_logit(model):
    found = trace(model, IDS)
    for position, token in ((0, 5), (4, 17), (8, 1200)):
        parts = found.contributions(position, token)
        total = parts.embedding + float(parts.attention.sum()) + float(parts.mlp.sum())
        assert parts.logit == pytest.approx(float(found.logits_per_layer[-1, position, token]), rel=1e-4, abs=1e-4)
        assert total == pytest.approx(parts.logit, rel=1e-4, abs=1e-4)
        torch.testing.assert_close(parts.heads.sum(-1), parts.attention, rtol=1e-4, atol=1e-4)
        root_mean_square = found.residual[-1, position].square().mean().sqrt()
        assert parts.scale == pytest.approx(1 / float(root_mean_square), rel=1e-3)


def test_a_packed_batch_is_traced_as_one_by_one(model):
    texts = [IDS, IDS[:3], [7, 8, 9, 10, 11]]
    for together, ids in zip(traces(model, texts), texts, strict=True):
        alone = trace(model, ids)
        assert together.ids == ids
        for name in ("residual", "attention_out", "mlp_out", "heads_out", "attention", "logits_per_layer"):
            torch.testing.assert_close(getattr(together, name), getattr(alone, name), rtol=1e-4, atol=1e-4)
        for layer, probabilities in alone.router.items():
            torch.testing.assert_close(together.router[layer], probabilities)


@pytest.mark.parametrize("more", [{}, EXPERTS], ids=["dense", "moe"])
def test_equal_to_transformers(more, tmp_path):
    from transformers import AutoModelForCausalLM

    model = made(**more)
    save_model(model, tmp_path, "float32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float32)
    asked = {"output_router_logits": True} if more else {}
    with torch.inference_mode():
        out = theirs(torch.tensor([IDS]), output_hidden_states=True, output_attentions=True, **asked)
    found = trace(model, IDS)
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(found.residual[:-1], torch.cat(out.hidden_states[:-1]), **close)
    torch.testing.assert_close(model.norm(found.residual[-1]), out.hidden_states[-1][0], **close)  # theirs is normed
    torch.testing.assert_close(found.attention, torch.cat(out.attentions), **close)
    torch.testing.assert_close(found.logits_per_layer[-1], out.logits[0], **close)
    assert len(found.router) == (3 if more else 0)
    for layer, probabilities in found.router.items():
        said = out.router_logits[layer]
        if not torch.allclose(said.sum(-1), torch.ones(len(IDS))):  # early 5.x says probabilities
            said = said.softmax(-1)
        torch.testing.assert_close(probabilities, said, **close)


def test_attention_is_causal_and_sums_to_one(model):
    attention = trace(model, IDS).attention
    assert attention.shape == (3, model.config.num_attention_heads, len(IDS), len(IDS))
    assert float(attention.triu(1).abs().max()) == 0
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))


def test_a_long_row_is_traced_by_the_other_kernel():
    """Rows of over 1,024 tokens are computed document by document on a CPU."""
    model = made()
    dice = torch.Generator().manual_seed(0)
    texts = [torch.randint(1500, (length,), generator=dice).tolist() for length in (1100, 20)]
    long, short = traces(model, texts)
    alone = trace(model, texts[1])
    torch.testing.assert_close(short.attention, alone.attention, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(next(long.attention_of_layers()).sum(-1), torch.ones(4, 1100))


def test_without_a_head_its_contribution_is_gone(model):
    with without(model, head=(1, 2)):
        found = trace(model, IDS)
    whole = trace(model, IDS)
    assert hooks(model) == 0
    assert float(found.heads_out[1, :, 2].abs().max()) == 0
    assert torch.equal(found.heads_out[1, :, :2], whole.heads_out[1, :, :2])
    o_proj, size = model.layers[1].self_attn.o_proj, model.config.head_dim
    own = whole.heads_out[1, :, 2] @ o_proj.weight[:, 2 * size : 3 * size].T
    torch.testing.assert_close(found.attention_out[1], whole.attention_out[1] - own, rtol=1e-4, atol=1e-4)


def test_without_an_mlp_or_a_layer(model):
    with without(model, mlp=0):
        no_mlp = trace(model, IDS)
    with without(model, layer=1):
        no_layer = trace(model, IDS)
    assert float(no_mlp.mlp_out[0].abs().max()) == 0 < float(no_mlp.attention_out[0].abs().max())
    assert torch.equal(no_layer.residual[1], no_layer.residual[2])
    assert not torch.equal(no_layer.residual[2], no_layer.residual[3])


def test_what_does_not_exist_is_named(model):
    for what, said in (({"head": (0, 99)}, "head 99"), ({"mlp": 3}, "layer 3"), ({"layer": -1}, "layer -1")):
        with pytest.raises(UsageError, match=said), without(model, **what):
            pass
    for ids, said in (([], "at least one token"), ([1500], "outside the model's vocabulary")):
        with pytest.raises(UsageError, match=said):
            trace(model, ids)


def test_the_lens_finds_probabilities_and_ranks(model):
    found = trace(model, IDS)
    probabilities = found.logits_per_layer.softmax(-1)
    ids, best = likeliest(found, 3)
    torch.testing.assert_close(best, probabilities.topk(3).values)
    follow = followers(found, int(ids[-1, -1, 0]))
    own, ranks = of_tokens(found.logits, follow)
    for position, token in enumerate(follow):
        order = found.logits[position].argsort(descending=True).tolist()
        assert order.index(token) == int(ranks[position])
        assert float(own[position]) == pytest.approx(float(probabilities[-1, position, token]), rel=1e-4)
    assert int(ranks[-1]) == 0
    torch.testing.assert_close(found.logits_at(4), found.logits_per_layer[:, 4], rtol=1e-4, atol=1e-4)
    across, _ = of_tokens(found.logits_at(4), [17] * 4)
    torch.testing.assert_close(across, probabilities[:, 4, 17], rtol=1e-4, atol=1e-6)


def test_heads_are_scored_where_they_look():
    model = made()
    scores = head_scores(model, range(100, 1000), first=1)
    assert scores.induction.shape == scores.previous.shape == scores.first.shape == (3, 4)
    dice = torch.Generator().manual_seed(0)
    drawn = torch.arange(100, 1000)[torch.randint(900, (4, 48), generator=dice)].tolist()
    attention = torch.stack([trace(model, [1, *once, *once]).attention for once in drawn]).mean(0)
    length = 97
    previous = torch.stack([attention[:, :, t, t - 1] for t in range(2, length)]).mean(0)
    first = torch.stack([attention[:, :, t, 0] for t in range(1, length)]).mean(0)
    induction = torch.stack([attention[:, :, t, t - 47] for t in range(49, length - 1)]).mean(0)
    torch.testing.assert_close(scores.previous, previous, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(scores.first, first, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(scores.induction, induction, rtol=1e-3, atol=1e-5)


def test_routing_is_where_the_tokens_went():
    model = made(**EXPERTS)
    found = trace(model, IDS)
    counted = []
    for layer in model.layers:
        layer.mlp.register_forward_hook(lambda module, args, out: counted.append(out[1].tokens))
    trace(model, IDS)
    for one, tokens in zip(routing(model, found), counted, strict=True):
        torch.testing.assert_close(one.load * len(IDS) * 2, tokens)
    words = words_of_experts(model, [IDS, IDS[:4]])
    assert sum(counter.total() for counter in words[0]) == 2 * 13
    assert sum(counter[300] for counter in words[0]) == 2 * 4


def test_divergence_of_a_model_from_itself_is_nothing(model):
    found = trace(model, IDS)
    with without(model, layer=2):
        other = trace(model, IDS)
    assert float(divergence(found, found).max()) < 1e-5
    apart = divergence(found, other)
    assert apart.shape == (4, len(IDS))
    assert float(apart[:3].max()) < 1e-5 < float(apart[3].min())
    p, q = (one.logits_per_layer[-1].double().softmax(-1) for one in (found, other))
    torch.testing.assert_close(apart[-1].double(), (p * (p / q).log()).sum(-1), rtol=1e-3, atol=1e-4)
