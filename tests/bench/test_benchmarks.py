"""The scripts in benchmarks/: their arithmetic, and each once from end to end on next to nothing."""

import json
from math import inf, log
from pathlib import Path

import pytest
import torch

from minimind.errors import UsageError

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
    with log.path.open("a") as file:
        file.write('{"name": "c", "tok')  # cut by a crash
    again = Log(tmp_path, budget_minutes=1)
    again.run("ours", "b", 100, make, arm="x")
    assert [(one["name"], one.get("arm")) for one in again.runs().values()] == [("a", None), ("b", "x")]


def test_bpb_against_reference_from_end_to_end(world, tmp_path, capsys, monkeypatch):
    import bpb_against_reference

    from minimind.config import PRESETS

    smallest = PRESETS["tiny"].with_(hidden_size=32, intermediate_size=64, num_hidden_layers=1)
    monkeypatch.setitem(PRESETS, "tiny", smallest)
    settings = {"reference_lrs": (1e-3,), "our_lrs": (3e-3,), "our_steps": (256,), "fractions": (0.5, 1.0)}
    settings |= {"preset": "tiny", "tokens": 4000, "seeds": 1, "points": 2}
    files = (world / "few_pretrain.jsonl", world / "few_pretrain_valid.jsonl", tmp_path)
    bpb_against_reference.main(*files, **settings)
    found = last_json(capsys)
    assert [round(point["share"], 1) for point in found["ours"]] == pytest.approx([0.5, 1.0], abs=0.2)
    assert found["reference"]["bpb"] > 1
    assert (tmp_path / "bpb.svg").read_text(encoding="utf-8").count("polyline") == 3
    before = (tmp_path / "runs.jsonl").read_bytes()
    bpb_against_reference.main(*files, **settings)
    assert last_json(capsys) == found
    assert (tmp_path / "runs.jsonl").read_bytes() == before, "nothing ran again"


def test_a_difference_is_students():
    from ablation import Difference
    from scipy import stats

    first, other = [1.0, 2.0, 3.0, 2.5], [0.9, 1.8, 2.95, 2.2]
    found, theirs = Difference.of(first, other), stats.ttest_rel(other, first)
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.interval() == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.verdict(0.6, 0.001) == "better"
    assert found.verdict(0.06, 0.9) == "no difference"
    assert found.verdict(0.06, 0.1) == ""
    assert Difference.of(first, first).verdict(0.01, 0.1) == "no difference"
    assert Difference.of(first[:2], first[:2]).verdict(0.01, 0.1) == "", "two pairs are not looked at"
    single = Difference.of([1.0], [0.5])
    assert (single.mean, single.p, single.interval(), single.verdict(0.01, 0.1)) == (-0.5, 1, (-inf, inf), "")
    assert Difference.of([1.0, 1.0], [1.0, inf]).verdict(0.01, 0.1) == "diverged"


def test_what_does_nothing_is_seldom_called_something():
    """However many seeds are added: a thousand studies, looked at after 3 to 20 pairs, of which 1 % are wrong."""
    from ablation import Difference

    torch.manual_seed(0)
    wrong = missed = 0
    for pairs in torch.randn(1000, 2, 20).tolist():
        looks = [(pairs[0][:n], pairs[1][:n]) for n in range(3, 21)]
        wrong += any(Difference.of(*look).verdict(0.01, 0.0) for look in looks)
        shifted = [(one, [value + 1.0 for value in other]) for one, other in looks]  # just as much as would matter
        missed += any(Difference.of(*look).verdict(0.01, 1.0) == "no difference" for look in shifted)
    assert wrong <= 20
    assert missed <= 20


def test_an_ablation_from_end_to_end(world, tmp_path, capsys, monkeypatch):
    import ablation

    from minimind.config import PRESETS

    smallest = PRESETS["tiny"].with_(hidden_size=32, intermediate_size=64, num_hidden_layers=1)
    monkeypatch.setitem(PRESETS, "tiny", smallest)
    arms = ("as it is", "1/2 or the same: train.log_every=7", "no rate: optim.lr=1e-9", "a seed: train.seed=+1000")
    files = (world / "few_pretrain.jsonl", world / "few_pretrain_valid.jsonl")
    settings = {"tokens": 3000, "tokens_per_step": 256, "seeds": 4, "smallest": 1e-6}
    ablation.main(*files, arms, tmp_path, **settings)
    found = {(row["arm"], row["equal"]): row for row in last_json(capsys)["rows"]}
    same, still = found["1/2 or the same", "tokens"], found["no rate", "tokens"]
    assert (same["difference"], same["verdict"], same["pairs"]) == (0, "no difference", 3), "three pairs say it"
    assert still["verdict"] == "worse"
    assert still["difference"] > 0.05
    assert found["a seed", "tokens"]["p"] > 0.005
    assert found["a seed", "tokens"]["pairs"] == 4
    assert (tmp_path / "ablation.svg").read_text(encoding="utf-8").count("<circle") == len(found)
    before = (tmp_path / "runs.jsonl").read_bytes()
    ablation.main(*files, (arms[0], arms[3]), tmp_path, **settings)
    again = {(row["arm"], row["equal"]): row for row in last_json(capsys)["rows"]}
    assert again == found, "what was tried before stays in the table"
    assert (tmp_path / "runs.jsonl").read_bytes() == before, "nothing ran again"
    ablation.main(files[0], files[0], arms[:2], tmp_path, **settings)
    assert {row["arm"] for row in last_json(capsys)["rows"]} == {"1/2 or the same"}, "other text is another study"
    assert len((tmp_path / "runs.jsonl").read_bytes().splitlines()) >= len(before.splitlines()) + 6
    for wrong, error in ((arms[:1], SystemExit), (("a", "b: optim.lrr=1"), UsageError)):
        with pytest.raises(error, match=r"two arms|lrr"):
            ablation.main(*files, wrong, tmp_path, **settings)


def test_a_slower_arm_is_also_compared_at_equal_time(world, tmp_path, capsys, monkeypatch):
    import ablation

    def train(preset, corpus, tokens, given, name):
        slow = "optim.momentum" in given
        bpb = 3 - tokens / 1e5 - 0.02 * slow + 0.001 * (given["train.seed"] % 7) * (1 + slow)
        return {
            "steps": 11,
            "tokens": tokens,
            "seconds": tokens * (1 + 0.5 * slow),
            "first_step_seconds": 0,
            "bpb": bpb,
        }

    monkeypatch.setattr(ablation, "train_ours", train)
    files = (world / "few_pretrain.jsonl", world / "few_pretrain_valid.jsonl")

    def rows(seeds):
        ablation.main(*files, ("as it is", "slow: optim.momentum=0.8"), tmp_path, tokens=10_000, seeds=seeds)
        return {row["equal"]: row for row in last_json(capsys)["rows"]}

    assert list(rows(2)) == ["tokens"], "two pairs may be chance"
    found = rows(3)
    assert found["tokens"]["difference"] == pytest.approx(-0.019)
    assert found["time"]["difference"] == pytest.approx(-0.019 + 0.05), "half as many tokens more are worth more"
    assert found["time"]["time"] == pytest.approx(1.5)


def test_scaling_law_from_end_to_end(world, tmp_path, capsys, monkeypatch):
    import scaling_law

    monkeypatch.setattr(scaling_law, "SIZES", {"small": (64, 1), "large": (128, 1)})
    files = (world / "few_pretrain.jsonl", world / "few_pretrain_valid.jsonl", tmp_path)
    scaling_law.main(*files, tokens=(512, 2048), tokens_per_step=512)
    assert "law" in last_json(capsys)
    assert (tmp_path / "scaling_law.svg").read_text(encoding="utf-8").count("<polyline") == 2
    assert len((tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()) == 4


def test_where_a_size_overtakes_the_next_smaller_one():
    from scaling_law import cross

    def runs(*points):
        return [{"flops": flops, "bpb": bpb} for flops, bpb in points]

    small, large = runs((1, 3.0), (4, 2.4)), runs((2, 2.8), (4, 2.3), (9, 2.2))
    found = cross({"a": small, "b": large, "c": runs((4, 2.9), (20, 1.0))})
    assert [crossing["flops"] for crossing in found] == [4, None], "at 2, a is at 2.7; beyond 9, nothing is known of b"


def test_the_best_rate_lies_between_those_that_were_tried(world, tmp_path, capsys, monkeypatch):
    import rate_transfer

    curve = {rate: 2 + (log(rate / 3e-3)) ** 2 for rate in (1e-3, 2e-3, 4e-3, 8e-3)}
    assert rate_transfer.best(curve) == pytest.approx(3e-3)
    assert rate_transfer.best({1e-3: 2.0, 2e-3: 1.9, 4e-3: 1.8}) is None, "it may be higher still"

    monkeypatch.setattr(rate_transfer, "SHAPES", {"128 x 1": (128, 1), "128 x 2": (128, 2)})
    files = (world / "few_pretrain.jsonl", world / "few_pretrain_valid.jsonl", tmp_path)
    rate_transfer.main(*files, shapes=("128 x 1", "128 x 2"), rates=(1e-3, 2e-3), tokens=1024, tokens_per_step=512)
    assert "128 x 2" in capsys.readouterr().out
    assert (tmp_path / "rate_transfer.svg").read_text(encoding="utf-8").count("<polyline") == 2
    assert len((tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()) == 4


def test_depths_are_compared_at_equal_parameters():
    from depth_width import equal_shape

    from minimind.config import PRESETS

    for depth in (2, 4, 8, 16):
        fields = {name.removeprefix("model."): value for name, value in equal_shape(depth, 4.4e6).items()}
        config = PRESETS["laptop"].with_(**fields)
        config.check()
        assert config.num_hidden_layers == depth
        assert config.parameters() - config.vocab_size * config.hidden_size == pytest.approx(4.4e6, rel=0.01)


def test_stochastic_rounding_lands_on_a_neighbour_and_keeps_the_mean():
    from weight_formats import stochastic

    weight = torch.tensor([1.0, 1 + 1 / 512, -3.1415927, 1e-3]).repeat(20000, 1)
    rounded = stochastic(weight)
    assert torch.equal(rounded, rounded.bfloat16().float())
    step = (weight.bfloat16().float() * 2**-7).abs()
    assert ((rounded - weight).abs() < step).all()
    assert torch.allclose(rounded.mean(0), weight[0], rtol=2e-4)
    assert torch.equal(rounded[:, 0], weight[:, 0]), "what is representable stays"


def test_weight_formats_from_end_to_end(world, tmp_path, capsys, monkeypatch):
    import weight_formats

    from minimind.config import PRESETS

    smallest = PRESETS["tiny"].with_(hidden_size=32, intermediate_size=64, num_hidden_layers=1)
    monkeypatch.setitem(PRESETS, "tiny", smallest)
    files = (world / "few_pretrain.jsonl", world / "few_pretrain_valid.jsonl", tmp_path)
    weight_formats.main(*files, preset="tiny", tokens=1024, tokens_per_step=512, seeds=1, matrices=("muon",))
    rows = last_json(capsys)["rows"]
    assert [row["weights"] for row in rows] == list(weight_formats.ROUND)
    assert len({row["bpb"] for row in rows}) == 3


def test_scaling_measures_each_point_once_in_a_process_of_its_own(world, tmp_path, capsys, monkeypatch):
    import scaling

    monkeypatch.setattr(scaling, "SIZES", {"1M": (64, 1)})
    flags = {"kinds": ("parameters",), "sizes": ("1M",), "tokens_per_step": 512, "micro_batch_tokens": 512}
    scaling.main(world / "few_pretrain.jsonl", tmp_path, seconds=1, **flags)
    (found,) = last_json(capsys)["parameters"]
    assert found["tokens_per_second"] > 0
    assert found["peak_memory_bytes"] > 1e8
    monkeypatch.setattr(scaling, "bench", None)
    scaling.main(world / "few_pretrain.jsonl", tmp_path, seconds=1, **flags)
    assert last_json(capsys)["parameters"] == [found]


def test_rl_is_asked_sums_that_it_did_not_practise(tuned, tmp_path, monkeypatch):
    import rl_learns

    files = rl_learns.sums(tmp_path)
    practised, asked = (
        {
            "".join(filter(lambda c: c in "0123456789+-", json.loads(line)[key][0]["content"]))
            for line in file.read_text(encoding="utf-8").splitlines()
        }
        for file, key in zip(files, ("conversations", "messages"), strict=True)
    )
    assert len(asked) == 60
    assert not practised & asked
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)[:4]
        file.write_text("".join(lines), encoding="utf-8", newline="\n")
    small = {"rl.groups": 2, "rl.samples": 2, "rl.max_new_tokens": 4, "rl.filter_groups": "keep", "train.device": "cpu"}
    for method in ("cispo", "ppo", "shuffled rewards"):
        stage, changes = rl_learns.METHODS[method]
        monkeypatch.setitem(rl_learns.METHODS, method, (stage, {**changes, **small}))
        found = rl_learns.run(method, 0, str(tuned / "model"), 3, files, tmp_path, "sums")
        assert [step for step, _ in found["curve"]] == [1, 2, 3]
        assert 0 <= found["sampled"] <= 1
        assert 0 <= found["facts_en"] <= 1


def test_rl_with_masked_calls_is_taught_the_answer_alone(tuned, tmp_path, monkeypatch):
    import rl_learns

    from minimind.rl.rollout import Sample, following

    files = rl_learns.tools(tmp_path)
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)[:4]
        file.write_text("".join(lines), encoding="utf-8", newline="\n")
    small = {"rl.groups": 2, "rl.samples": 2, "rl.max_new_tokens": 8, "rl.filter_groups": "keep", "train.device": "cpu"}
    monkeypatch.setitem(rl_learns.METHODS, "masked calls", ("grpo", small))
    found = rl_learns.run("masked calls", 0, str(tuned / "model"), 1, files, tmp_path, "tools")
    assert 0 <= found["called"] <= 1

    def episode(sample):
        sample.append([1, 2], [-1.0, -1.0])
        sample.append([3])
        sample.append((yield sample.ids, sample.sampling), [-1.0])

    monkeypatch.setattr(rl_learns.environment, "multi_turn", episode)
    answered, called = Sample(None, [0]), Sample(None, [0], message={"tool_calls": [{}]})
    for sample in (answered, called):
        masked = rl_learns.play_with_masked_calls(sample)
        next(masked)
        assert following(masked, [4]) is None
    assert answered.trainable == [False, False, False, True]
    assert answered.log_probs == [0, 0, 0, -1.0]
    assert called.trainable == [False] * 4


def test_rollouts_ahead_are_measured_beside_those_that_take_turns(tmp_path, capsys, monkeypatch):
    import async_rollouts

    from minimind.config import PRESETS

    smallest = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 256}
    monkeypatch.setitem(PRESETS, "tiny", PRESETS["tiny"].with_(**smallest))
    for name, value in {"rl.groups": 2, "rl.samples": 2, "rl.max_new_tokens": 4}.items():
        monkeypatch.setitem(async_rollouts.SETTINGS, name, value)
    flags = ["--staleness", "0", "1", "--steps", "3", "--plot", str(tmp_path / "reward.svg"), "--json"]
    monkeypatch.setattr("sys.argv", ["async_rollouts.py", *flags])
    async_rollouts.main()
    in_turns, ahead = last_json(capsys)["runs"]
    assert (in_turns["staleness"], in_turns["versions old"]) == (0, 0)
    assert 0 < ahead["versions old"] <= 1
    for run in (in_turns, ahead):
        assert run["answers a second"] > 0
        assert [clock for clock, _ in run["curve"]] == sorted(clock for clock, _ in run["curve"])
        assert len(run["curve"]) == 3
    assert in_turns["trainer waited"] > 0
    assert (tmp_path / "reward.svg").read_text(encoding="utf-8").count("polyline") == 2


def test_stages_are_measured_beside_others(world, capsys, monkeypatch):
    import stages

    from minimind.config import PRESETS

    smallest = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 1024}
    monkeypatch.setitem(PRESETS, "tiny", PRESETS["tiny"].with_(**smallest))
    monkeypatch.setattr(stages, "in_a_process", stages.take)  # a process for each would import torch again and again
    short = {"data.sequence_length": 256, "train.tokens_per_step": 512, "train.micro_batch_tokens": 256}
    files = {"sft": world / "few_sft.jsonl", "dpo": world / "few_dpo.jsonl", "lora": world / "few_lora.jsonl"}
    counts = {"steps": 1, "reference_steps": 1, "warmup": 1, "settings": json.dumps(short)}
    stages.main(**files, preset="tiny", teacher="tiny", engines=("minimind", "float32"), **counts)
    found = last_json(capsys)
    assert [row["stage"] for row in found["rows"]] == [stage for stage in stages.STAGES for _ in range(2)]
    assert all(row["tokens_per_second"] > 0 and 0 <= row["padding"] < 1 for row in found["rows"])
    assert all(0 < row["tokens_per_step"] <= 512 for row in found["rows"] if row["engine"] == "minimind")
    asked = {row["stage"] for row in found["rows"] if row["reference_seconds"] > 0}
    assert asked == {"dpo"}, "only ours asks the reference before training"
    assert {ratio["stage"] for ratio in found["ratios"]} == set(stages.STAGES)
