"""The compiled decoding step against the model that it stands for."""

import pytest
import torch

from minimind import runtime
from minimind.config import PRESETS
from minimind.engine import decode
from minimind.engine.engine import Engine
from minimind.engine.sampling import Sampling
from minimind.model.attend import Segments
from minimind.model.cache import PAGE, KVCache, Span, pages_of
from minimind.model.qwen3 import Transformer

SMALL = {"num_hidden_layers": 2, "vocab_size": 512, "initializer_range": 0.05}
SHAPES = {
    "dense": PRESETS["tiny"].with_(**SMALL),
    "untied, one head a key": PRESETS["tiny"].with_(**SMALL, num_key_value_heads=4, tie_word_embeddings=False),
    "seven heads a key": PRESETS["tiny"].with_(**SMALL, num_attention_heads=14, num_key_value_heads=2, head_dim=16),
    "experts": PRESETS["tiny-moe"].with_(**SMALL),
    "two experts a token": PRESETS["tiny-moe"].with_(**SMALL, num_experts_per_tok=2, norm_topk_prob=True),
    "yarn": PRESETS["tiny"].with_(
        **SMALL, rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    ),
}
pytestmark = pytest.mark.skipif(decode._library() is None, reason="no C++ compiler, or not Linux")


def build(shape):
    torch.manual_seed(1)
    model = Transformer(SHAPES[shape]).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.5)
        parameter.data = parameter.data.bfloat16().float()
    return model


def decoded(model, ids_BT, dtype, quantised=None):
    """Scores `[B, T, V]`, token by token, in scattered pages; row b starts at step b."""
    rows, time = ids_BT.shape
    cache = KVCache(model.config, 3 * rows * time, dtype, "cpu")
    tables = torch.randperm(len(cache.all_pages))[: rows * pages_of(time)].view(rows, -1).tolist()
    step = decode.make(model, cache, quantised)
    out = torch.zeros(rows, time, model.config.vocab_size)
    for t in range(time + rows - 1):
        running = [(b, t - b) for b in range(rows) if 0 <= t - b < time]
        spans = [Span(tables[b], at, at + 1) for b, at in running]
        scores = step([int(ids_BT[b, at]) for b, at in running], spans)
        for (b, at), score in zip(running, scores, strict=True):
            out[b, at] = score
    return out


def expected(model, ids_BT):
    with torch.no_grad():
        return model.logits(model(ids_BT, Segments.whole(ids_BT)).states).float()


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("shape", SHAPES)
def test_it_computes_what_the_model_computes(shape):
    model = build(shape)
    ids_BT = torch.randint(0, 512, (19, 20))  # of 19, the matrix unit takes 16 at once
    exact = expected(model, ids_BT)
    assert distance(decoded(model, ids_BT, torch.float32), exact) < 1e-5
    if "experts" not in shape:  # there, a rounded score may choose another expert
        assert distance(decoded(model.bfloat16(), ids_BT, torch.bfloat16), exact) < 0.01


@pytest.mark.parametrize("shape", ["dense", "two experts a token", "seven heads a key"])
@torch.inference_mode()
def test_stretches_of_prompts_may_come_beside_newest_tokens(shape):
    model = build(shape)
    ids_BT = torch.randint(0, 512, (3, 40))
    exact, tables = expected(model, ids_BT), [[4, 0, 3], [8, 7, 6], [1, 2, 5]]
    cache = KVCache(model.config, 9 * PAGE, torch.float32, "cpu")
    step = decode.make(model, cache)
    for parts in (
        [(0, 0, 17), (1, 0, 3)],
        [(0, 17, 18), (2, 0, 1), (1, 3, 35)],
        [(1, 35, 40), (0, 18, 19), (2, 1, 40)],
    ):
        ids = [id for row, start, end in parts for id in ids_BT[row, start:end].tolist()]
        scores = step(ids, [Span(tables[row], start, end) for row, start, end in parts])
        assert distance(scores, torch.stack([exact[row, end - 1] for row, _, end in parts])) < 1e-5


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("shape", ["dense", "untied, one head a key", "seven heads a key"])
@torch.inference_mode()
def test_attention_on_the_pages_is_that_of_pages_copied_together(shape, dtype, near):
    model = build(shape).to(dtype)
    ids_BT, tables = torch.randint(0, 512, (3, 40)), [[4, 0, 3], [8, 7, 6], [1, 2, 5]]
    prompts, newest = [(0, 0, 39), (1, 0, 16), (2, 0, 1)], [(0, 39, 40), (1, 16, 17), (2, 1, 2)]
    found = []
    for compiled in (False, True):
        cache = KVCache(model.config, 9 * PAGE, dtype, "cpu")
        for parts in (prompts, newest):
            ids = [id for row, start, end in parts for id in ids_BT[row, start:end].tolist()]
            cache.newest = decode.attention(cache) if compiled else None
            spans = [Span(tables[row], start, end) for row, start, end in parts]
            states = model(torch.tensor([ids]), cache.read(spans)).states[0]
        found.append(states.float())
    assert distance(*found) < near
    assert not found[0].equal(found[1]), "both ways were taken"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_int8_rounds_every_row_and_both_ways_see_the_same_weights(dtype):
    model = build("dense")
    ids_BT = torch.randint(0, 512, (3, 20))
    exact = expected(model, ids_BT)
    model.to(dtype)
    before = model.layers[0].mlp.up_proj.weight.clone().float()
    quantised = decode.quantise(model)
    after = model.layers[0].mlp.up_proj.weight.float()
    step = before.abs().amax(1, keepdim=True) / 127
    assert ((after - before).abs() <= step * 0.51 + before.abs() / 256).all()
    assert quantised["layers.0.mlp.up_proj.weight"][0].dtype == torch.int8
    rounded = expected(model.float(), ids_BT)
    assert 1e-4 < distance(rounded, exact) < 0.03
    assert distance(decoded(model.to(dtype), ids_BT, dtype, quantised), rounded) < 0.01


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_engine_uses_it_and_leaves_the_model_alone(dtype, int8, monkeypatch):
    monkeypatch.setattr(runtime, "compute_dtype", lambda on: dtype)
    options = {"int8": True} if int8 else {"dtype": dtype}
    model = build("dense")
    weights = [p.clone() for p in model.parameters()]
    engine = Engine(model, max_batch_size=4, context=64, **options)
    assert engine._model_runners[None].decode_step
    assert engine.dtype == engine.model.output_weight.dtype == dtype
    requests = [engine.submit([5, i, 7], Sampling(temperature=0, max_new_tokens=9)) for i in range(6)]
    list(engine.run())
    for request in requests:
        for i, token in enumerate(request.tokens):
            before = torch.tensor([request.prompt_ids + request.ids[:i]])
            logprobs = expected(model, before)[0, -1].log_softmax(-1)
            assert token.logprob == pytest.approx(logprobs[token.id].item(), abs=0.1)
            assert token.logprob == pytest.approx(logprobs.max().item(), abs=0.1)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    engine.update_weights({"norm.weight": torch.zeros(192)})
    flat = engine.submit([5, 6], Sampling(temperature=0, max_new_tokens=3))
    list(engine.run())
    assert [token.logprob for token in flat.tokens] == pytest.approx([-torch.tensor(512.0).log().item()] * 3, abs=1e-4)


def test_shapes_that_it_does_not_have_go_through_the_model():
    for change in ({"attention_bias": True}, {"hidden_size": 200}, {"vocab_size": 61}):
        model = Transformer(PRESETS["tiny"].with_(**{**SMALL, **change})).eval()
        engine = Engine(model, max_batch_size=2, context=32)
        assert engine._model_runners[None].decode_step is None
        request = engine.submit([1, 2], Sampling(max_new_tokens=3))
        list(engine.run())
        assert len(request.ids) == 3


@pytest.mark.parametrize("way", ["cache", "compiler"])
def test_where_it_cannot_be_built_the_model_decodes(way, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MINIMIND_CACHE", str(tmp_path / ("file" if way == "cache" else "empty")))
    if way == "compiler":
        monkeypatch.setattr(decode, "FLAGS", ("-no-such-flag",))
    decode._library.cache_clear()
    try:
        engine = Engine(build("dense"), max_batch_size=1, context=32)
    finally:
        decode._library.cache_clear()
    assert engine._model_runners[None].decode_step is None
    assert "could not be built" in " ".join(capsys.readouterr().err.split())


def test_loading_it_leaves_subnormal_numbers_alone():
    """A library linked with -ffast-math would make every later result below 1e-38 zero, in all of the process."""
    assert decode._library() is not None
    assert (torch.tensor(1e-40) * torch.ones(())).item() > 0


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of one's own, and no library that this process has loaded already."""
    monkeypatch.setenv("MINIMIND_CACHE", str(tmp_path))
    monkeypatch.setattr(decode, "_built", lambda path, compiler: f"built {path.name}")
    monkeypatch.setattr(decode.ctypes, "CDLL", lambda path: f"loaded {path}")
    folder = tmp_path / "kernels"
    folder.mkdir(mode=0o700)
    return folder


def test_a_library_that_others_may_write_is_not_loaded(cache):
    library = cache / "decode-1.so"
    library.write_bytes(b"")
    library.chmod(0o600)
    assert decode._loaded(library)
    library.chmod(0o606)
    assert decode._loaded(library) is None
    link = cache / "decode-2.so"
    link.symlink_to(library)
    assert decode._loaded(link) is None
    assert decode._loaded(cache / "none.so") is None
    cache.chmod(0o777)
    assert not decode._ours(cache)


def test_a_damaged_library_is_built_again(cache, monkeypatch):
    def damaged(path):
        raise OSError("file too short")

    monkeypatch.setattr(decode.ctypes, "CDLL", damaged)
    library = cache / "decode-1.so"
    library.write_bytes(b"x")
    library.chmod(0o600)
    assert decode._loaded(library) is None
