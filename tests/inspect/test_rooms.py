"""What the page is answered, over a run with two checkpoints of random models."""

import base64
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from minimind.config import PRESETS
from minimind.errors import UserError
from minimind.inspect import history, shelf
from minimind.inspect.facts import aligned, causal_trace
from minimind.inspect.glass import LookingGlass
from minimind.inspect.shelf import Shelf
from minimind.inspect.trace import trace, without
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 64, "norm_topk_prob": False}
CHAT = {"messages": [{"role": "user", "content": "Where does Alice live? 住在哪里"}], "begins": "Alice"}


def save(folder, seed, **more):
    torch.manual_seed(seed)
    tokenizer = Tokenizer.load("default")
    sizes = {"vocab_size": tokenizer.vocab_size, "num_hidden_layers": 2, **more}
    model = Transformer(PRESETS["tiny"].with_(**sizes)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight *= 5
    save_model(model, folder, "float32")
    tokenizer.save(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the runs `pretrain` (two checkpoints and a result) and `moe`."""
    folder = tmp_path_factory.mktemp("runs")
    run = folder / "pretrain"
    for step in (10, 20, 30):
        place = run / "checkpoints" / f"step-{step:08d}"
        save(place, step)
        (place / "complete").write_text("{}")
    save(run / "model", 30)
    save(folder / "moe" / "model", 1, **EXPERTS)
    lines = [{"step": step, "loss": 5.0 - step / 10} for step in range(1, 31)] + [{"step": 30, "valid_bpb": 1.5}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def glass(runs):
    return LookingGlass(runs / "pretrain", "cpu")


def test_a_run_is_its_checkpoints_and_its_result(runs):
    names = [("step-00000010", 10), ("step-00000020", 20)]
    run = Shelf(runs / "pretrain", "cpu")
    assert [(place.name, place.step) for place in run.models] == [*names, ("model", 30)]  # step 30 is the model
    assert [place.name for place in run.others] == ["moe"]
    model = Shelf(runs / "pretrain" / "model", "cpu")
    assert [place.folder for place in model.models] == [place.folder for place in run.models]
    earlier = Shelf(runs / "pretrain" / "checkpoints" / "step-00000020", "cpu")
    assert [(place.name, place.step) for place in earlier.models] == names
    everything = Shelf(runs, "cpu")
    assert {place.name for place in everything.models} == {
        "moe/model",
        "pretrain/model",
        *(f"pretrain/{name}" for name, _ in names),
    }
    with pytest.raises(UserError, match="not a model directory"):
        Shelf(runs / "pretrain" / "checkpoints", "cpu")


@pytest.mark.parametrize("inside", ["pretrain", "pretrain/model", "moe/model", "."])
def test_a_path_may_be_relative(runs, monkeypatch, inside):
    whole = Shelf(runs / inside, "cpu")
    monkeypatch.chdir(runs / inside)
    here = Shelf(".", "cpu")
    assert (here.name, here.models, here.others, here.runs) == (whole.name, whole.models, whole.others, whole.runs)


def test_what_lies_beside_need_not_be_ours_to_read(runs, monkeypatch):
    known = shelf._models_of

    def models_of(run):
        if run.name == "moe":
            raise PermissionError(run)
        return known(run)

    monkeypatch.setattr(shelf, "_models_of", models_of)
    assert Shelf(runs / "pretrain", "cpu").others == []
    assert {place.stage for place in Shelf(runs, "cpu").models} == {"pretrain"}


def test_what_there_is(glass):
    found = glass.answer("model", {})
    assert found["name"] == "pretrain"
    assert [one["step"] for one in found["checkpoints"]] == [10, 20, 30]
    assert all((Path(__file__).parents[2] / page).is_file() for page in found["docs"].values())
    for room, place in found["code"].items():
        code = glass.answer("code", {"room": room})
        assert place["label"] == f"{code['file']}:{code['line']}"
        assert "def " in code["source"]
    for language in ("en", "zh"):
        for example in found["examples"][language]:
            assert glass.answer("tokens", example["prompt"])["count"] > 3
        for pair in found["facts"][language]:
            clean, corrupt = (glass.answer("tokens", pair[name])["tokens"] for name in ("clean", "corrupt"))
            assert len(clean) == len(corrupt)
            assert clean != corrupt


def test_each_model_is_described_as_it_is(runs):
    found = LookingGlass(runs, "cpu").answer("model", {})["checkpoints"]
    assert {(one["name"], one["layers"], one["heads"], one["experts"]) for one in found} == {
        ("moe/model", 2, 4, 4),
        ("pretrain/model", 2, 4, 0),
        ("pretrain/step-00000010", 2, 4, 0),
        ("pretrain/step-00000020", 2, 4, 0),
    }
    assert len({one["parameters"] for one in found}) == 2


def test_a_model_of_another_vocabulary_is_refused(tmp_path):
    save(tmp_path / "other" / "model", 1, vocab_size=1000)
    save(tmp_path / "sft" / "model", 1)
    both = LookingGlass(tmp_path, "cpu")
    assert both.answer("model", {})["checkpoints"][-1]["name"] == "sft/model"
    rooms = {"history": {}, "learned": {}, "pair": {"other": "other/model"}, "lens": {"checkpoint": "other/model"}}
    for room, asked in rooms.items():
        with pytest.raises(UserError, match=r"^other/model has another vocabulary than sft/model"):
            both.answer(room, {**CHAT, **asked})
    both.answer("lens", CHAT)
    with pytest.raises(UserError, match=r"^other has another vocabulary than model"):
        LookingGlass(tmp_path / "sft", "cpu").answer("pair", {**CHAT, "other": "other"})


def test_tokens_and_what_is_trained_on(glass):
    tokenizer = Tokenizer.load("default")
    messages = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "Hello!"}]
    ids, mask = render(messages, tokenizer)
    found = glass.answer("tokens", {"messages": messages})
    assert [one["id"] for one in found["tokens"]] == ids
    assert [one["supervised"] for one in found["tokens"]] == mask
    assert [one["text"] for one in found["tokens"] if one["control"]].count("<|im_end|>") == 2
    text = glass.answer("tokens", {"text": "你好 hello"})
    assert text["tokens"][0]["control"]
    assert text["tokens"][1]["supervised"] is None
    assert text["bytes_per_token"]["zh"] > 0
    assert text["bytes_per_token"]["other"] > 0


def test_merge_by_merge(glass):
    tokenizer = Tokenizer.load("default")
    for word in (" because", "我们", "!"):
        (id,) = tokenizer.encode(word)
        steps = glass.answer("merges", {"id": id})["steps"]
        assert steps[0]["pieces"] == [word] if word == "!" else len(steps[0]["pieces"]) == len(word.encode())
        assert steps[-1]["pieces"] == [word]
        assert all(len(b["pieces"]) == len(a["pieces"]) - 1 for a, b in itertools.pairwise(steps))
    assert glass.answer("merges", {"id": tokenizer.eos_id})["steps"] == []  # a control token


def test_the_lens_and_a_token(glass):
    found = glass.answer("lens", {**CHAT, "k": 3})
    model = glass.shelf.model(glass.shelf.place(None))
    logits = trace(model, found["ids"]).logits_per_layer
    best = logits.softmax(-1).topk(3)
    assert [[[id for id, _ in cell] for cell in layer] for layer in found["cells"]] == best.indices.tolist()
    shown = torch.tensor([[[p for _, p in cell] for cell in layer] for layer in found["cells"]])
    torch.testing.assert_close(shown, best.values, rtol=1e-3, atol=1e-6)
    assert [one["id"] for one in found["next"][:-1]] == found["ids"][1:]
    assert found["next"][-1]["rank"] == 0
    token = glass.answer("token", {**CHAT, "position": 3, "token": 77})
    parts = token["embedding"] + sum(block["attention"] + block["mlp"] for block in token["blocks"])
    assert parts == pytest.approx(float(logits[-1, 3, 77]), abs=0.02)
    assert len(token["layers"]) == 3
    assert len(token["blocks"][0]["heads"]) == 4


def test_attention_as_bytes(glass):
    found = glass.answer("attention", CHAT)
    length = len(found["tokens"])
    for layer, text in enumerate(found["patterns"]):
        pattern = np.frombuffer(base64.b64decode(text), np.uint8).reshape(4, length, length) / 255
        own = trace(glass.shelf.model(glass.shelf.place(None)), glass.answer("lens", CHAT)["ids"]).attention[layer]
        assert np.abs(pattern - own.numpy()).max() < 0.003


def test_heads_and_what_happens_without(glass):
    scores = glass.answer("heads", {"checkpoint": "step-00000010"})
    assert np.shape(scores["induction"]) == (2, 4)
    found = glass.answer("without", {**CHAT, "off": [{"layer": 0, "head": 1}, {"layer": 1, "mlp": True}]})
    model, ids = glass.shelf.model(glass.shelf.place(None)), glass.answer("lens", CHAT)["ids"]
    with without(model, head=(0, 1)), without(model, mlp=1):
        after = trace(model, ids).logits_per_layer[-1, -1].softmax(-1).topk(8)
    assert [one["id"] for one in found["after"]] == after.indices.tolist()
    assert found["kl"] > 0
    assert len(found["kl_tokens"]) == len(ids)
    lens = glass.answer("lens", {**CHAT, "off": [{"layer": 0}]})
    assert lens["cells"][-1] != glass.answer("lens", CHAT)["cells"][-1]
    with pytest.raises(UserError, match="off: layer is None"):
        glass.answer("lens", {**CHAT, "off": [3]})


def test_experts(runs, glass):
    moe = LookingGlass(runs / "moe" / "model", "cpu")
    found = moe.answer("experts", CHAT)
    for layer in found["layers"]:
        assert [row.index(max(row)) for row in layer["probabilities"]] == [first for (first,) in layer["chosen"]]
        assert sum(layer["load"]) == pytest.approx(1, abs=1e-3)
        assert all({"text", "count"} == set(word) for words in layer["words"] for word in words)
    with pytest.raises(UserError, match="has no experts"):
        glass.answer("experts", CHAT)


def test_positions_of_two_questions_belong_together():
    assert aligned([1, 2, 3, 9], [1, 2, 4, 9]) == ([0, 1, 2, 3], 2)
    assert aligned([1, 5, 6, 7, 9], [1, 8, 9]) == ([0, 3, 4], 1)  # the last token of the longer name
    assert aligned([1, 8, 9], [1, 5, 6, 7, 9]) == ([0, None, None, 1, 2], 1)


def test_causal_tracing_restores_the_answer(glass):
    model = glass.shelf.model(glass.shelf.place(None))
    clean, corrupt = [1, 300, 17, 50, 60], [1, 300, 18, 50, 60]
    found = causal_trace(model, clean, corrupt)
    own = [trace(model, ids).logits_per_layer[-1, -1].softmax(-1) for ids in (clean, corrupt)]
    assert found.answer == int(own[0].argmax())
    assert found.other == int(own[1].argmax())
    assert found.clean == pytest.approx(float(own[0][found.answer]), rel=1e-4)
    assert found.corrupt == pytest.approx(float(own[1][found.answer]), rel=1e-4)
    assert float(found.restored[0, 2]) == pytest.approx(found.clean, rel=1e-3)  # the one token that differs, put back
    assert float(found.restored[-1, -1]) == pytest.approx(found.clean, rel=1e-3)  # the state that is read
    torch.testing.assert_close(found.restored[:, :2], torch.full((3, 2), found.corrupt))  # the same in both
    torch.testing.assert_close(found.restored[-1, 2:4], torch.full((2,), found.corrupt))  # too late to matter
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == 0
    answered = glass.answer("facts", {"clean": {"text": "Alice lives in"}, "corrupt": {"text": "Bob Brown lives in"}})
    assert np.shape(answered["restored"]) == (3, len(answered["tokens"]))
    assert (None in answered["from"]) == any(None in layer for layer in answered["restored"])
    for clean in ("Alice", "Alice lives in", "Alice lives in Paris"):
        with pytest.raises(UserError, match="both questions are the same, or one is the beginning of the other"):
            glass.answer("facts", {"clean": {"text": clean}, "corrupt": {"text": "Alice lives in"}})


def test_who_waited_for_whom(tmp_path):
    lines = [{"step": n, "loss": 1.0, "trainer_wait_seconds": 0.5 * n, "engine_wait_seconds": 2.0} for n in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = history.curve(tmp_path)
    assert (found["trainer_wait"], found["engine_wait"]) == ([[1, 0.5], [2, 1.0]], [[1, 2.0], [2, 2.0]])


def test_over_time(glass):
    found = glass.answer("history", CHAT)
    ids = glass.answer("lens", CHAT)["ids"]
    assert found["steps"] == [10, 20, 30]
    for name, losses in zip(found["checkpoints"], found["losses"], strict=True):
        logits = trace(glass.shelf.model(glass.shelf.place(name)), ids).logits_per_layer[-1]
        own = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
        torch.testing.assert_close(torch.tensor(losses), own, rtol=1e-3, atol=1e-3)
    (curve,) = glass.answer("curve", {})["runs"]
    assert len(curve["loss"]) == 30
    assert curve["valid"] == [[30, 1.5]]
    assert curve["trainer_wait"] == curve["engine_wait"] == []
    learned = glass.answer("learned", {})
    assert len(learned["facts"]) == 24
    assert not any(any(fact["right"]) for fact in learned["facts"])


def test_what_each_checkpoint_knows_without_a_part(glass, monkeypatch):
    """`off` is heard by every room that asks a model."""
    seen = []
    monkeypatch.setattr(
        history, "knows", lambda model, tokenizer, told: seen.append(hooks(model)) or [True] * len(told)
    )
    glass.answer("learned", {"off": [{"layer": 1, "mlp": True}]})
    assert seen == [1, 1, 1]


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_side_by_side(glass):
    found = glass.answer("pair", {**CHAT, "other": "step-00000010"})
    assert found["first"] == "model"
    assert min(found["kl"]) > 0
    assert found["kl"] == found["kl_layers"][-1]
    same = glass.answer("pair", {**CHAT, "other": "model"})
    assert max(same["kl"]) < 1e-4
    assert same["first_top"] == same["second_top"]


def test_mistakes_are_one_sentence(glass):
    for room, asked, said in (
        ("lens", {}, "nothing to look at"),
        ("lens", {"text": 3}, "text is 3, but should be a string"),
        ("lens", {"text": "x", "checkpoint": "nowhere"}, "no checkpoint or model 'nowhere'"),
        ("lens", {"messages": ["hello"]}, "a list of messages"),
        ("lens", {"text": "word " * 3000}, "up to 512"),
        ("token", {"text": "x"}, "token is None"),
        ("token", {"text": "x", "token": 10**6}, "token is 1000000"),
        ("without", {"text": "x"}, "nothing is switched off"),
        ("rollout", {"rollout": 0}, "--set.rl.dump"),
        ("cellar", {}, "no room 'cellar'"),
    ):
        with pytest.raises(UserError, match=said):
            glass.answer(room, asked)
    assert glass.answer("practice", {})["rollouts"] == []
    assert not any(math.isnan(p) for _, p in glass.answer("lens", CHAT)["cells"][0][0])
