"""From logits to the next token, each row of a batch by its own rules.

Letters: B rows of a batch, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minimind import runtime
from minimind.errors import UsageError

MAX_TOP_LOGPROBS = 20
COLDEST = 1e-6
"""Below this temperature the likeliest token is taken, as at 0: scores divided by less leave the range of floats."""


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one request are chosen, and where it ends.

    Scores pass through `logit_bias`, the three penalties, the grammar, `temperature`, `top_k`, `top_p`, `min_p`, in
    this order. Penalties look at generated tokens only: a question's words may be repeated freely in its answer.
    """

    temperature: float = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Keep tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Above 1: a token already generated loses score: divides, or multiplies if negative (CTRL, Keskar et al. 2019)."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of a token already generated."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of a token for each time that it was generated."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of single tokens."""
    seed: int | None = None
    """The request's own stream of random numbers; without one, the engine gives it one."""
    max_new_tokens: int | None = None
    """None: until the context is full."""
    stop: Sequence[str] = ()
    """Strings that end the answer; they are not part of its text."""
    stop_ids: Sequence[int] = ()
    """Tokens that end the answer, besides the tokenizer's end of text; they are part of its ids."""
    ignore_eos: bool = False
    """Go on after the tokenizer's end of text (but not after `stop_ids`)."""
    top_logprobs: int = 0
    """How many of the likeliest tokens to report with each token."""
    prompt_logprobs: int | None = None
    """Score the prompt's own tokens too, and report so many of the likeliest with each; None: do not."""
    embed: bool = False
    """Add up the states of the prompt's tokens."""
    grammar: Any = None
    """What the answer must look like, from `engine.grammar`: its text, or `Compiled`."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a value is out of its range.
        """
        new = self.max_new_tokens
        rules = {
            "temperature": (self.temperature >= 0, "0 (greedy) or above"),
            "top_k": (0 <= self.top_k < 2**31, "0 (off) or above, and below 2**31"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "between 0.01 and 100"),
            "presence_penalty": (abs(self.presence_penalty) <= 100, "between -100 and 100"),
            "frequency_penalty": (abs(self.frequency_penalty) <= 100, "between -100 and 100"),
            "max_new_tokens": (new is None or new >= 0, "0 or above"),
            "stop": (not isinstance(self.stop, str) and all(self.stop), "a list of strings that are not empty"),
            "top_logprobs": (0 <= self.top_logprobs <= MAX_TOP_LOGPROBS, f"between 0 and {MAX_TOP_LOGPROBS}"),
            "prompt_logprobs": (
                self.prompt_logprobs is None or 0 <= self.prompt_logprobs <= MAX_TOP_LOGPROBS,
                f"between 0 and {MAX_TOP_LOGPROBS}",
            ),
        }
        for name, (ok, rule) in rules.items():
            if not ok:
                raise UsageError(f"{name} is {getattr(self, name)}, but should be {rule}")

    @property
    def filters(self) -> bool:
        """Whether some tokens cannot be drawn, however likely they are."""
        return bool(self.top_k or self.top_p < 1 or self.min_p)


class ScoredToken(NamedTuple):
    """One given token as the model sees it; log-probabilities are in nats."""

    id: int
    logprob: float
    """Under the model itself, given the tokens before it."""
    rank: int
    """1: no token is likelier in its place."""
    top: list[tuple[int, float]]
    """The likeliest tokens in its place, likeliest first."""


GREEDY = Sampling(temperature=0.0)


class SampledTokens(NamedTuple):
    """One chosen token a row: `ids` int64 `[B]` and two log-probabilities of it (nats, float32 `[B]`)."""

    ids: Tensor
    logprobs: Tensor
    """Under the model itself, before any rule."""
    policy_logprobs: Tensor
    """Under the distribution that it was drawn from, after every rule (0 where that leaves a single token)."""
    model: Tensor
    """The model's log-probabilities of every token `[B, V]`."""


def sample(
    logits_BV: Tensor,
    samplings: Sequence[Sampling],
    uniform_B: Tensor,
    counts_BV: Tensor | None = None,
    allowed_BV: Tensor | None = None,
) -> SampledTokens:
    """Choose a token for each row.

    Args:
        logits_BV: scores of every token.
        samplings: each row's rules.
        uniform_B: one number in [0, 1) a row, float64: the only randomness there is.
        counts_BV: how often each token was generated, for the penalties; None where no row has any.
        allowed_BV: True where a grammar lets a token stand; None where no row has one.
    """
    model_BV = logits_BV.float().log_softmax(-1)
    scores_BV = _biased(logits_BV.float(), samplings)
    if counts_BV is not None:
        scores_BV = _penalised(scores_BV, samplings, counts_BV)
    if allowed_BV is not None:
        scores_BV = scores_BV.masked_fill(~allowed_BV, -torch.inf)
    likeliest_B = scores_BV.argmax(-1)
    if all(s.temperature < COLDEST for s in samplings):
        ids_B, policy_B = likeliest_B, torch.zeros_like(model_BV[:, 0])
    else:
        temperature_B1 = _column(samplings, "temperature", scores_BV)
        greedy_B1 = temperature_B1 < COLDEST
        p_BV = (scores_BV / temperature_B1.masked_fill(greedy_B1, 1)).softmax(-1)
        ids_B, policy_B = _draw(p_BV, samplings, uniform_B)
        ids_B = torch.where(greedy_B1[:, 0], likeliest_B, ids_B)
        policy_B = policy_B.masked_fill(greedy_B1[:, 0], 0)
    return SampledTokens(ids_B, model_BV.gather(1, ids_B[:, None])[:, 0], policy_B, model_BV)


def score(logits_NV: Tensor, ids: Sequence[int], top: int) -> list[ScoredToken]:
    """How likely given tokens are, with so many of the likeliest in the place of each.

    Args:
        logits_NV: scores of every token.
        ids: one token a row.
        top: at most `MAX_TOP_LOGPROBS`.
    """
    log_probs_NV = logits_NV.float().log_softmax(-1)
    own_N1 = log_probs_NV.gather(1, runtime.sent(torch.tensor(ids), logits_NV.device)[:, None])
    rank_N = (log_probs_NV > own_N1).sum(-1) + 1
    values_NK, ids_NK = log_probs_NV.topk(min(top, log_probs_NV.shape[1]))
    tops = [list(zip(i, v, strict=True)) for i, v in zip(ids_NK.tolist(), values_NK.tolist(), strict=True)]
    columns = (ids, own_N1[:, 0].tolist(), rank_N.tolist(), tops)
    return [ScoredToken(*values) for values in zip(*columns, strict=True)]


def filter_mask(p_BV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """True for the tokens that the filters leave of probabilities `[B, V]`, softmax(logits/temperature).

    One rule for all rows, or one each. What is sampled is drawn from `p_BV` over these tokens alone.
    """
    vocabulary = p_BV.shape[1]
    p_BV, order_BV = p_BV.sort(-1, descending=True)
    top_k_B1 = runtime.sent(torch.tensor([[s.top_k or vocabulary] for s in samplings]), p_BV.device)
    p_BV = p_BV.masked_fill(torch.arange(vocabulary, device=p_BV.device) >= top_k_B1, 0)
    p_BV = p_BV / p_BV.sum(-1, keepdim=True)
    likelier_BV = _cumulative(p_BV, p_BV.dtype) - p_BV  # probability of all tokens before this one
    top_p_B1 = _column(samplings, "top_p", p_BV)
    nucleus_BV = (likelier_BV < top_p_B1) | (top_p_B1 == 1)  # a sum of float32 may reach 1 before the last token
    keep_BV = nucleus_BV & (p_BV > 0) & (p_BV >= _column(samplings, "min_p", p_BV) * p_BV[:, :1])
    keep_BV[:, 0] = True
    return torch.empty_like(keep_BV).scatter(1, order_BV, keep_BV)


def stream_of(seed: int, index: int) -> int:
    """The seed of stream `index` of a seed: each of several answers draws other random numbers."""
    return (seed + index * 0x9E3779B97F4A7C15) % 2**64


def uniforms(seeds: Sequence[int], positions: Sequence[int]) -> np.ndarray:
    """Random numbers in [0, 1), each a function of a request's seed and the place of its token alone: float64.

    A counter hashed by SplitMix64 (Steele et al. 2014) needs no state, so a request draws the same numbers whoever
    shares its batch, and after any interruption.
    """
    with np.errstate(over="ignore"):
        x = _mix(np.array(seeds, dtype=np.uint64)) + np.array(positions, dtype=np.uint64)
        return (_mix(x) >> np.uint64(11)) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _column(samplings: Sequence[Sampling], name: str, like: Tensor) -> Tensor:
    """One value of each row as `[B, 1]`."""
    return runtime.sent(torch.tensor([[getattr(s, name)] for s in samplings], dtype=like.dtype), like.device)


def _biased(scores_BV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    biases = [(row, id, bias) for row, s in enumerate(samplings) for id, bias in s.logit_bias.items()]
    if not biases:
        return scores_BV
    rows, ids, values = zip(*biases, strict=True)
    row_N, id_N, value_N = (runtime.sent(torch.tensor(x), scores_BV.device) for x in (rows, ids, values))
    return scores_BV.index_put((row_N, id_N), value_N.to(scores_BV), accumulate=True)


def _penalised(scores_BV: Tensor, samplings: Sequence[Sampling], counts_BV: Tensor) -> Tensor:
    repetition_B1 = _column(samplings, "repetition_penalty", scores_BV)
    presence_B1 = _column(samplings, "presence_penalty", scores_BV)
    frequency_B1 = _column(samplings, "frequency_penalty", scores_BV)
    seen_BV = counts_BV > 0
    shrunk_BV = torch.where(scores_BV > 0, scores_BV / repetition_B1, scores_BV * repetition_B1)
    scores_BV = torch.where(seen_BV, shrunk_BV - presence_B1, scores_BV)
    return scores_BV - frequency_B1 * counts_BV


def _cumulative(p_BV: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums of probabilities up to each token.

    CUDA adds floats up in any order and refuses to where results must repeat; whole numbers give the same sum in all.
    """
    if p_BV.is_cuda and torch.are_deterministic_algorithms_enabled():
        return _in_whole_numbers(p_BV).to(dtype)
    return p_BV.cumsum(-1, dtype=dtype)


def _in_whole_numbers(p_BV: Tensor) -> Tensor:
    """Cumulative sums in units of 2⁻⁵², float64."""
    return (p_BV.double() * 2.0**52).long().cumsum(-1).double() * 2.0**-52


def _draw(p_BV: Tensor, samplings: Sequence[Sampling], uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Draw by inverting the cumulative distribution of the tokens that the filters keep.

    In the vocabulary's order, so that a row without filters draws the same token beside one that has some.
    """
    if any(s.filters for s in samplings):
        p_BV = p_BV * filter_mask(p_BV, samplings)
    double = torch.float32 if p_BV.device.type == "mps" else torch.float64
    cumulative_BV = _cumulative(p_BV, double)
    target_B1 = runtime.sent(uniform_B[:, None].to(double), p_BV.device) * cumulative_BV[:, -1:]
    index_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True).clamp(max=p_BV.shape[-1] - 1)
    policy_B1 = p_BV.gather(1, index_B1).log() - cumulative_BV[:, -1:].float().log()
    return index_B1[:, 0], policy_B1[:, 0]
