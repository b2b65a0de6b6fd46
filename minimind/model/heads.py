"""A decoder that gives one number per token in place of scores of words: reward models, and critics of PPO.

On disk it is Hugging Face's `Qwen3ForSequenceClassification` with one label, whose score of a text is that of its last
token. Started from a language model it scores everything 0 at first.
"""

import torch
from torch import Tensor

from minimind.config import ModelConfig
from minimind.model.linear import Linear
from minimind.model.transformer import Transformer


class Scorer(Transformer):
    """The decoder's body with a head of one row, `score`."""

    task = "SequenceClassification"

    def __init__(self, config: ModelConfig):
        super().__init__(config.with_(tie_word_embeddings=True))  # so that there is no head of words
        self.score = Linear(config.hidden_size, 1, bias=False)
        torch.nn.init.zeros_(self.score.weight)

    def scores(self, states: Tensor) -> Tensor:
        """Score every token by what has been read up to it: `[..., hidden] -> [...]`, float32, under autocast too."""
        return (states.float() * self.score.weight[0].float()).sum(-1)
