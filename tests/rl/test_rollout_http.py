"""Rollouts over HTTP: from our own server in another process, and from a false one that checks what it is sent."""

import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.request import urlopen

import pytest
import torch
from toys import generate, toy

from minimind import runtime
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.model.store import load_model, save_model
from minimind.rl.rollout import LocalRollout
from minimind.rl.rollout_http import HttpRollout
from minimind.rl.settings import RlConfig
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import metrics


class False_(BaseHTTPRequestHandler):
    """Speaks SGLang's protocol as the server's `say` tells it, and remembers every request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body))
        self.server.key = self.headers["Authorization"]
        status, reply = self.server.say(self.path, body)
        data = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def reply(ids=(7, 2), log_probs=(-0.5, -0.25), version="1", reason="stop"):
    tokens = [[p, id, None] for p, id in zip(log_probs, ids, strict=True)]
    meta = {"finish_reason": {"type": reason}, "weight_version": version, "completion_tokens": len(ids)}
    return {"text": "", "output_ids": [0], "meta_info": meta | {"output_token_logprobs": tokens}}


def well(path, body):
    return 200, {"/generate": reply(), "/update_weights_from_disk": {"success": True, "message": ""}}.get(path, "ok")


@pytest.fixture
def server(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), False_)
    server.seen, server.say = [], well
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


def client(server, tokenizer, folder, timeout=5.0, pause=0.01, in_flight=False):
    rl = RlConfig(server=server.url, server_folder=str(folder), server_timeout=timeout, max_batch_size=4)
    return HttpRollout(rl, tokenizer, "float32", pause, in_flight)


def test_requests_and_replies_are_sglangs(server, tokenizer, folder):
    sampling = Sampling(temperature=0.8, top_p=1.0, top_k=0, max_new_tokens=5, stop_ids=(2,), seed=11)
    found = generate(client(server, tokenizer, folder), [[5, 6]], sampling)
    path, body = server.seen[0]
    assert path == "/generate"
    assert body == {
        "input_ids": [5, 6],
        "sampling_params": {
            **{"temperature": 0.8, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "max_new_tokens": 5},
            **{"stop_token_ids": [2], "skip_special_tokens": False, "sampling_seed": 11},
        },
        "return_logprob": True,
    }
    assert found == [([7, 2], [-0.5, -0.25], [0, 0], "completed")], "ids come with their log-probabilities"


def test_a_server_with_a_key_is_sent_it(server, tokenizer, folder, monkeypatch):
    rollout = client(server, tokenizer, folder)
    for key, sent in (("", None), ("sécret", "Bearer sécret")):
        monkeypatch.setenv("MINIMIND_API_KEY", key)
        generate(rollout, [[5]], Sampling())
        assert (server.key and server.key.encode("latin-1").decode()) == sent
    server.say = lambda *_: (401, "wrong")
    with pytest.raises(UserError, match=r"status 401: wrong.*MINIMIND_API_KEY"):
        generate(rollout, [[5]], Sampling())
    monkeypatch.setenv("MINIMIND_API_KEY", "two\nlines")
    with pytest.raises(UserError, match="the key in MINIMIND_API_KEY cannot be sent"):
        generate(rollout, [[5]], Sampling())
    server.url = "gpu-box"
    with pytest.raises(UserError, match=r"rl.server gpu-box: .* cannot be sent"):
        generate(client(server, tokenizer, folder), [[5]], Sampling())


def test_a_seed_fits_into_32_bits(server, tokenizer, folder):
    generate(client(server, tokenizer, folder), [[5]], Sampling(seed=2**55 + 7))
    assert server.seen[0][1]["sampling_params"]["sampling_seed"] == 7


@pytest.mark.parametrize(("reason", "status"), [("length", "truncated"), ("odd", "failed")])
def test_how_an_answer_ended(server, tokenizer, folder, reason, status):
    server.say = lambda *_: (200, reply(reason=reason))
    assert generate(client(server, tokenizer, folder), [[5]], Sampling())[0].status == status


def test_weights_are_handed_over_in_sglangs_order(server, model, tokenizer, folder):
    rollout = client(server, tokenizer, folder)
    for version in (1, 2, 3):
        server.say = lambda path, body, v=version: (
            (200, reply(version=str(v))) if path == "/generate" else well(path, body)
        )
        rollout.update_weights(model)
    steps = ["/pause_generation", "/flush_cache", "/update_weights_from_disk", "/continue_generation", "/generate"]
    assert [path for path, _ in server.seen] == steps * 3
    assert server.seen[0][1] == {"mode": "abort"}
    update = {"model_path": str(folder.absolute() / "weights-3"), "weight_version": "3", "flush_cache": True}
    assert server.seen[-3][1] == update
    assert sorted(path.name for path in folder.glob("weights-*")) == ["weights-2", "weights-3"], "old ones go"
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {p.name for p in (folder / "weights-3").iterdir()}
    assert generate(rollout, [[5]], Sampling())[0].versions == [3, 3]


def failing(kind):
    def say(path, body):
        if path != "/generate":
            return well(path, body)
        match kind:
            case "busy":
                return 503, "busy"
            case "nan":
                return 200, '{"meta_info": ' + json.dumps(reply()["meta_info"]).replace("-0.5", "NaN") + "}"
            case "null":
                return 200, json.loads(json.dumps(reply()).replace("-0.5", "null"))
            case "short":
                broken = reply()
                broken["meta_info"]["output_policy_logprobs"] = [-0.5]
                return 200, broken
            case "abort":
                return 200, reply(reason="abort")
            case "no ids":
                broken = reply()
                broken["meta_info"]["output_token_logprobs"] = [[-0.5, None, None], [-0.25, 2, None]]
                return 200, broken
            case "words":
                return 200, "<html>a proxy's page</html>"
            case "stale":
                return 200, reply(version="0")
            case "hang":
                time.sleep(1.0)
                return 200, reply()

    return say


FAULTS = {
    "busy": "status 503",
    "nan": "NaN",
    "null": "NaN",
    "short": "2 ids, but 1 log-probabilities",
    "abort": "broke an answer off",
    "no ids": "no pairs of a log-probability and an id",
    "words": "something else",
    "stale": "still answers with weights 0",
    "hang": "timed out",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_passes_is_tried_again_and_what_stays_is_said_in_a_sentence(server, model, tokenizer, folder, kind):
    rollout = client(server, tokenizer, folder, timeout=0.2 if kind == "hang" else 5.0)
    rollout.update_weights(model)
    bad, times = failing(kind), iter(range(100))
    server.say = lambda path, body: bad(path, body) if next(times) < 2 else well(path, body)
    assert generate(rollout, [[5]], Sampling())[0].ids == [7, 2], "twice is forgiven"
    server.say = bad
    with pytest.raises(UserError, match=FAULTS[kind]) as caught:
        generate(rollout, [[5]], Sampling())
    assert "in 7 tries" in str(caught.value)
    assert "\n" not in str(caught.value)
    server.say = well
    assert generate(rollout, [[5]], Sampling())[0].ids == [7, 2], "it is usable again"


def test_weights_that_are_not_taken(server, model, tokenizer, folder):
    rollout = client(server, tokenizer, folder)
    server.say = lambda path, body: (
        (200, {"success": False, "message": "no room"}) if path == "/update_weights_from_disk" else well(path, body)
    )
    with pytest.raises(UserError, match="no room"):
        rollout.update_weights(model)
    server.say = well
    rollout = client(server, tokenizer, folder)
    rollout.update_weights(model)
    with pytest.raises(UserError, match="still answers with weights 1"):
        rollout.update_weights(model)  # the next answer again says "1"


def test_a_refusal_is_not_repeated_and_nobody_there_is_said(server, tokenizer, folder):
    server.say = lambda *_: (401, {"error": "who are you?"})
    with pytest.raises(UserError, match="status 401"):
        generate(client(server, tokenizer, folder), [[5]], Sampling())
    assert len(server.seen) == 1
    rl = RlConfig(server="http://127.0.0.1:9", server_folder=str(folder))
    with pytest.raises(UserError, match="could not be used in 7 tries"):
        generate(HttpRollout(rl, tokenizer, pause=0.001), [[5]], Sampling())


def test_log_probabilities_before_the_filters_are_refused(server, tokenizer, folder):
    """SGLang's are of the distribution before top_p; ours says those after it too."""
    for filters in ({"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}):
        with pytest.raises(UserError, match=r"before top_p.*set rl\.top_p = 1"):
            generate(client(server, tokenizer, folder), [[5]], Sampling(**filters))
    both = reply()
    both["meta_info"]["output_policy_logprobs"] = [-0.25, -0.125]
    server.say = lambda *_: (200, both)
    assert generate(client(server, tokenizer, folder), [[5]], Sampling(top_p=0.9))[0].log_probs == [-0.25, -0.125]


def test_a_prompt_that_the_server_refuses_is_left_out(server, tokenizer, folder, capsys):
    server.say = lambda path, body: (400, {"error": "too long"}) if body["input_ids"] == [5] else well(path, body)
    refused, fine, again = generate(client(server, tokenizer, folder), [[5], [6], [5]], Sampling())
    assert (refused, again) == (([], [], [], "failed"),) * 2
    assert (fine.ids, fine.status) == ([7, 2], "completed")
    assert capsys.readouterr().err.count("status 400") == 1


def test_a_flush_is_tried_again_while_requests_are_ending(server, model, tokenizer, folder):
    times = count()
    busy = lambda path: path == "/flush_cache" and next(times) < 2  # noqa: E731
    server.say = lambda path, body: (400, {"error": "pending"}) if busy(path) else well(path, body)
    client(server, tokenizer, folder).update_weights(model)
    assert [path for path, _ in server.seen].count("/flush_cache") == 3


class Restartable:
    """A server that has the weights that it was given, and after a restart those that it was started with."""

    def __init__(self, server):
        self.has, self.server = "default", server
        server.say = self.say

    def say(self, path, body):
        if path == "/update_weights_from_disk":
            self.has = body["weight_version"]
        return (200, reply(version=self.has)) if path == "/generate" else well(path, body)

    def posts(self, path):
        return [body for seen, body in self.server.seen if seen == path]


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_server_that_was_started_again_is_given_the_newest_weights(server, model, tokenizer, folder, in_flight):
    restartable = Restartable(server)
    rollout = client(server, tokenizer, folder, in_flight=in_flight)
    rollout.update_weights(model)
    rollout.update_weights(model)
    restartable.has = "default"
    found = generate(rollout, [[n] for n in range(5, 13)], Sampling())
    assert [(one.ids, one.versions) for one in found] == [([7, 2], [2, 2])] * 8, "nothing is lost"
    given = [body["weight_version"] for body in restartable.posts("/update_weights_from_disk")]
    assert given == ["1", "2", "2"], "once, though eight were asking"


def test_a_hand_over_that_fails_for_a_moment_loses_no_answer(server, model, tokenizer, folder):
    restartable = Restartable(server)
    rollout = client(server, tokenizer, folder)
    rollout.update_weights(model)
    restartable.has, times = "default", count()

    def say(path, body):
        if path == "/update_weights_from_disk" and next(times) < 2:
            return 400, {"success": False, "message": "the disk is away"}
        return restartable.say(path, body)

    server.say = say
    assert [one.ids for one in generate(rollout, [[n] for n in range(5, 9)], Sampling())] == [[7, 2]] * 4


def test_weights_that_are_refused_are_no_refused_prompt(server, model, tokenizer, folder):
    restartable = Restartable(server)
    rollout = client(server, tokenizer, folder)
    rollout.update_weights(model)
    restartable.has = "default"
    server.say = lambda path, body: (422, "no") if path.startswith("/update") else restartable.say(path, body)
    with pytest.raises(UserError, match="refuses /update_weights_from_disk"):
        generate(rollout, [[5]], Sampling())


def test_a_server_that_takes_no_weights_is_not_left_paused(server, model, tokenizer, folder):
    server.say = lambda path, body: (400, "no") if path == "/update_weights_from_disk" else well(path, body)
    with pytest.raises(UserError, match="status 400 no"):
        client(server, tokenizer, folder).update_weights(model)
    assert server.seen[-1][0] == "/continue_generation"


def test_what_it_wrote_before_it_got_them_is_asked_again(server, model, tokenizer, folder):
    """It may be named after the new weights, though its first tokens are of the old ones."""
    restartable = Restartable(server)
    rollout = client(server, tokenizer, folder, in_flight=True)
    rollout.update_weights(model)
    restartable.has = "default"
    both = threading.Barrier(2)

    def say(path, body):
        if path == "/generate" and body["input_ids"] == [5] and not both.broken:
            both.wait(5)  # it began before ...
            both.abort()
            while restartable.has == "default":
                time.sleep(0.01)
        if path == "/generate" and body["input_ids"] == [6] and not both.broken:
            both.wait(5)  # ... this one found out
        return restartable.say(path, body)

    server.say = say
    assert [one.ids for one in generate(rollout, [[5], [6]], Sampling())] == [[7, 2]] * 2
    assert [body["input_ids"] for body in restartable.posts("/generate")].count([5]) == 2


def test_answers_go_on_with_new_weights(server, model, tokenizer, folder):
    restartable = Restartable(server)
    rollout = client(server, tokenizer, folder, in_flight=True)
    rollout.update_weights(model)
    steps = ["/pause_generation", "/flush_cache", "/update_weights_from_disk", "/continue_generation"]
    assert [path for path, _ in server.seen] == steps, "nobody waits for an answer to end"
    assert server.seen[0][1] == {"mode": "retract"}
    mixed = reply(version="2")
    mixed["meta_info"]["output_weight_versions"] = ["1", "2"]
    handed_over = threading.Event()

    def say(path, body):
        if path != "/generate":
            return restartable.say(path, body)
        handed_over.wait(5)
        return 200, mixed if body["input_ids"] == [5] else reply(version="2")

    server.say = say
    rollout.submit("ours", [5], Sampling())
    rollout.submit("SGLang's", [6], Sampling())
    while len(restartable.posts("/generate")) < 2:
        time.sleep(0.01)
    rollout.update_weights(model)
    handed_over.set()
    found = dict(rollout.finished())
    assert found["ours"].versions == [1, 2]
    assert found["SGLang's"].versions == [1, 1], "it may have been begun with these"


def test_a_server_that_is_away_for_longer_is_said_once(server, tokenizer, folder, capsys):
    times = count()
    server.say = lambda path, body: (503, "starting") if next(times) < 8 else well(path, body)
    generate(client(server, tokenizer, folder), [[5], [6]], Sampling())
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("status 503 starting; it is asked again") == 1
    assert said.count("it answers again") == 1


def test_who_ends_waits_for_no_server(server, tokenizer, folder):
    server.say = lambda path, body: (503, "starting")
    rollout = client(server, tokenizer, folder, pause=60.0)
    rollout.submit("x", [5], Sampling())
    while not server.seen:
        time.sleep(0.01)
    workers = [thread for thread in threading.enumerate() if thread.name == "rollout"]
    rollout.close()
    for thread in workers[-1:]:
        assert thread.daemon
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """`minimind serve --rollout` in a process of its own; the last test kills it."""
    folder, tokenizer = tmp_path_factory.mktemp("served"), Tokenizer.load("default")
    save_model(toy(tokenizer, seed=1), folder / "model", "float32")
    tokenizer.save(folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["serve", str(folder / "model"), "--port", str(port), "--rollout", "--rollout-root", str(folder)]
    command += ["--dtype", "float32"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "minimind", *command], env=environment, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    for _ in range(1800):
        try:
            urlopen(f"{url}/health", timeout=1).read()
            break
        except OSError:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.1)
    else:
        raise AssertionError("it never answered")
    yield url, process, folder / "weights"
    process.kill()
    process.wait()


def test_training_through_our_own_server_is_training_in_one_process(real, model, tokenizer, folder, monkeypatch):
    """The same seeds, so the same answers, so the same weights but for rounding."""
    from minimind.recipe import Recipe
    from minimind.stages import grpo

    monkeypatch.setattr(runtime, "peak_flops", lambda *_: 1e11)
    url, _, weights = real
    save_model(model, folder / "start", "float32")
    tokenizer.save(folder / "start")
    rows = [{"messages": [{"role": "user", "content": f"{n} + 1?"}], "gt": ["7"]} for n in range(4)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    trained = []
    for server in ("", url):
        recipe = Recipe(stage="grpo", init=str(folder / "start"))
        recipe.data.files, recipe.data.sequence_length = [str(folder / "prompts.jsonl")], 64
        recipe.train = replace(recipe.train, device="cpu", dtype="float32", compile="never", max_steps=3, valid_every=0)
        recipe.train = replace(recipe.train, tokens_per_step=512, micro_batch_tokens=512, log_every=1, save_every=0)
        recipe.optim = replace(recipe.optim, matrices="adamw", lr=1e-3)
        recipe.rl = replace(recipe.rl, groups=2, samples=4, max_new_tokens=8, server=server)
        recipe.rl = replace(recipe.rl, server_folder=str(weights) if server else "", filter_groups="keep")
        recipe.scoring = replace(recipe.scoring, weights={"same_language": 1.0})
        out = folder / ("remote" if server else "local")
        grpo.run(recipe, out)
        lines = metrics.read(out / "metrics.jsonl")
        assert all(line["mismatch_kl"] < 1e-5 for line in lines)
        trained.append(torch.cat([weight.flatten() for weight in load_model(out / "model").parameters()]))
    torch.testing.assert_close(*trained, rtol=0.02, atol=1e-4)


def test_our_own_server_samples_what_the_local_engine_samples(real, model, tokenizer):
    url, process, weights = real
    rl = RlConfig(server=url, server_folder=str(weights), server_timeout=20, max_batch_size=4)
    remote, local = HttpRollout(rl, tokenizer, "float32", pause=0.01), LocalRollout(model, 4, 128)
    prompts = [[1, n, n + 1] for n in range(40, 44)]
    sampling = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=10, seed=3, stop_ids=(2,))
    before = generate(remote, prompts, sampling)
    for version in (1, 2):
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.05 * torch.randn_like(weight)
        remote.update_weights(model)
        local.update_weights(model)
        found, expected = generate(remote, prompts, sampling), generate(local, prompts, sampling)
        assert [one.ids for one in found] == [one.ids for one in expected] != [one.ids for one in before]
        for one, other in zip(found, expected, strict=True):
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
            assert one.versions == [version] * len(one.ids)
            assert all(math.isfinite(p) for p in one.log_probs)
    process.kill()
    process.wait()
    with pytest.raises(UserError, match="is it running"):
        generate(remote, prompts, sampling)
