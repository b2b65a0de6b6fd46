"""GGUF against llama.cpp itself: the same ids, the same numbers, the same conversation; and what is refused."""

import json
import shutil

import jinja2
import pytest
from small_models import ASKED, CALL, GREETED, SHAPES, THOUGHT, TOKENIZER, TOOL, Llama, random_model, write
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

import minimind
from minimind.convert import gguf_kquants
from minimind.convert.gguf import TYPES, export_gguf
from minimind.convert.gguf_tokenizer import PROBE, find_pre_tokenizer
from minimind.engine.generate import complete
from minimind.engine.sampling import GREEDY
from minimind.errors import UsageError, UserError
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

HOSTILE = [
    *PROBE.splitlines(),
    PROBE,
    "   leading, trailing   ",
    "\n\n\n\t \r\n",
    "a" * 300,
    "0123456789" * 20,
    "！？。，、；：“”‘’（）【】" * 3,
    "e\u0301 o\u0308 \u1100\u1161\u11a8 \ufeff \u200d",
    "it's IT'S we're WE'RE I'll I'LL don't DON'T 'quoted'",
    "<|im_start|x> <think <tool_call",
    "🙂" * 40 + "👩‍🚀",
    "\x00\x01\x7f",
]


@pytest.fixture(scope="module")
def llama_of(model_of, tmp_path_factory):
    """`llama_of(shape)`: llama.cpp with that model in float32."""
    running = {}

    def run(shape):
        if shape not in running:
            file = tmp_path_factory.mktemp("gguf") / "model.gguf"
            export_gguf(model_of(shape), file, "f32")
            running[shape] = Llama(file)
        return running[shape]

    yield run
    running.clear()


def ours(directory, ids):
    """Our log-probabilities `[vocab]` of the token after `ids`."""
    return minimind.load(directory, "cpu").logits(ids)[-1].double().log_softmax(-1)


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_computes_the_same(model_of, llama_of, shape):
    if shape == "wide heads":  # its dense form is fine; see test_what_has_no_equal for the mixture
        assert SHAPES[shape].num_attention_heads * SHAPES[shape].head_dim != SHAPES[shape].hidden_size
    ids = TOKENIZER.encode(PROBE)[:300]
    for length in (1, 40, 300):
        wanted = ours(model_of(shape), ids[:length])
        got = llama_of(shape).logprobs(ids[:length], len(wanted))
        assert (wanted - got).abs().max() < 1e-4
    lm = minimind.load(model_of(shape), "cpu")
    assert llama_of(shape).greedy(ids[:40], 20) == complete(lm.model, [ids[:40]], GREEDY, [], 20)[0]


def test_a_mixture_that_does_not_normalise_differs_from_one_that_does(model_of):
    """What is lost by exporting to the wrong architecture: the reason for the other one."""
    ids = TOKENIZER.encode(PROBE)[:40]
    gap = ours(model_of("moe"), ids) - ours(model_of("moe, normalised"), ids)
    assert gap.abs().max() > 0.1


def test_the_file_says_what_the_model_is(model_of, tmp_path):
    figures = export_gguf(model_of("dense"), tmp_path / "model.gguf", "q8_0")
    assert figures["architecture"] == "qwen3"
    assert figures["pre_tokenizer"] == "qwen2"
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["qwen3.attention.key_length"] == said["qwen3.attention.value_length"] == 16
    assert said["qwen3.rope.dimension_count"] == 16
    assert said["qwen3.feed_forward_length"] == 96
    assert said["qwen3.context_length"] == 1024
    assert said["tokenizer.ggml.model"] == "gpt2"
    assert said["tokenizer.ggml.add_bos_token"] is False
    assert said["tokenizer.ggml.eos_token_id"] == 2
    assert "<think>" in said["tokenizer.chat_template"]
    kinds = [gguf.TokenType(kind) for kind in said["tokenizer.ggml.token_type"]]
    assert set(kinds[:21]) == {gguf.TokenType.CONTROL}
    assert set(kinds[21:36]) == {gguf.TokenType.USER_DEFINED}
    assert set(kinds[36:]) == {gguf.TokenType.NORMAL}
    tensors = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert "output.weight" not in tensors, "tied"
    assert {kind for name, kind in tensors.items() if "norm" in name} == {"F32"}
    assert {kind for name, kind in tensors.items() if "norm" not in name} == {"Q8_0"}


def test_rows_of_the_embedding_that_no_token_uses_are_unused(model_of, tmp_path):
    export_gguf(model_of("untied"), tmp_path / "model.gguf", "f16")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    assert len(kinds) == 6464
    assert set(kinds[6400:]) == {int(gguf.TokenType.UNUSED)}
    assert "output.weight" in {tensor.name for tensor in reader.tensors}


def test_the_same_ids_on_hostile_text(llama_of):
    llama = llama_of("dense")
    for text in HOSTILE:
        assert llama.tokens(text) == TOKENIZER.encode(text), text


def test_control_tokens_are_read_in_a_prompt_and_not_in_a_text(llama_of):
    llama, special = llama_of("dense"), "<|im_start|>user\nhi<|im_end|>\n"
    assert llama.tokens(special) == TOKENIZER.encode(special)
    assert llama.tokens(special, parse_special=True)[0] == 1
    assert llama.tokens("<think>", parse_special=True) == [25]


def test_the_template_gives_our_prompt(llama_of):
    llama = llama_of("dense")
    turns = [{"role": "system", "content": "Be brief."}, *GREETED, THOUGHT, *ASKED]
    after = [*ASKED, CALL, {"role": "tool", "content": "晴"}, {"role": "tool", "content": "20"}]
    for messages, tools, thinking in ((turns, None, False), (turns, [TOOL], True), (after, [TOOL], False)):
        wanted, _ = render(messages, TOKENIZER, tools, open_thinking=thinking, add_generation_prompt=True)
        sent = [as_openai(message) for message in messages]
        body = {"messages": sent, "chat_template_kwargs": {"enable_thinking": thinking}} | (
            {"tools": tools} if tools else {}
        )
        assert llama.tokens(llama.post("/apply-template", **body)["prompt"], parse_special=True) == wanted


def test_the_template_of_a_file_is_plain_jinja(model_of, tmp_path):
    """llama-cpp-python and others have jinja2 without the `generation` tag of transformers."""
    export_gguf(model_of("dense"), tmp_path / "model.gguf", "q8_0")
    said = gguf.GGUFReader(tmp_path / "model.gguf").fields["tokenizer.chat_template"].contents()
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(said)
    messages = [*GREETED, THOUGHT, *ASKED, as_openai(CALL), {"role": "tool", "content": "20"}]
    wanted, _ = render(messages, TOKENIZER, add_generation_prompt=True)
    assert template.render(messages=messages, add_generation_prompt=True) == TOKENIZER.decode(wanted)


def as_openai(message):
    calls = [
        {"type": "function", "function": call | {"arguments": json.dumps(call["arguments"], ensure_ascii=False)}}
        for call in message.get("tool_calls", [])
    ]
    return message | {"content": message.get("content", "")} | ({"tool_calls": calls} if calls else {})


def test_a_file_that_does_not_think(taught, tmp_path):
    """llama.cpp opens a think block on its own; a model that has learned short answers then says nothing after it."""
    export_gguf(taught, tmp_path / "model.gguf", "f16", thinking=False)
    llama = Llama(tmp_path / "model.gguf")
    wanted, _ = render(ASKED, TOKENIZER, [TOOL], add_generation_prompt=True)
    for more in ({}, {"chat_template_kwargs": {"enable_thinking": True}}):
        prompt = llama.post("/apply-template", messages=ASKED, tools=[TOOL], **more)["prompt"]
        assert llama.tokens(prompt, parse_special=True) == wanted
    options = {"temperature": 0, "max_tokens": 60}
    (answer,) = llama.post("/v1/chat/completions", messages=ASKED, tools=[TOOL], **options)["choices"]
    assert answer["message"]["tool_calls"][0]["function"]["name"] == "get_current_weather"


@pytest.mark.parametrize(
    ("kind", "divergence"),
    [("bf16", 1e-3), ("f16", 1e-4), ("q8_0", 1e-3), ("q6_k", 0.01), ("q4_k_m", 0.1), ("q4_0", 0.1)],
)
def test_every_type_keeps_what_was_learned(taught, tmp_path, kind, divergence):
    """KL(ours ‖ theirs) in nats over the taught answer, and the answer itself, through llama.cpp's own chat parser."""
    export_gguf(taught, tmp_path / "model.gguf", kind)
    llama = Llama(tmp_path / "model.gguf")
    ids, _ = render([*ASKED, CALL], TOKENIZER, [TOOL])
    for length in (len(ids) // 2, len(ids) - 12, len(ids) - 3):
        wanted = ours(taught, ids[:length])
        got = llama.logprobs(ids[:length], len(wanted))
        assert (wanted.exp() * (wanted - got)).sum() < divergence
    answer = llama.post(
        "/v1/chat/completions",
        messages=ASKED,
        tools=[TOOL],
        temperature=0,
        max_tokens=60,
        chat_template_kwargs={"enable_thinking": False},
    )["choices"][0]
    (call,) = answer["message"]["tool_calls"]
    assert answer["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "get_current_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "北京"}
    thought = llama.post("/v1/chat/completions", messages=GREETED, temperature=0, max_tokens=30)["choices"][0][
        "message"
    ]
    assert thought["reasoning_content"].strip() == "A greeting."
    assert thought["content"] == "Hi, 你好！"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """A model whose rows are multiples of 256, but for one matrix of each layer."""
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "head_dim": 64, "intermediate_size": 608}
    directory = tmp_path_factory.mktemp("blocks")
    write(random_model(SHAPES["dense"].with_(**sizes, num_hidden_layers=8)), directory)
    return directory


def test_types_are_as_large_as_they_say(blocks, tmp_path):
    sizes = {kind: export_gguf(blocks, tmp_path / "model.gguf", kind)["bytes"] for kind in TYPES}
    plain = [size for kind, size in sizes.items() if "_k" not in kind]
    assert sorted(plain, reverse=True) == plain
    assert sizes["q8_0"] > sizes["q6_k"] > sizes["q4_k_m"] > sizes["q4_0"] * 0.9, "its embedding has 6 bits, not 8"


def test_k_quants_are_llama_cpps(blocks, tmp_path):
    """Its own mixture of formats, and blocks that another reader takes apart."""
    export_gguf(blocks, tmp_path / "whole.gguf", "f32")
    whole = {one.name: one for one in gguf.GGUFReader(tmp_path / "whole.gguf").tensors}
    for kind, least, finer, ended in (("q4_k_m", 0.1, [0, 3, 6, 7], "Q5_0"), ("q6_k", 0.02, range(8), "Q8_0")):
        export_gguf(blocks, tmp_path / f"{kind}.gguf", kind)
        types = {}
        for one in gguf.GGUFReader(tmp_path / f"{kind}.gguf").tensors:
            types[one.name] = one.tensor_type.name
            wanted = whole[one.name].data
            got = gguf.quants.dequantize(one.data, one.tensor_type).reshape(wanted.shape)
            assert ((got - wanted) ** 2).mean() <= least**2 * (wanted**2).mean(), one.name
        values = [types[f"blk.{layer}.attn_v.weight"] for layer in range(8)]
        assert [layer for layer, name in enumerate(values) if name == "Q6_K"] == list(finer)
        assert types["token_embd.weight"] == "Q6_K"
        assert types["blk.2.ffn_down.weight"] == ended, "608 is no multiple of 256"
        assert types["blk.2.ffn_up.weight"] == types["blk.2.attn_q.weight"] == ("Q6_K" if kind == "q6_k" else "Q4_K")


def test_k_quants_need_llama_cpp(blocks, tmp_path, monkeypatch):
    gguf_kquants.library.cache_clear()
    monkeypatch.setattr(gguf_kquants.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install xllamacpp"):
        export_gguf(blocks, tmp_path / "model.gguf", "q6_k")
    gguf_kquants.library.cache_clear()
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def gpt2_tokenizer(tmp_path_factory):
    """A tokenizer that splits as GPT-2 does, as MiniMind's published one; made here."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([PROBE, "2024 2025 1999 12345 1234 (hello) hello's !hello\n\n 10,000"] * 3, trainer)
    folder = tmp_path_factory.mktemp("gpt2")
    library.save(str(folder / "tokenizer.json"))
    config = {"bos_token": names[1], "eos_token": names[2], "pad_token": names[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return Tokenizer.load(folder)


def test_another_split_is_recognised(gpt2_tokenizer, tmp_path):
    write(random_model(SHAPES["dense"].with_(vocab_size=700)), tmp_path)
    gpt2_tokenizer.save(tmp_path)
    assert export_gguf(tmp_path, tmp_path / "model.gguf", "f16")["pre_tokenizer"] == "gpt-2"
    llama = Llama(tmp_path / "model.gguf")
    for text in HOSTILE:
        assert llama.tokens(text) == gpt2_tokenizer.encode(text), text


def test_a_split_that_llama_cpp_does_not_know_is_refused(gpt2_tokenizer):
    spec = json.loads(gpt2_tokenizer.files["tokenizer.json"])
    spec["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    odd = Tokenizer({"tokenizer.json": json.dumps(spec)})
    with pytest.raises(UserError, match=r"none of llama\.cpp's pre-tokenizers"):
        find_pre_tokenizer(odd)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_experts": 4, "head_dim": 32}, "norm_topk_prob = false"),
        ({"num_experts": 4, "mlp_only_layers": (0,)}, "experts in every layer"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_slow": 2}}, "beta_slow"),
    ],
)
def test_what_has_no_equal_in_llama_cpp_is_refused(tmp_path, change, words):
    write(random_model(SHAPES["dense"].with_(**change)), tmp_path / "model")
    with pytest.raises(UserError, match=words):
        export_gguf(tmp_path / "model", tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_mistakes_are_one_sentence_and_leave_nothing(model_of, tmp_path):
    model = shutil.copytree(model_of("dense"), tmp_path / "model")
    out = tmp_path / "out" / "model.gguf"
    with pytest.raises(UsageError, match="did you mean 'q8_0'"):
        export_gguf(model, out, "q80")
    with pytest.raises(UsageError, match="llama-quantize"):
        export_gguf(model, out, "q5_k_m")
    with pytest.raises(UsageError, match=r"ends in \.gguf"):
        export_gguf(model, tmp_path / "out")
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable safetensors"):
        export_gguf(model, out)
    weights.write_bytes(whole)
    (model / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        export_gguf(model, out)
    with pytest.raises(UserError, match="not a model directory"):
        export_gguf(tmp_path / "none", out)
    with pytest.raises(UserError, match="cannot be written"):
        export_gguf(model_of("dense"), weights / "model.gguf")
    assert not out.parent.exists()
