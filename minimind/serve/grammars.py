"""Grammars of strangers: each is tried in a process that can be stopped before it is made ready in ours."""

import threading
from collections import OrderedDict
from queue import SimpleQueue

from minimind.engine.engine import Engine
from minimind.engine.grammar import COMPILED, Compiled
from minimind.engine.grammar_compile import MAX_CHARACTERS, vocabulary_of
from minimind.errors import UsageError
from minimind.tools.process import Died, Late, Process

SECONDS = 5.0
"""For one grammar; usual ones take some hundredths."""
START_SECONDS = 60.0
PROCESSES = 2


class Grammars:
    """Makes grammars ready for one engine; those of late are remembered, also the wrong ones."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: OrderedDict[str, Compiled | str] = OrderedDict()
        self._lock = threading.Lock()
        self._processes: SimpleQueue[Process] = SimpleQueue()
        for _ in range(PROCESSES):
            self._processes.put(Process("minimind.engine.grammar_compile"))

    def compile(self, grammar: str) -> Compiled:
        """Make a grammar ready; blocks, for use in a pool.

        Raises:
            UsageError: it is wrong, or it takes too much.
        """
        if len(grammar) > MAX_CHARACTERS:
            raise UsageError(f"the grammar cannot be used: it is longer than {MAX_CHARACTERS:,} characters")
        with self._lock:
            found = self._known.get(grammar)
        if found is None:
            found = self._try(grammar) or self._engine.grammars.compile(grammar)
        with self._lock:
            self._known[grammar] = found
            self._known.move_to_end(grammar)
            while len(self._known) > COMPILED:
                self._known.popitem(last=False)
        if isinstance(found, str):
            raise UsageError(found)
        return found

    def _try(self, grammar: str) -> str:
        """What is wrong with a grammar; nothing where it can be used."""
        process = self._processes.get()
        try:
            if not process.runs:
                engine = self._engine
                assert engine.tokenizer
                vocabulary = vocabulary_of(engine.tokenizer, engine.model.config.vocab_size)
                process.ask({"vocabulary": vocabulary}, START_SECONDS)
            return str(process.ask({"grammar": grammar}, SECONDS)["error"])
        except Late:
            return f"the grammar cannot be used: it took longer than {SECONDS:g} s to make ready"
        except Died:
            return "the grammar cannot be used: making it ready took too much memory"
        finally:
            self._processes.put(process)

    def close(self) -> None:
        """End the processes."""
        for _ in range(PROCESSES):
            self._processes.get().close()
