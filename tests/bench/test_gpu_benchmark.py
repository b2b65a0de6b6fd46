"""`python -m benchmarks.gpu`, rehearsed on a CPU: every part to its last line, and what a part that fails costs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MISSING = ("tyro", "fastapi", "uvicorn", "llguidance")
"""Packages of the command line and the server, which a machine with a GPU may lack."""


@pytest.fixture(autouse=True)
def _can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("MINIMIND_COMPILE", "0")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An environment in which some packages cannot be imported."""
    for name in MISSING:
        (tmp_path / "bare" / name).mkdir(parents=True)
        (tmp_path / "bare" / name / "__init__.py").write_text("raise ImportError('it is not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "bare"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The rows of each part but the tests, with models that are smaller still."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        patch.setenv("MINIMIND_COMPILE", "0")
        from benchmarks.gpu import generation, part, training
        from benchmarks.gpu.work import Work
        from minimind.config import PRESETS

        less = {"hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 64, "num_hidden_layers": 1}
        for preset in ("tiny", "tiny-moe"):
            patch.setitem(PRESETS, preset, PRESETS[preset].with_(**less))
        for module in (generation, training):
            patch.setattr(module, "LEAST_SECONDS", -1e9)
        out = tmp_path_factory.mktemp("gpu")
        for name in part.PARTS:
            if name != "correctness":
                part.main(name, Work(str(out), "cpu", quick=True, seconds=60))
        rows = {
            name: [json.loads(line) for line in (out / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
            for name in part.PARTS
            if name != "correctness"
        }
        return out, rows


def test_every_part_comes_to_its_end(results):
    out, rows = results
    for name, found in rows.items():
        assert found, name
        assert {row["error"] for row in found if "error" in row} <= {"needs CUDA"}, (name, found)
    assert {row["how"] for row in rows["training"] if "error" in row} == {"whole model compiled", "tuned products"}
    assert all(row["tokens_per_second"] > 0 for row in rows["training"] if "error" not in row)
    assert {row["stage"] for row in rows["training"]} == {"pretrain", "sft"}
    assert [row["engine"] for row in rows["rollouts"]] == ["minimind", "transformers"]
    assert {(row["preset"], row["batch"]) for row in rows["generation"]} == {("tiny", 1), ("tiny", 4), ("tiny-moe", 1)}
    assert sum(row["share"] for row in rows["where"] if row["kernel"] not in ("all", "idle")) <= 1.001
    figures = {row["figure"]: row["value"] for row in rows["pretraining"]}
    assert figures["steps_done"] == figures["steps"]
    assert "valid_bpb" in figures
    curve = [json.loads(line) for line in (out / "loss.jsonl").read_text(encoding="utf-8").splitlines()]
    assert curve[-1]["loss"] == figures["last_loss"]
    assert "<polyline" in (out / "loss.svg").read_text(encoding="utf-8")


def test_transformers_is_given_the_same_rows(results):
    """Its loss over packed rows is ours: a mask for documents, positions that begin anew, shifted labels."""
    import torch

    from benchmarks.gpu.rival import Transformers
    from benchmarks.gpu.work import Work
    from minimind.bench.reference import as_ours
    from minimind.config import PRESETS
    from minimind.data.packing import PackedStream
    from minimind.losses.lm import linear_cross_entropy

    out, _ = results
    work = Work(str(out), "cpu", quick=True)
    recipe = work.recipe("tiny")
    config = PRESETS["tiny"].with_(vocab_size=work.tokenizer.vocab_size, num_hidden_layers=1, tie_word_embeddings=True)
    stream = PackedStream(work.shards(recipe), 64)
    theirs = Transformers(config, stream, 4, 2, work)
    batch = stream.next_batch(4)
    with torch.no_grad():
        loss = theirs.loss(*batch)
        ours = as_ours(theirs.model, config)
        states = ours(batch.input_ids, batch.segments).states
        right = linear_cross_entropy(states, ours.output_weight, batch.labels)
    assert (batch.document_ids > 0).any(), "some rows hold several documents"
    assert float(loss) == pytest.approx(float(right), rel=1e-4)


def test_a_part_that_fails_costs_no_other(tmp_path, bare, capfd):
    from benchmarks.gpu.__main__ import main

    asked = ["--out", str(tmp_path / "out"), "--device", "cpu", "--quick", "--data", str(tmp_path / "none.jsonl")]
    assert main([*asked, "--only", "machine", "pretraining"]) == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["parts"]["machine"]["ok"]
    broken = report["parts"]["pretraining"]
    assert not broken["ok"]
    assert "none.jsonl" in broken["error"]
    assert "Traceback" in (tmp_path / "out" / "pretraining.log").read_text(encoding="utf-8")
    assert "goals for one H100" in capfd.readouterr().out
    assert "pretraining: " in (tmp_path / "out" / "report.txt").read_text(encoding="utf-8")


def test_a_part_that_takes_too_long_is_stopped_and_keeps_what_it_had(tmp_path):
    from benchmarks.gpu.__main__ import run
    from benchmarks.gpu.report import read_rows
    from benchmarks.gpu.work import Work

    work = Work(str(tmp_path), "cpu", quick=True, seconds=0.5)
    assert run("machine", work) == "stopped after 0 s"
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a"', encoding="utf-8")
    assert read_rows(tmp_path / "x.jsonl") == [{"a": 1}, {"a": 2}]


TESTS = """
import pytest

pytestmark = pytest.mark.gpu


def test_right():
    pass


def test_wrong():
    assert 1 == 2, "numbers differ"


@pytest.mark.skip(reason="needs CUDA")
def test_not_here():
    pass
"""


def test_tests_are_rows(tmp_path):
    from benchmarks.gpu.__main__ import run
    from benchmarks.gpu.report import read_rows
    from benchmarks.gpu.work import Work

    file = tmp_path / "test_three.py"
    file.write_text(TESTS, encoding="utf-8")
    error = run("correctness", Work(str(tmp_path), "cpu", quick=True, tests=str(file), seconds=120))
    assert error == "AssertionError: a test failed"
    rows = {
        row["test"].partition("::")[2]: (row["outcome"], row["reason"])
        for row in read_rows(tmp_path / "correctness.jsonl")
    }
    assert rows["test_right"] == ("passed", "")
    assert rows["test_not_here"] == ("skipped", "needs CUDA")
    assert rows["test_wrong"][0] == "failed"
    assert "numbers differ" in rows["test_wrong"][1]


def test_goals_and_the_length_of_the_way():
    from benchmarks.gpu.goals import BYTES_PER_TOKEN, goals, path_minutes
    from benchmarks.gpu.sizes import FULL

    dense = {"preset": "minimind-3", "stage": "pretrain", "tokens_per_second": 1e6, "mfu_of_data_sheet": 0.46}
    training = [{**dense, "error": "out of memory"}, {**dense, "memory_over_plan": 1.2}]
    training += [{**dense, "preset": "minimind-3-moe", "tokens_per_second": 8e5}, {**dense, "stage": "sft"}]
    found = {"training": training, "correctness": [{"outcome": "passed"}, {"outcome": "failed"}]}
    met = {row["goal"]: row["met"] for row in goals(found, FULL)}
    assert met["tests failed"] is False
    assert met["MFU of the data sheet"] is True
    assert met["tokens/s, training"] is False
    assert met["MoE step over dense"] is True
    assert met["memory over plan"] is False
    assert met["tokens/s, 64 answers"] is None, "not measured"
    *_, both = path_minutes(found, FULL)
    assert both["minutes"] == pytest.approx(2.8e9 / BYTES_PER_TOKEN / 1e6 / 60)
    assert path_minutes({}, FULL)[-1]["minutes"] is None


def test_bytes_of_a_decoding_step():
    from benchmarks.gpu.generation import step_bytes
    from minimind.config import PRESETS

    dense, moe = PRESETS["minimind-3"], PRESETS["minimind-3-moe"]
    cache = 2 * 8 * 4 * 96 * 100
    assert step_bytes(dense, 1, 100, 2) == 2 * (dense.parameters() + cache)
    assert step_bytes(moe, 1, 0, 2) == 2 * moe.parameters(active=True)
    assert step_bytes(moe, 64, 0, 2) == 2 * moe.parameters()
    assert replace(moe, num_experts_per_tok=2).parameters(active=True) * 2 == step_bytes(moe, 2, 0, 2)
