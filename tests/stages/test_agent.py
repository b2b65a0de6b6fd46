"""`train agent`: a toy that calls tools learns from whole episodes, and can be killed at any instant."""

import json

import pytest
import torch
from processes import CONTEXT, KILL, die_at
from test_stages import figures, weights

from minimind import tools
from minimind.config import PRESETS
from minimind.losses.lm import linear_cross_entropy
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

SCHEMAS = tools.schemas(["text_length"])
TURNS = [
    {"role": "user", "content": "How long is it?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"name": "text_length", "arguments": {"text": "abc"}}],
    },
    {"role": "tool", "content": tools.call("text_length", {"text": "abc"})},
    {"role": "assistant", "content": "It has 3."},
]
FLAGS = [
    *("--device", "cpu", "--set.train.compile", "never", "--set.train.log_every", "1", "--set.train.dtype", "float32"),
    *("--set.data.sequence_length", "512", "--set.train.tokens_per_step", "512"),
    *("--set.train.micro_batch_tokens", "1024", "--set.rl.groups", "2", "--set.rl.samples", "4"),
    *("--set.rl.max_new_tokens", "120", "--set.rl.epochs", "2", "--set.train.valid_every", "0"),
    *(
        "--set.scoring.weights",
        "{ legality = 1.0, outcome = 0.5 }",
        "--set.train.sample_every",
        "0",
        "--set.optim.lr",
        "1e-3",
        "--set.rl.filter_metric",
        "legality",
    ),
]


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """A toy that knows one dialogue nearly by heart: at temperature 1 it calls the tool, and sometimes errs."""
    folder, tokenizer = tmp_path_factory.mktemp("caller") / "model", Tokenizer.load("default")
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 32}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024}
    model = Transformer(PRESETS["tiny"].with_(vocab_size=tokenizer.vocab_size, **shape))
    ids, mask = render(TURNS, tokenizer, SCHEMAS)
    ids_BT = torch.tensor([ids])
    labels_BT = torch.tensor(
        [[id if learned else -100 for id, learned in zip(ids[1:], mask[1:], strict=True)] + [-100]]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(90):
        states = model(ids_BT, Segments.whole(ids_BT)).states
        loss = linear_cross_entropy(states, model.output_weight, labels_BT) / sum(mask)
        if loss.item() < 0.025:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(model, folder, dtype="float32")
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "agent.jsonl"
    system = {"role": "system", "content": "", "tools": json.dumps(SCHEMAS)}
    row = {"conversations": [system, TURNS[0], {"role": "assistant", "content": ""}], "gt": ["3"]}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return file


def train(flags, out, moment=0, acts=None):
    from minimind import runtime
    from minimind.cli import main
    from minimind.engine import decode

    runtime.peak_flops = lambda *_: 1e11
    decode.make = lambda *_: None  # not worth compiling for so little
    seen = die_at(moment, [out])
    assert main([*map(str, flags), "--out", str(out)]) == 0
    if acts is not None:
        acts.put(len(seen))


def in_process(*args):
    process = CONTEXT.Process(target=train, args=args)
    process.start()
    process.join()
    return process.exitcode


def test_killed_between_two_acts_and_repeated_from_what_was_kept(caller, rows, tmp_path):
    flags = [
        "train",
        "agent",
        "tiny",
        "--data",
        rows,
        "--init",
        caller,
        "--max-steps",
        "5",
        "--save-every",
        "1",
        *FLAGS,
    ]
    acts = CONTEXT.SimpleQueue()
    dumping = [*flags, "--set.rl.dump", tmp_path / "rollouts"]
    assert in_process(dumping, tmp_path / "straight", 0, acts) == 0
    total = acts.get()
    lines = figures(tmp_path / "straight")
    assert lines[-1]["step"] == 5
    assert any(line.get("reward_outcome", 0) > 0 for line in lines), "it calls the tool"
    assert any(line.get("tool_errors", 1) < 1 for line in lines)
    died = [in_process(flags, tmp_path / "run", moment) for moment in (total // 4, total // 3)]
    assert died == [-KILL, -KILL]
    assert in_process(flags, tmp_path / "run") == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")
    timed = {"rollout_tokens_per_second"}

    def kept(run):
        return [{name: value for name, value in line.items() if name not in timed} for line in figures(run)]

    assert kept(tmp_path / "run") == kept(tmp_path / "straight")
    assert in_process([*flags, "--replay", tmp_path / "rollouts"], tmp_path / "again") == 0
    assert weights(tmp_path / "again") == weights(tmp_path / "straight")
    assert kept(tmp_path / "again") == kept(tmp_path / "straight")


ENVIRONMENT = """
import numpy

class Deal:
    def reset(self, *, seed=None, options=None):
        numpy.random.seed(seed)
        return f"deal {seed}", {}

    def step(self, action):
        return "", float(len(action)), True, False, {}
"""


def test_the_episodes_of_a_group_begin_alike(minimind, caller, rows, tmp_path):
    (tmp_path / "deal.py").write_text(ENVIRONMENT, encoding="utf-8")
    more = ["--set.agent.environment", f"{tmp_path / 'deal.py'}:Deal", "--set.scoring.weights", "{ returned = 1.0 }"]
    more += ["--set.rl.filter_metric", "returned", "--set.rl.filter_groups", "keep", "--max-steps", "1"]
    flags = ["train", "agent", "tiny", "--data", rows, "--init", caller, *FLAGS, *more, "--out", tmp_path / "run"]
    ended = minimind(*flags, "--set.rl.dump", tmp_path / "kept")
    assert ended.code == 0, ended.err
    begun = {}
    for line in (tmp_path / "kept" / "rollout-000000.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        begun.setdefault(row["group"], set()).add(tuple(row["prompt_ids"]))
        assert row["reward"] == row["return"]
    assert [len(one) for one in begun.values()] == [1, 1]
    assert len(set.union(*begun.values())) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--set.agent.max_turns", "0"], "agent.max_turns"),
        (["--set.agent.tools", '["nowhere.py"]'], "nowhere.py: there is no such file"),
        (["--set.rl.samples", "1"], "rl.samples"),
        (["--set.scoring.weights", "{ outcom = 1.0 }"], "did you mean 'outcome'"),
    ],
)
def test_mistakes_are_one_sentence(minimind, caller, rows, tmp_path, changes, words):
    flags = ["train", "agent", "tiny", "--data", rows, "--init", caller, *FLAGS, "--out", tmp_path / "run"]
    ended = minimind(*flags, *changes)
    assert ended.code in (1, 2)
    assert words in ended.err
    assert "Traceback" not in ended.err
