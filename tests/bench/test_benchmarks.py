"""The scripts in benchmarks/: their arithmetic, and each once from end to end on next to nothing."""

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("MINIMIND_COMPILE", "0")


def last_json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_where_our_curve_crosses_the_references():
    from bpb_against_reference import compare, crossing

    assert crossing([(0.25, 3.0), (1.0, 1.0)], 2.0) == pytest.approx(0.5), "half-way in log(share)"
    assert crossing([(0.25, 2.0), (1.0, 1.0)], 2.5) == 0.25
    assert crossing([(0.25, 3.0), (1.0, 2.5)], 2.0) is None

    def run(tokens, seconds, bpb):
        return {"tokens": tokens, "seconds": seconds, "bpb": bpb}

    found = compare([run(100, 1000, 1.9), run(100, 1000, 2.1)], {0.25: [run(25, 50, 3.0)], 1.0: [run(100, 200, 1.0)]})
    assert found["token_share"] == pytest.approx(0.5)
    assert found["time_share"] == pytest.approx(0.1)
    assert found["reference"]["spread"] == pytest.approx(0.2)


def test_the_sweep_goes_on_beyond_its_ends():
    from bpb_against_reference import best, best_rate

    tried = []

    def run(rate):
        tried.append(rate)
        return {"bpb": abs(rate - 8.0)}

    assert best_rate([1.0, 2.0], run) == 8.0
    assert max(tried) == 16.0
    assert best([1, 2, 3], lambda choice: None if choice == 3 else {"bpb": choice}) == 1


def test_runs_are_made_once_and_only_when_time_is_left(tmp_path):
    from training import Log

    made = []

    def make():
        made.append(1)
        return {"tokens": 100, "bpb": 1.0}

    log = Log(tmp_path, budget_minutes=1)
    assert log.run("ours", "a", 100, make)["bpb"] == 1.0
    assert Log(tmp_path, budget_minutes=0).run("ours", "a", 100, make)["bpb"] == 1.0
    assert len(made) == 1
    log.speed["ours"] = 1.0
    assert log.run("ours", "b", 61, make) is None, "61 seconds are more than the minute"
    assert len(made) == 1


def test_bpb_against_reference_from_end_to_end(world, tmp_path, capsys):
    import bpb_against_reference

    settings = {"reference_lrs": (1e-3,), "our_lrs": (3e-3,), "our_steps": (256,), "fractions": (0.5, 1.0)}
    settings |= {"preset": "tiny", "tokens": 4000, "seeds": 1, "points": 2}
    files = (world / "few_pretrain.jsonl", world / "few_pretrain_valid.jsonl", tmp_path)
    bpb_against_reference.main(*files, **settings)
    found = last_json(capsys)
    assert [round(point["share"], 1) for point in found["ours"]] == pytest.approx([0.5, 1.0], abs=0.2)
    assert found["reference"]["bpb"] > 1
    assert (tmp_path / "bpb.svg").read_text(encoding="utf-8").count("polyline") == 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    bpb_against_reference.main(*files, **settings)
    assert last_json(capsys) == found
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}, "nothing ran again"
