"""The step that is recorded on CUDA, run here as the function that would be recorded: there is no GPU."""

import pytest
import torch

from minimind.config import PRESETS
from minimind.engine import graphs
from minimind.engine.engine import Engine
from minimind.engine.graphs import GraphStep, power_of_two
from minimind.engine.sampling import Sampling
from minimind.model.attend import Segments
from minimind.model.cache import PAGE, KVCache, Span
from minimind.model.qwen3 import Transformer

SMALL = {"num_hidden_layers": 2, "vocab_size": 512, "initializer_range": 0.05, "max_position_embeddings": 512}


def build(preset="tiny"):
    torch.manual_seed(1)
    return Transformer(PRESETS[preset].with_(**SMALL)).eval()


@pytest.mark.parametrize("preset", ["tiny", "tiny-moe"])
@torch.inference_mode()
def test_it_computes_what_the_model_computes(preset):
    model = build(preset)
    ids_BT = torch.randint(0, 512, (3, 19))
    cache = KVCache(model.config, 320, torch.float32, "cpu")
    cache.keys.fill_(7.0)  # what another request left there must not be seen
    cache.values.fill_(7.0)
    tables = [[4, 0], [19, 7], [5, 6]]
    step = GraphStep(model, cache)
    exact = model.logits(model(ids_BT, Segments.whole(ids_BT)).states)
    for t in range(19 + 2):
        running = [(b, t - b) for b in range(3) if 0 <= t - b < 19]  # row b starts at step b
        scores = step([int(ids_BT[b, at]) for b, at in running], [Span(tables[b], at, at + 1) for b, at in running])
        assert scores.shape == (len(running), 512)
        for (b, at), score in zip(running, scores, strict=True):
            torch.testing.assert_close(score, exact[b, at], rtol=1e-4, atol=1e-4)
    assert set(step._graphs) == {(1, 256), (2, 256), (4, 256)}, "three tokens are padded to four"


@torch.inference_mode()
def test_padding_writes_nothing_else_and_long_sequences_see_everything():
    model = build()
    cache = KVCache(model.config, 300, torch.float32, "cpu")
    before = cache.keys.clone()
    step = GraphStep(model, cache)
    step([1, 2, 3], [Span([9], 5, 6), Span([2], 7, 8), Span(range(18, -1, -1), 299, 300)])
    changed = (cache.keys != before).any(-1).any(1).any(0).nonzero().tolist()
    assert changed == [[0, 299 % PAGE], [2, 7], [9, 5]]
    assert set(step._graphs) == {(4, 19 * PAGE)}, "no more slots than there are"


def test_an_engine_answers_as_without_it(monkeypatch):
    model = build()
    prompts = [torch.randint(0, 512, (length,)).tolist() for length in (3, 40, 11, 7, 25)]

    def answers():
        engine = Engine(model, max_batch_size=4, context=96)
        requests = [engine.submit(prompt, Sampling(temperature=0, max_new_tokens=20)) for prompt in prompts]
        for _ in engine.run():
            pass
        return [request.ids for request in requests], engine

    monkeypatch.setattr(graphs, "make", lambda model, cache: None)
    plain, _ = answers()
    monkeypatch.setattr(graphs, "make", GraphStep)
    recorded, engine = answers()
    assert recorded == plain
    step = engine._model_runners[None].decode_step
    assert isinstance(step, GraphStep)
    assert step._graphs

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    engine.flush_cache()
    assert step._graphs, "weights that changed where they lie are read by the next replay"
    model.embed_tokens.weight.data = model.embed_tokens.weight.data.clone()
    engine.flush_cache()
    assert not step._graphs, "a weight lies elsewhere"
    with torch.inference_mode():
        step([1], [Span([0], 0, 1)])
    model.use_rope_scaling({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16})
    engine.flush_cache()
    assert not step._graphs, "positions are turned by other angles"


def test_many_long_sequences_are_left_to_the_model():
    model = build()
    step = GraphStep(model, KVCache(model.config, 65536, torch.float32, "meta"))
    pages = range(4096)
    assert step.takes([Span(pages, 60_000, 60_001)] * 2)
    assert not step.takes([Span(pages, 60_000, 60_001)] * 3)
    assert not step.takes([Span(pages, 0, 2)]), "the beginning of a prompt"


def test_nothing_is_recorded_on_a_cpu():
    model = build()
    assert graphs.make(model, KVCache(model.config, 8, torch.float32, "cpu")) is None


def test_graphs_are_few():
    assert [power_of_two(count) for count in (1, 2, 3, 4, 5, 64, 65)] == [1, 2, 4, 4, 8, 64, 128]
