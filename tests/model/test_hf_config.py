"""Other programs' `config.json`: null means the default, as in transformers; what is no model is one sentence."""

import json

import pytest
from transformers import Qwen3Config, Qwen3MoeConfig

from minimind.convert.ollama import make_modelfile
from minimind.errors import UserError
from minimind.model.hf_config import config_from_hf, read_generation
from minimind.tokenizer.bpe import Tokenizer

DENSE = {
    "model_type": "qwen3",
    **{"vocab_size": 6400, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-6},
}
MOE = DENSE | {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
NULLS = [
    *("num_key_value_heads", "rope_scaling", "rope_theta", "tie_word_embeddings", "attention_bias", "bos_token_id"),
    *(
        "eos_token_id",
        "pad_token_id",
        "max_position_embeddings",
        "rope_parameters",
        "rms_norm_eps",
        "use_sliding_window",
    ),
    *("hidden_act", "initializer_range", "architectures"),
]


@pytest.mark.parametrize("name", NULLS)
def test_null_is_what_is_left_out(name):
    without = {key: value for key, value in DENSE.items() if key != name}
    if name == "num_key_value_heads":
        assert (
            config_from_hf(DENSE | {name: None}).num_key_value_heads
            == Qwen3Config(**DENSE | {name: None}).num_key_value_heads
        )
    assert config_from_hf(without | {name: None}) == config_from_hf(without)


@pytest.mark.parametrize("name", ["norm_topk_prob", "mlp_only_layers", "decoder_sparse_step", "router_aux_loss_coef"])
def test_null_is_what_is_left_out_of_a_mixture(name):
    ours, theirs = config_from_hf(MOE | {name: None}), getattr(Qwen3MoeConfig(**MOE), name)
    assert list(getattr(ours, name)) == theirs if isinstance(theirs, list) else getattr(ours, name) == theirs


def test_other_spellings():
    assert config_from_hf(DENSE | {"hidden_size": 64.0, "eos_token_id": [2, 0]}).eos_token_id == 2
    assert config_from_hf(DENSE | {"eos_token_id": []}).eos_token_id is None
    yarn = {"type": "yarn", "factor": 4, "truncate": None, "original_max_position_embeddings": 512, "beta_fast": None}
    found = config_from_hf(DENSE | {"rope_scaling": yarn}).rope_scaling
    assert found == {"type": "yarn", "factor": 4, "original_max_position_embeddings": 512}
    assert config_from_hf(DENSE | {"rope_parameters": yarn | {"rope_theta": 1e4}}).rope_theta == 1e4


def test_two_spellings_of_rope_that_disagree_are_refused():
    both = DENSE | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    assert config_from_hf(both | {"rope_scaling": {"rope_type": "default"}}).rope_theta == 1e4
    with pytest.raises(UserError, match="keep one of them"):
        config_from_hf(both | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}})


@pytest.mark.parametrize("content", [DENSE, MOE])
def test_the_width_of_heads_that_is_left_out_is_transformers(content):
    content = content | {"hidden_size": 128}
    del content["head_dim"]
    theirs = Qwen3Config(**content).head_dim if content["model_type"] == "qwen3" else 128 // 4
    assert config_from_hf(content).head_dim == theirs


WRONG = {
    "vocab_size": ["6400", 0, -1, 1.5, True, 10**12, [], None],
    "num_hidden_layers": [10**9, "two"],
    "num_key_value_heads": [3, 0, "2"],
    "head_dim": [7, {}],
    "rms_norm_eps": [0, "1e-6", float("inf"), float("nan")],
    "rope_theta": [0, -1, "1e6"],
    "rope_scaling": ["yarn", {"rope_type": "yarn", "factor": "four"}, {"rope_type": 3}, [1]],
    "tie_word_embeddings": ["yes", 1],
    "eos_token_id": ["</s>", ["</s>"], 1.5],
    "hidden_act": ["gelu"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_what_is_no_model_is_one_sentence(name, value):
    with pytest.raises(UserError, match=f"config.json.*{name}"):
        config_from_hf(DENSE | {name: value}, "dir/config.json")


def test_experts_that_cannot_be():
    for change in ({"num_experts_per_tok": 5}, {"mlp_only_layers": ["one"]}, {"num_experts": 10**9}):
        with pytest.raises(UserError, match=next(iter(change))):
            config_from_hf(MOE | change)


def test_generation_config(tmp_path):
    path = tmp_path / "generation_config.json"
    assert read_generation(tmp_path) == (None, None, None, None)
    path.write_text('{"temperature": null, "top_k": 20, "top_p": 1, "repetition_penalty": 1.1}', encoding="utf-8")
    assert read_generation(tmp_path) == (None, 1.0, 20, 1.1)
    for wrong in ('{"temperature": "warm"}', '{"top_p": 2}', '{"top_k": -1}', '{"repetition_penalty": 0}', "[]", "{"):
        path.write_text(wrong, encoding="utf-8")
        with pytest.raises(UserError, match=r"generation_config\.json"):
            read_generation(tmp_path)


def test_a_modelfile_has_numbers_where_the_model_says_null(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(DENSE), encoding="utf-8")
    Tokenizer.load("default").save(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"temperature": null, "top_p": 0.5}', encoding="utf-8")
    text = make_modelfile(tmp_path)
    assert "PARAMETER temperature 0.7\n" in text
    assert "PARAMETER top_p 0.5\n" in text
    assert "None" not in text
