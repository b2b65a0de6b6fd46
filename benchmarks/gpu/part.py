"""One part, in this process: `python -m benchmarks.gpu.part NAME WORK`, where WORK is JSON; rows go to a file."""

import json
import sys
from pathlib import Path

from minimind import runtime

runtime.share_cores()  # as the command line does, before torch is imported

from benchmarks.gpu.correctness import correctness
from benchmarks.gpu.generation import generation
from benchmarks.gpu.machine import machine
from benchmarks.gpu.pretraining import pretraining
from benchmarks.gpu.rival import rival
from benchmarks.gpu.rollouts import rollouts
from benchmarks.gpu.training import training
from benchmarks.gpu.where import where
from benchmarks.gpu.work import Part, Row, Work

PARTS: dict[str, Part] = {
    part.__name__: part for part in (machine, correctness, training, rival, where, generation, rollouts, pretraining)
}


def main(name: str, work: Work) -> None:
    """Run it; each row is on the disk before the next is looked for."""
    with (Path(work.out) / f"{name}.jsonl").open("w", encoding="utf-8") as file:

        def tell(row: Row) -> None:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()

        PARTS[name](work, tell)


if __name__ == "__main__":
    main(sys.argv[1], Work(**json.loads(sys.argv[2])))
