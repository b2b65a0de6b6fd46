"""`rl.staleness` above 0 in whole runs: they learn, go on after a stop, and end as runs end, whatever a thread does."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from urllib.request import urlopen

import pytest
from processes import CONTEXT
from test_rl_stages import _no_measurement, figures, flags, start  # noqa: F401

from minimind.rl import dump

AHEAD = ("--set.rl.staleness", "1")


@pytest.mark.parametrize("staleness", [1, 2])
def test_what_is_rewarded_becomes_more_frequent(minimind, start, tmp_path, staleness):  # noqa: F811
    more = ["--max-steps", "40", "--set.rl.samples", "8", "--set.train.log_every", "4", "--seed", "2"]
    ended = minimind(*flags(start, "grpo", *more, "--set.rl.staleness", staleness), "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    lines = figures(tmp_path / "run")
    assert lines[-1]["reward_copies"] > lines[0]["reward_copies"] + 0.15, [line["reward"] for line in lines]
    assert lines[0]["staleness"] == 0
    assert max(line["staleness"] for line in lines) <= staleness
    assert any(line["staleness"] > 0.5 and line["mismatch_kl"] > 1e-6 for line in lines), "older weights drew them"
    assert {"stale_groups", "trainer_wait_seconds", "engine_wait_seconds"} <= set(lines[-1])


@pytest.mark.parametrize("stage", ["ppo", "agent"])
def test_other_stages_can_be_ahead(minimind, start, tmp_path, stage):  # noqa: F811
    more = [*AHEAD, "--valid", str(start / "prompts.jsonl"), "--set.train.valid_every", "2", "--max-steps", "4"]
    more += ["--set.rl.epochs", "1", "--set.rl.filter_metric", "copies"]
    before = set(threading.enumerate())
    ended = minimind(*flags(start, stage, *more), "--out", tmp_path / "run", "--set.rl.dump", tmp_path / "kept")
    assert ended.code == 0, ended.err
    lines = figures(tmp_path / "run")
    assert len([line for line in lines if "valid_copies" in line]) == 2
    samples = [one for number in dump.numbers(tmp_path / "kept") for one in dump.read(tmp_path / "kept", number, dict)]
    assert {version for row in samples for version in row["versions"]} - {-1} >= {1, 2}
    begun = set(threading.enumerate()) - before
    assert not [thread for thread in begun if thread.name in ("producer", "engine")]


def test_a_run_that_is_continued_skips_no_prompt(minimind, start, tmp_path):  # noqa: F811
    arguments = [*flags(start, "grpo", *AHEAD, "--set.rl.epochs", "1"), "--out", tmp_path / "run"]
    arguments += ["--set.rl.dump", tmp_path / "kept"]
    assert minimind(*arguments, "--max-steps", "3").code == 0
    ended = minimind(*arguments, "--max-steps", "6")
    assert ended.code == 0, ended.err
    assert "at step 3 of 6" in ended.err
    rows = [row for number in range(6) for row in dump.read(tmp_path / "kept", number, dict)]
    groups = {row["group"] for row in rows}
    assert set(range(24 - 2 * 4)) <= groups, "all but some of the last ones, which were being answered"
    assert max(row["versions"][0] for row in rows) >= 5, "versions go on where they were"
    assert minimind(*arguments, "--max-steps", "8", "--set.rl.staleness", "0").code == 0, "and taking turns again"


INTERRUPTED = """
import os, signal, time
from minimind.rl.rewards import reward

CALLS = []

@reward
def copies(samples):
    CALLS.append(1)
    if len(CALLS) == 7:  # in the producer's thread; the main thread is learning, or waits
        for _ in range({times}):
            os.kill(os.getpid(), signal.{signal})
            time.sleep(0.5)
        time.sleep({sleep})
    return [sum(a == b for a, b in zip(s.ids, s.ids[1:])) / len(s.ids) for s in samples]
"""


def interrupted(arguments, log):
    from minimind import runtime
    from minimind.cli import main

    runtime.peak_flops = lambda *_: 1e11
    with open(log, "w", buffering=1) as file:
        os.dup2(file.fileno(), 2)
        raise SystemExit(main([str(one) for one in arguments]))


@pytest.mark.parametrize(
    ("signal", "times", "sleep", "said"),
    [("SIGINT", 1, 0, "stopped before the end"), ("SIGTERM", 1, 0, "stopped before the end"), ("SIGINT", 2, 600, "")],
)
def test_a_signal_in_the_middle_of_a_rollout_ends_it(start, tmp_path, signal, times, sleep, said):  # noqa: F811
    text = INTERRUPTED.replace("{times}", str(times)).replace("{signal}", signal).replace("{sleep}", str(sleep))
    (tmp_path / "rewards.py").write_text(text, encoding="utf-8")
    arguments = [*flags(start, "grpo", *AHEAD), "--max-steps", "500", "--out", tmp_path / "run"]
    arguments += ["--set.scoring.file", tmp_path / "rewards.py"]
    process = CONTEXT.Process(target=interrupted, args=(arguments, tmp_path / "log"))
    process.start()
    process.join(120)
    try:
        assert process.exitcode in (1, 130)
    finally:
        process.kill()
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert said in log
    assert "Traceback" not in log
    assert not said or any((tmp_path / "run" / "checkpoints").glob("*")), "saved, but for the second Ctrl-C"


def serve(start, port, folder):  # noqa: F811
    command = ["serve", str(start / "model"), "--port", str(port), "--rollout", "--rollout-root", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "minimind", *command, "--dtype", "float32"], env=environment, stderr=subprocess.DEVNULL
    )
    return process


def test_a_server_is_killed_and_started_again(minimind, start, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("minimind.rl.rollout_http.TRIES", 10)  # a busy machine starts it in a minute and more
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    servers = [serve(start, port, tmp_path)]
    for _ in range(1800):
        try:
            urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
            break
        except OSError:
            time.sleep(0.1)
    else:
        raise AssertionError("it never answered")

    def start_again():
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.is_file() or len(metrics.read_text().splitlines()) < 3:
            time.sleep(0.05)
        servers[0].kill()
        servers[0].wait()
        servers.append(serve(start, port, tmp_path))

    thread = threading.Thread(target=start_again, daemon=True)
    thread.start()
    more = ["--set.rl.server", f"http://127.0.0.1:{port}", "--set.rl.server_folder", str(tmp_path / "weights")]
    more += ["--max-steps", "8", "--set.rl.epochs", "1", "--set.rl.dump", str(tmp_path / "kept")]
    try:
        ended = minimind(*flags(start, "grpo", *AHEAD, *more), "--out", tmp_path / "run")
    finally:
        thread.join(60)
        for server in servers:
            server.kill()
            server.wait()
    assert ended.code == 0, ended.err
    assert len(servers) == 2
    lines = figures(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert max(line["mismatch_kl"] for line in lines) < 0.5, "every token was scored by the weights that drew it"
    rows = [
        json.loads(line) for file in sorted((tmp_path / "kept").iterdir()) for line in file.read_text().splitlines()
    ]
    assert {row["status"] for row in rows} <= {"completed", "truncated"}, "no answer is lost"
    assert set(range(8 * 4 - 8)) <= {row["group"] for row in rows}, "no prompt either"
