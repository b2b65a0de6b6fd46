"""Rollouts from a server that speaks SGLang's protocol: SGLang itself, or `minimind serve MODEL --rollout`.

    POST /generate                    token ids in, ids with log-probabilities out
    POST /pause_generation, /flush_cache, /update_weights_from_disk, /continue_generation     new weights, by a folder

A server may die, hang, answer NaN or go on with old weights. Each of that is tried again after 1, 2, 4 ... seconds, and
then said in one sentence; the run saves what it has and ends.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch

from minimind import ranks, runtime
from minimind.console import warn
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.rl.rollout import Completion, Status
from minimind.rl.settings import RlConfig
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import parallel

TRIES, KEPT = 5, 2
SEEDS = 2**31
"""Seeds are sent modulo this: some versions of SGLang keep 32 bits, with a sign."""
ENDED: dict[str, Status] = {"stop": "completed", "length": "truncated", "abort": "aborted"}


class Unusable(Exception):
    """The server's answer cannot be used; it may be the next time."""


class Refused(UserError):
    """The server does not answer this one prompt."""


class HttpRollout:
    """A rollout engine behind HTTP.

    Args:
        rl: address, folder, time limit, and how many requests are open at once.
        tokenizer: saved beside the weights.
        dtype: in which weights are handed over.
        pause: seconds before the second try; twice as long before each further one.
    """

    def __init__(self, rl: RlConfig, tokenizer: Tokenizer, dtype: str = "bfloat16", pause: float = 1.0) -> None:
        self.url, self.timeout, self.pause, self.dtype = rl.server.rstrip("/"), rl.server_timeout, pause, dtype
        self.folder, self.tokenizer = Path(rl.server_folder).absolute(), tokenizer
        self.version = 0
        self._reported: str | None = None
        """What the server calls the weights that it should have."""
        self._pool = ThreadPoolExecutor(rl.rows, thread_name_prefix="rollout")
        self._running: dict[Future[Completion], Any] = {}
        self._refused = False

    def submit(self, key: Any, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        """Ask for an answer."""
        self._running[self._pool.submit(self._generate, list(prompt_ids), sampling)] = key

    def finished(self) -> Iterator[tuple[Any, Completion]]:
        """Every answer that was asked for, as each ends.

        Raises:
            UserError: the server gave no usable answer in several tries.
        """
        while self._running:
            some = list(self._running)
            for future in as_completed(some):
                key = self._running.pop(future)
                try:
                    yield key, future.result()
                except BaseException:
                    for other in self._running:
                        other.cancel()
                    self._running.clear()
                    raise

    def update_weights(self, model: Transformer) -> None:
        """Write the weights to the folder and have the server read them; rank 0 does, for all.

        Raises:
            UserError: the folder cannot be written, or the server did not take them.
        """
        self.version += 1
        weights = parallel.plain_weights(model)
        reason = None
        if runtime.is_main():
            try:
                self._hand_over(model, weights)
            except UserError as error:
                reason = str(error)
        reason, self._reported = ranks.from_main((reason, self._reported))
        if reason:
            raise UserError(reason)

    def _hand_over(self, model: Transformer, weights: dict[str, torch.Tensor]) -> None:
        with torch.device("meta"):
            whole = Transformer(model.config)
        whole.load_state_dict(weights, assign=True)
        folder = self.folder / f"weights-{self.version}"
        save_model(whole, folder, self.dtype)
        try:
            self.tokenizer.save(folder)
            for old in self.folder.glob("weights-*"):
                if int(old.name.removeprefix("weights-")) <= self.version - KEPT:
                    shutil.rmtree(old)
        except OSError as error:
            raise UserError(f"rl.server_folder {self.folder}: cannot be written ({error.strerror})") from None
        before = self._reported
        self._retried(lambda: self._post("/pause_generation", {"mode": "abort"}))
        self._retried(lambda: self._post("/flush_cache", {}))
        update = {"model_path": str(folder), "weight_version": str(self.version), "flush_cache": True}
        self._retried(lambda: self._update(update))
        self._retried(lambda: self._post("/continue_generation", {}))
        # It says which weights it has with every answer; one token tells what it calls the new ones.
        self._reported = None
        probe = Sampling(max_new_tokens=1)
        self._reported = self._retried(lambda: self._version_after(before, self._ask([0], probe)))

    def _update(self, body: dict[str, Any]) -> None:
        done = self._post("/update_weights_from_disk", body)
        if not (isinstance(done, dict) and done.get("success")):
            message = done.get("message") if isinstance(done, dict) else done
            raise Unusable(f"it did not take the weights in {body['model_path']} ({message})")

    def _version_after(self, before: str | None, reply: dict[str, Any]) -> str:
        now = str(reply["meta_info"].get("weight_version"))
        if now == before and now != str(self.version):
            raise Unusable(f"it still answers with weights {now}, though it was given new ones")
        return now

    def _generate(self, prompt_ids: list[int], sampling: Sampling) -> Completion:
        try:
            return self._retried(lambda: self._completion(self._ask(prompt_ids, sampling), sampling))
        except Refused as error:  # of this prompt: it is too long for the server, say
            if not self._refused:
                warn(f"{error}; such answers are left out (said once)")
            self._refused = True
            return Completion([], [], [], "failed")

    def _ask(self, prompt_ids: list[int], sampling: Sampling) -> dict[str, Any]:
        params = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "max_new_tokens": sampling.max_new_tokens,
            "stop_token_ids": list(sampling.stop_ids),
            "skip_special_tokens": False,
        }
        if sampling.seed is not None:
            params["sampling_seed"] = sampling.seed % SEEDS
        body = {"input_ids": prompt_ids, "sampling_params": params, "return_logprob": True}
        reply = self._post("/generate", body)
        if not isinstance(reply, dict) or not isinstance(reply.get("meta_info"), dict):
            raise Unusable("it answers /generate with something else than SGLang's reply")
        return reply

    def _completion(self, reply: dict[str, Any], sampling: Sampling) -> Completion:
        """Ids and log-probabilities from one list, so that they cannot disagree."""
        meta = reply["meta_info"]
        tokens = meta.get("output_token_logprobs")
        if not isinstance(tokens, list) or not isinstance(meta.get("finish_reason"), dict):
            raise Unusable("its reply has no meta_info.output_token_logprobs or no finish_reason")
        filtered = sampling.top_p < 1 or sampling.top_k or sampling.min_p
        if filtered and not meta.get("output_policy_logprobs"):
            raise UserError(
                f"rl.server {self.url} gives log-probabilities of the distribution before top_p, top_k and min_p, and "
                f"would have every answer weighed wrongly; set rl.top_p = 1, rl.top_k = 0, rl.min_p = 0, or use "
                f"minimind serve"
            )
        ids = [int(token[1]) for token in tokens]
        # Ours says what the sampler's own distribution gave; SGLang's are scaled by temperature, but not filtered.
        log_probs = [
            float("nan") if p is None else float(p)
            for p in meta.get("output_policy_logprobs") or [t[0] for t in tokens]
        ]
        if len(ids) != len(log_probs) or len(ids) != meta.get("completion_tokens", len(ids)):
            raise Unusable(f"its reply has {len(ids)} ids, but {len(log_probs)} log-probabilities")
        if not all(math.isfinite(p) and p <= 1e-4 for p in log_probs):
            raise Unusable("it answers with log-probabilities that are none (NaN, infinite or above 0)")
        version = str(meta.get("weight_version"))
        if self._reported is not None and version != self._reported:
            raise Unusable(f"it answers with weights {version}, not with {self._reported}, which it was given")
        status = ENDED.get(str(meta["finish_reason"].get("type")), "failed")
        return Completion(ids, [min(p, 0.0) for p in log_probs], [self.version] * len(ids), status)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode("utf-8")
        request = Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=self.timeout) as response:
                content = response.read()
        except HTTPError as error:
            said = error.read()[:300].decode("utf-8", "replace").strip()
            if path == "/flush_cache" and error.code == 400:  # SGLang's, while aborted requests are still ending
                raise Unusable(f"{path}: status 400 {said}") from None
            if error.code < 500 and error.code not in (408, 409, 425, 429):
                kind = Refused if error.code in (400, 413, 422) else UserError
                raise kind(f"rl.server {self.url} refuses {path} (status {error.code}: {said})") from None
            raise Unusable(f"{path}: status {error.code} {said}") from None
        except (URLError, TimeoutError, HTTPException, OSError) as error:
            raise Unusable(f"{path}: {getattr(error, 'reason', None) or error or type(error).__name__}") from None
        try:
            return json.loads(content) if content.strip() else {}
        except ValueError:
            return content.decode("utf-8", "replace")[:300]  # SGLang's /flush_cache answers in words

    def _retried(self, act: Any) -> Any:
        for attempt in range(TRIES):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                return act()
            except Unusable as error:
                reason = error
        raise UserError(f"rl.server {self.url} could not be used in {TRIES} tries: {reason}; is it running?")
