"""What vLLM, SGLang and MNN read of a model directory. They themselves are too large, or need a GPU, to run here."""

import json

import jinja2
import pytest
from small_models import TOKENIZER

transformers = pytest.importorskip("transformers")
chat_template_utils = pytest.importorskip("transformers.utils.chat_template_utils")

# From vllm/model_executor/models/qwen3{,_moe}.py, sglang/srt/models/qwen3{,_moe}.py and MNN's llmexport.
DENSE = {
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "hidden_act", "rms_norm_eps", "max_position_embeddings", "attention_bias"),
    *("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"),
}
EXPERTS = {
    *("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"),
    *("decoder_sparse_step", "mlp_only_layers"),
}


@pytest.mark.parametrize("shape", ["dense", "untied", "yarn", "moe"])
def test_the_configuration_is_complete(model_of, shape):
    file = json.loads((model_of(shape) / "config.json").read_text(encoding="utf-8"))
    config = transformers.AutoConfig.from_pretrained(model_of(shape), trust_remote_code=False)
    assert config.architectures == [f"Qwen3{'Moe' if shape == 'moe' else ''}ForCausalLM"], (
        "servers look the class up by it"
    )
    for name in DENSE | (EXPERTS if shape == "moe" else set()):
        assert file[name] is not None, name
        assert getattr(config, name) == file[name], name
    # transformers 5 hands the servers one field, 4 two; who reads the file itself finds the two
    assert config.rope_parameters["rope_theta"] == file["rope_theta"]
    assert config.rope_parameters["rope_type"] == (file["rope_scaling"] or {"rope_type": "default"})["rope_type"]


def test_the_parsers_of_thoughts_and_calls_find_their_tokens(model_of):
    """vLLM's `qwen3` and `hermes` parsers want these tags as single tokens that `skip_special_tokens` does not drop."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_of("dense"))
    for tag in ("<think>", "</think>", "<tool_call>", "</tool_call>"):
        ids = tokenizer.encode(tag, add_special_tokens=False)
        assert ids == [tokenizer.get_vocab()[tag]] == [TOKENIZER.control_id(tag)]
        assert tokenizer.decode(ids, skip_special_tokens=True) == tag
    assert "chat_template" in json.loads((model_of("dense") / "tokenizer_config.json").read_text(encoding="utf-8"))


def test_what_detectors_look_for_in_the_template():
    """SGLang takes the default of thinking from a `default` filter, and mlx-lm the form of calls from the name."""
    template = TOKENIZER.chat_template
    tree = chat_template_utils._compile_jinja_template(template).environment.parse(template)  # as both do
    defaults = [node for node in tree.find_all(jinja2.nodes.Filter) if node.name == "default"]
    assert [(node.node.name, node.args[0].value) for node in defaults] == [("enable_thinking", False)]
    assert "<tool_call>" in template
    assert "tool_call.name" in template


def test_an_answer_ends(model_of):
    generation = transformers.GenerationConfig.from_pretrained(model_of("dense"))
    assert generation.eos_token_id == TOKENIZER.eos_id == TOKENIZER.control_id("<|im_end|>")
    assert generation.pad_token_id == TOKENIZER.pad_id
