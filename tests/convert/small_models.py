"""What the tests of the converters share: small models of every shape, a conversation, and llama.cpp to ask."""

import json
import urllib.request

import torch

from minimind.config import ModelConfig
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.load("default")
DENSE = ModelConfig(
    hidden_size=64,
    intermediate_size=96,
    moe_intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=1024,
)
SHAPES = {
    "dense": DENSE,
    "untied": DENSE.with_(tie_word_embeddings=False, vocab_size=6464),
    "wide heads": DENSE.with_(head_dim=32),
    "yarn": DENSE.with_(
        max_position_embeddings=512,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    ),
    "yarn, own temperature": DENSE.with_(
        max_position_embeddings=512,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "attention_factor": 1.0,
        },
    ),
    "yarn, a temperature by mscale": DENSE.with_(
        max_position_embeddings=512,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "mscale": 1.0,
            "mscale_all_dim": 0.5,
        },
    ),
    "moe": DENSE.with_(num_experts=4),
    "moe, two of four": DENSE.with_(num_experts=4, num_experts_per_tok=2),
    "moe, normalised": DENSE.with_(num_experts=4, norm_topk_prob=True),
    "moe, normalised, two of four": DENSE.with_(num_experts=4, num_experts_per_tok=2, norm_topk_prob=True),
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "天气 weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ASKED = [{"role": "user", "content": "北京天气怎么样？"}]
CALL = {"role": "assistant", "tool_calls": [{"name": "get_current_weather", "arguments": {"city": "北京"}}]}
GREETED = [{"role": "user", "content": "Hello!"}]
THOUGHT = {"role": "assistant", "reasoning_content": "A greeting.", "content": "Hi, 你好！"}


def random_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """A model whose every parameter matters: norms off 1, matrices large enough to spread the logits."""
    torch.manual_seed(seed)
    model = Transformer(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
        else:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def write(model: Transformer, directory, dtype="float32"):
    save_model(model, directory, dtype)
    TOKENIZER.save(directory)
    return directory


class Llama:
    """llama.cpp in this process, asked over HTTP; float32 cache and plain attention, so that only the model counts."""

    def __init__(self, file):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.warmup, params.fit_params = 1024, 1, False, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(params)

    def post(self, path, **body):
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            self._server.listening_address + path, data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    def tokens(self, text, parse_special=False):
        return self.post("/tokenize", content=text, add_special=True, parse_special=parse_special)["tokens"]

    def logprobs(self, ids, vocab_size):
        """Log-probabilities `[vocab]` of the token after `ids`. A drawn token that is half a character reports none."""
        options = {"n_predict": 1, "n_probs": vocab_size, "cache_prompt": False}
        for seed in range(20):
            answer = self.post("/completion", prompt=ids, seed=seed, **options)
            if answer.get("completion_probabilities"):
                found = torch.full((vocab_size,), -torch.inf)
                for one in answer["completion_probabilities"][0]["top_logprobs"]:
                    found[one["id"]] = one["logprob"]
                return found.double().log_softmax(-1)  # the server sums the probabilities in single precision
        raise AssertionError("no token with a log-probability in 20 draws")

    def greedy(self, ids, length):
        options = {"samplers": ["top_k"], "top_k": 1, "return_tokens": True, "ignore_eos": True, "cache_prompt": False}
        return self.post("/completion", prompt=ids, n_predict=length, **options)["tokens"]
