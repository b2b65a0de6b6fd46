"""Multiple choice: the branching document gives the scores of separate texts, and the counts are right."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.config import ModelConfig
from minimind.errors import UserError
from minimind.eval import choice
from minimind.eval.choice import Tree, accuracy, evaluate, log_likelihoods, plant
from minimind.eval.tasks import Question
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.bpe import Tokenizer

SHAPE = ModelConfig(
    vocab_size=6400,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=64,
)


def build(config):
    torch.manual_seed(0)
    model = Transformer(config).eval()
    with torch.no_grad():  # far from uniform, so that a wrong position or neighbour shows
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


@pytest.fixture(scope="module", params=["dense", "moe"])
def model(request):
    return build(SHAPE if request.param == "dense" else SHAPE.with_(num_experts=3, num_experts_per_tok=1))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load("default")


@torch.no_grad()
def alone(model, context, continuation):
    """The definition: log p of the continuation in a text of its own, and whether each token was the likeliest."""
    ids = torch.tensor([context + continuation])
    logits = model.logits(model(ids, Segments.whole(ids)).states)[0, len(context) - 1 : -1].double()
    target = torch.tensor(continuation)
    logprob = logits.log_softmax(-1).gather(1, target[:, None]).sum().item()
    return logprob, bool((logits.argmax(-1) == target).all())


def check(model, trees, **options):
    for tree, scores in zip(trees, log_likelihoods(model, trees, **options), strict=True):
        for continuation, score in zip(tree.continuations, scores, strict=True):
            logprob, greedy = alone(model, tree.context, continuation)
            assert score.logprob == pytest.approx(logprob, abs=1e-3)
            assert score.greedy == greedy


TREES = [
    Tree([5, 6, 7], [[8, 9], [8, 9, 10], [11]]),  # one choice is the beginning of another
    Tree([40], [[41], [42], [43]]),  # nothing to read beyond the prompt
    Tree(list(range(50, 70)), [[7, 8, 9, 10], [7, 8, 9, 11], [7, 9]]),  # a shared beginning joins the trunk
    Tree([3, 4], [[5, 5, 5, 5, 5]]),
    Tree([3, 4], [[90, 91], [90, 91]]),  # equal choices
]


def test_equals_separate_texts(model):
    check(model, TREES)


def test_batching_changes_nothing(model):
    check(model, TREES, batch_tokens=1)


ids = st.integers(0, 99)
texts = st.lists(ids, min_size=1, max_size=5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.builds(Tree, texts, st.lists(texts, min_size=1, max_size=4)), min_size=1, max_size=4))
def test_equals_separate_texts_whatever_the_tree(trees):
    check(DENSE, trees)


DENSE = build(SHAPE)


def test_the_greedy_continuation_is_recognised():
    context = [5, 6, 7]
    best = []
    for _ in range(3):
        ids = torch.tensor([context + best])
        with torch.no_grad():
            best.append(int(DENSE.logits(DENSE(ids, Segments.whole(ids)).states)[0, -1].argmax()))
    ((first, second),) = log_likelihoods(DENSE, [Tree(context, [best, [best[0] ^ 1, *best[1:]]])])
    assert first.greedy
    assert not second.greedy


def test_too_long_is_cut_at_the_left():
    """At most 64 tokens are read: the last of context + continuation but for the final one, as lm-eval does."""
    context, short, long = list(range(100, 160)), [1, 2], [3, 4, 5, 6, 7, 8, 9, 10]
    ((first, second),) = log_likelihoods(DENSE, [Tree(context, [short, long])])
    assert first.logprob == pytest.approx(alone(DENSE, context, short)[0], abs=1e-3)
    assert second.logprob == pytest.approx(alone(DENSE, context[-57:], long)[0], abs=1e-3)
    with pytest.raises(UserError, match=r"question 1 has a choice of 65 tokens.*context is 64"):
        log_likelihoods(DENSE, [Tree([1], [list(range(65))])])


def test_a_choice_owns_the_space_before_it(tokenizer):
    tree = plant(Question("Question: Why?\nAnswer:", ["so", "因为"], 0), tokenizer)
    assert tree.context == tokenizer.encode("Question: Why?\nAnswer:")
    assert [tokenizer.decode(ids) for ids in tree.continuations] == [" so", " 因为"]
    spaced = plant(Question("The sky is \n", ["blue"], 0), tokenizer)
    assert spaced.context == tokenizer.encode("The sky is")
    assert tokenizer.decode(spaced.continuations[0]) == " \n blue"


def test_only_an_empty_prompt_begins_with_bos(tokenizer):
    assert plant(Question("Hi", ["a", "b"], 0), tokenizer).context == tokenizer.encode("Hi")
    assert plant(Question("", ["a", "b"], 0), tokenizer) == Tree(
        [tokenizer.bos_id], [tokenizer.encode(" a"), tokenizer.encode(" b")]
    )


def test_counts():
    questions = [
        Question("a", ["x", "a much longer choice"], 1),
        Question("b", ["因", "ab"], 0),  # 3 bytes against 2
        Question("c", ["1", "2", "3", "4"], 2),
    ]
    figures = accuracy(questions, [[-5.0, -20.0], [-3.0, -2.1], [-1.0, -1.0, -2.0, -3.0]])
    assert figures["acc"] == pytest.approx(0)
    assert figures["acc_norm"] == pytest.approx(2 / 3)
    assert figures["n"] == 3
    assert figures["random"] == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)
    half = accuracy(questions[:2], [[-2.0, -1.0], [-3.0, -2.0]])
    assert half["stderr"] == pytest.approx(math.sqrt(0.25 / 1))  # the sample's variance: lm-eval's
    assert accuracy(questions[:1], [[-5.0, -20.0]])["stderr"] is None


def test_a_model_that_knows_the_answer_is_right(tokenizer):
    """Trained on the right sentences for a moment, it scores 1."""
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    asked = [Question(f"The number after {a} is", [str(b) for b in range(2, 6)], a - 1) for a in range(1, 5)]
    rows = [tokenizer.encode(f"{q.prompt} {q.choices[q.answer]}") for q in asked]
    ids = torch.tensor(rows)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        logits = model.logits(model(ids[:, :-1], Segments.whole(ids[:, :-1])).states[:, -1])
        loss = torch.nn.functional.cross_entropy(logits, ids[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.train()
    assert evaluate(model, tokenizer, {"sums": asked})["sums"]["acc"] == 1
    assert model.training, "the model is left as it was"


def test_only_much_work_is_compiled_for(tokenizer, monkeypatch):
    compiled = []
    monkeypatch.setattr(Transformer, "compile_blocks", lambda self, **options: compiled.append(options))
    monkeypatch.setattr(choice, "can_compile", lambda kind: True)
    model, asked = Transformer(SHAPE), {"one": [Question("a", ["b", "c"], 0)]}
    evaluate(model, tokenizer, asked)
    assert not compiled
    monkeypatch.setattr(choice, "COMPILE_FROM", 3 * model.config.parameters())  # context and two choices: 3 tokens
    evaluate(model, tokenizer, asked)
    assert compiled == [{"dynamic": True}]
