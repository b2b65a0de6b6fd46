"""Rollouts from a server that speaks SGLang's protocol: SGLang itself, or `minimind serve MODEL --rollout`.

    POST /generate                    token ids in, ids with log-probabilities out
    POST /pause_generation, /flush_cache, /update_weights_from_disk, /continue_generation     new weights, by a folder

A server may die, hang, break an answer off, answer NaN or go on with old weights. Each of that is tried again after 1,
2, 4 ... seconds, seven times in all, and then said in one sentence; the run saves what it has and ends. One that was
started again has the weights that it was started with: it is given the newest, and asked again for what it had not
finished.
"""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch

from minimind import ranks, runtime
from minimind.console import say, warn
from minimind.engine.generate import ENDED, Completion
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.rl.settings import RlConfig
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import parallel

TRIES, KEPT = 7, 2
SEEDS = 2**31
"""Seeds are sent modulo this: some versions of SGLang keep 32 bits, with a sign."""


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
        in_flight: answers that are being written go on with new weights; else there are none when weights change.
    """

    def __init__(
        self,
        rl: RlConfig,
        tokenizer: Tokenizer,
        dtype: str = "bfloat16",
        pause: float = 1.0,
        in_flight: bool = False,
    ) -> None:
        self.url, self.timeout, self.pause, self.dtype = rl.server.rstrip("/"), rl.server_timeout, pause, dtype
        self.folder, self.tokenizer, self.in_flight = Path(rl.server_folder).absolute(), tokenizer, in_flight
        self.version = 0
        self.ended: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
        """Key and `Completion` of each answer, as it ends, or the exception that came of it."""
        self._labels: dict[str, int] = {}
        """Of what the server calls its weights, which they are."""
        self._label = ""
        """What it calls the newest."""
        self._restarts, self._handing_over = 0, Lock()
        self._asked: SimpleQueue[tuple[Any, list[int], Sampling, SimpleQueue[tuple[Any, Any]]] | None] = SimpleQueue()
        self._workers, self._max_workers, self._open = 0, rl.max_batch_size, 0
        self._closed = Event()
        self._refused = self._trouble = False

    def submit(self, key: Any, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        """Ask for an answer."""
        self._asked.put((key, list(prompt_ids), sampling, self.ended))
        self._open += 1
        if self._workers < min(self._open, self._max_workers):
            self._workers += 1
            # A daemon: whoever ends does not wait for a server that hangs.
            Thread(target=self._work, name="rollout", daemon=True).start()

    def finished(self) -> Iterator[tuple[Any, Completion]]:
        """Every answer that was asked for, as each ends.

        Raises:
            UserError: the server gave no usable answer in several tries.
        """
        while self._open:
            key, found = self.ended.get()
            self._open -= 1
            if isinstance(found, BaseException):
                self._forget()
                raise found
            yield key, found

    def close(self) -> None:
        """Answer nothing more."""
        self._closed.set()
        self._forget()
        for _ in range(self._workers):
            self._asked.put(None)

    def _forget(self) -> None:
        """Drop what was asked for; what is being answered already is put where nobody looks."""
        self.ended, self._open = SimpleQueue(), 0
        try:
            while True:
                self._asked.get_nowait()
        except Empty:
            pass

    def _work(self) -> None:
        while asked := self._asked.get():
            key, prompt_ids, sampling, ended = asked
            try:
                ended.put((key, self._generate(prompt_ids, sampling)))
            except BaseException as error:
                ended.put((key, error))

    def update_weights(self, model: Transformer) -> None:
        """Write the weights to the folder and have the server read them; rank 0 does, for all.

        Raises:
            UserError: the folder cannot be written, or the server did not take them.
        """
        version = self.version + 1
        weights = parallel.plain_weights(model)
        reason = None
        if runtime.is_main():
            try:
                self._write(model, weights, version)
                with self._handing_over:
                    self._hand_over(version, self._label)
            except UserError as error:
                reason = str(error)
        reason, self._label = ranks.broadcast((reason, self._label))
        if reason:
            raise UserError(reason)
        self._labels[self._label] = self.version = version

    def _write(self, model: Transformer, weights: dict[str, torch.Tensor], version: int) -> None:
        with torch.device("meta"):
            whole = Transformer(model.config)
        whole.load_state_dict(weights, assign=True)
        folder = self._folder(version)
        save_model(whole, folder, self.dtype)
        try:
            self.tokenizer.save(folder)
            for old in self.folder.glob("weights-*"):
                if int(old.name.removeprefix("weights-")) <= version - KEPT:
                    shutil.rmtree(old)
        except OSError as error:
            raise UserError(f"rl.server_folder {self.folder}: cannot be written ({error.strerror})") from None

    def _folder(self, version: int) -> Path:
        return self.folder / f"weights-{version}"

    def _hand_over(self, version: int, before: str) -> None:
        """Have the server read the weights of a version instead of those that it calls `before`."""
        # "retract": what is being answered waits, and goes on with the new weights
        self._retried(lambda: self._post("/pause_generation", {"mode": "retract" if self.in_flight else "abort"}))
        self._retried(lambda: self._post("/flush_cache", {}))
        folder, name = str(self._folder(version)), str(version)
        update = {"model_path": folder, "weight_version": name, "flush_cache": True}
        self._labels[name] = version
        try:
            self._retried(lambda: self._update(update))
        except UserError:
            with suppress(Unusable, UserError):  # a server that goes on living must not stay paused
                self._post("/continue_generation", {})
            raise
        self._retried(lambda: self._post("/continue_generation", {}))
        if not self.in_flight:  # else it would wait for answers to end
            # Some servers count weights themselves: one token tells what this one calls the new ones.
            probe = Sampling(max_new_tokens=1)
            name = self._retried(lambda: self._version_after(before, name, self._ask([0], probe)))
        self._label, self._labels[name] = name, version

    def _hand_over_again(self, label: str, restarts: int) -> None:
        """Give the newest weights to a server that has others, unless another thread has done so since `restarts`."""
        with self._handing_over:
            if self._restarts == restarts:
                self._restarts += 1
                self._hand_over(self.version, label)

    def _update(self, body: dict[str, Any]) -> None:
        done = self._post("/update_weights_from_disk", body)
        if not (isinstance(done, dict) and done.get("success")):
            message = done.get("message") if isinstance(done, dict) else done
            raise Unusable(f"it did not take the weights in {body['model_path']} ({message})")

    def _version_after(self, before: str, given: str, reply: dict[str, Any]) -> str:
        now = str(reply["meta_info"].get("weight_version"))
        if now == before != given:
            raise Unusable(f"it still answers with weights {now}, though it was given new ones")
        return now

    def _generate(self, prompt_ids: list[int], sampling: Sampling) -> Completion:
        try:
            return self._retried(lambda: self._answer(prompt_ids, sampling))
        except Refused as error:  # of this prompt: it is too long for the server, say
            if not self._refused:
                warn(f"{error}; such answers are left out (said once)")
            self._refused = True
            return Completion([], [], [], "failed")

    def _answer(self, prompt_ids: list[int], sampling: Sampling) -> Completion:
        with self._handing_over:  # or it would be answered with weights that are about to go
            oldest, restarts = self.version, self._restarts
        reply = self._ask(prompt_ids, sampling)
        label = str(reply["meta_info"].get("weight_version"))
        if oldest and self._labels.get(label, -1) < oldest:
            self._hand_over_again(label, restarts)
            raise Unusable(f"it answers with weights {label}, not with {self._label}, which it was given")
        if self._restarts > restarts:
            raise Unusable("it was started again while it answered")
        return self._completion(reply, sampling, oldest)

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

    def _completion(self, reply: dict[str, Any], sampling: Sampling, oldest: int) -> Completion:
        """Ids and log-probabilities from one list, so that they cannot disagree.

        Ours says of each token which weights drew it; SGLang only of the last, so that for all of them the oldest
        weights that it can have been are given.
        """
        meta = reply["meta_info"]
        tokens = meta.get("output_token_logprobs")
        if not isinstance(tokens, list) or not isinstance(meta.get("finish_reason"), dict):
            raise Unusable("its reply has no meta_info.output_token_logprobs or no finish_reason")
        if sampling.filters and not meta.get("output_policy_logprobs"):
            raise UserError(
                f"rl.server {self.url} gives log-probabilities of the distribution before top_p, top_k and min_p, and "
                f"would have every answer weighed wrongly; set rl.top_p = 1, rl.top_k = 0, rl.min_p = 0, or use "
                f"minimind serve"
            )
        # Ours says what the sampler's own distribution gave; SGLang's are scaled by temperature, but not filtered.
        policys = meta.get("output_policy_logprobs")
        try:
            ids = [int(token[1]) for token in tokens]
            log_probs = [float("nan") if p is None else float(p) for p in policys or [token[0] for token in tokens]]
        except (TypeError, ValueError, LookupError):
            raise Unusable("its meta_info.output_token_logprobs are no pairs of a log-probability and an id") from None
        labels = meta.get("output_weight_versions") or [""] * len(ids)
        if not len(ids) == len(log_probs) == len(labels) == meta.get("completion_tokens", len(ids)):
            raise Unusable(f"its reply has {len(ids)} ids, but {len(log_probs)} log-probabilities")
        if not all(math.isfinite(p) and p <= 1e-4 for p in log_probs):
            raise Unusable("it answers with log-probabilities that are none (NaN, infinite or above 0)")
        versions = [self._labels.get(str(label), oldest) for label in labels]
        status = ENDED.get(str(meta["finish_reason"].get("type")), "failed")
        if status == "aborted":  # we abort nothing that we wait for
            raise Unusable("it broke an answer off")
        return Completion(ids, [min(p, 0.0) for p in log_probs], versions, status)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode("utf-8")
        headers: dict[str, Any] = {"Content-Type": "application/json"}
        if key := runtime.api_key():
            headers["Authorization"] = f"Bearer {key}".encode()  # as text http.client would send it in Latin-1
        try:
            request = Request(self.url + path, data, headers)
            with urlopen(request, timeout=self.timeout) as response:
                content = response.read()
        except HTTPError as error:
            said = ""
            with suppress(OSError, HTTPException):
                said = error.read()[:300].decode("utf-8", "replace").strip()
            # SGLang's, while aborted requests are still ending, and where weights could not be read
            passing = error.code == 400 and path in ("/flush_cache", "/update_weights_from_disk")
            if error.code < 500 and error.code not in (408, 409, 425, 429) and not passing:
                kind = Refused if path == "/generate" and error.code in (400, 413, 422) else UserError
                cure = "; its key belongs in MINIMIND_API_KEY" if error.code == 401 else ""
                raise kind(f"rl.server {self.url} refuses {path} (status {error.code}: {said}){cure}") from None
            raise Unusable(f"{path}: status {error.code} {said}") from None
        except (URLError, TimeoutError, HTTPException, OSError) as error:
            raise Unusable(f"{path}: {getattr(error, 'reason', None) or error or type(error).__name__}") from None
        except ValueError as error:  # of the HTTP library, before anything is sent
            raise UserError(
                f"rl.server {self.url}: it or the key in MINIMIND_API_KEY cannot be sent ({error})"
            ) from None
        try:
            return json.loads(content) if content.strip() else {}
        except ValueError:
            return content.decode("utf-8", "replace")[:300]  # SGLang's /flush_cache answers in words

    def _retried(self, act: Any) -> Any:
        for attempt in range(TRIES):
            if attempt and self._closed.wait(self.pause * 2 ** (attempt - 1)):
                break
            try:
                found = act()
            except Unusable as error:
                reason = error
                if attempt == 2 and not self._trouble:  # not for what passes in a moment
                    self._trouble = True
                    warn(f"rl.server {self.url}: {reason}; it is asked again, {TRIES} times in all")
                continue
            if self._trouble:
                self._trouble = False
                say(f"rl.server {self.url}: it answers again.")
            return found
        raise UserError(f"rl.server {self.url} could not be used in {TRIES} tries: {reason}; is it running?")
