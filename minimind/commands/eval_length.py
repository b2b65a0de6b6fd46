"""`minimind eval length MODEL`: how far back a model can look."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from minimind import console
from minimind.commands.arguments import AS_THE_MODEL, Rope, RopeFlags, at_least

Model = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
NAMES = {"bpb": "as trained", "bpb_yarn": "with YaRN"}


def length(
    model: Model,
    data: list[str],
    lengths: tuple[int, ...] = (),
    windows: int = 1,
    plot: str = "",
    on_bad_line: Literal["stop", "skip"] = "stop",
    rope: Rope = AS_THE_MODEL,
    device: str = "auto",
    json: bool = False,
) -> int:
    """Bits per byte of a long text, by length of context and by position, with and without YaRN.

    The same text is read in windows of each length: what a longer context is worth shows as fewer bits. Memory grows
    only by the cache, so 32,768 tokens fit anywhere.

    Examples:
        minimind eval length runs/laptop/model --data book.txt --plot length.png
        minimind eval length runs/laptop/model --data book.txt --factor 4 --original-context 512 --lengths 512 2048

    Args:
        model: model directory.
        data: texts (.txt, each one document), or JSON Lines files with a `text` field, whose documents follow each
            other as one text.
        lengths: contexts to measure; by default powers of two from 128 to 32,768 or the end of the text.
        windows: how many windows of the longest context are read, where the text has so many.
        plot: picture to write, .png or .svg: by position, and beside it (`-by-length`) by length of context.
        on_bad_line: stop (default) at a malformed line, or skip it and count.
        rope: how far YaRN stretches; --rope-scaling none measures without it alone.
        device: auto, cpu, cuda or mps.
        json: print one line of JSON.
    """
    from minimind import runtime
    from minimind.eval.length import LONGEST, lengths_within, measure, read_text, read_texts
    from minimind.model.store import load_config, load_model
    from minimind.report import figure
    from minimind.report.plots import Series
    from minimind.tokenizer.bpe import Tokenizer

    at_least(1, windows=windows)
    at_least(8, lengths=min(lengths, default=8))
    if plot:
        figure.check(plot)
    own = load_config(model).rope_scaling
    scalings = {"bpb": None} | ({} if rope.rope_scaling == "none" else {"bpb_yarn": _stretched(rope, model, own)})
    tokenizer = Tokenizer.load(model)
    text = read_text(read_texts(data, on_bad_line), tokenizer, windows * max(lengths, default=LONGEST))
    measured = lengths_within(len(text.ids), lengths)
    network = load_model(model, device=runtime.device(device))
    dtype = runtime.compute_dtype(network.output_weight.device)
    figures: dict[str, Any] = measure(network, text, measured, tokenizer.bos_id, dtype, scalings)
    figures |= {"rope_scaling": scalings.get("bpb_yarn"), "tokens": len(text.ids) // measured[-1] * measured[-1]}
    if plot:
        for file, name in ((Path(plot), "position"), (Path(plot).with_stem(f"{Path(plot).stem}-by-length"), "length")):
            rows = figures[f"by_{name}"]
            curves = [Series(NAMES[key], [(row[name], row[key]) for row in rows]) for key in scalings]
            figure.save(file, curves, f"{name}, tokens", "bits per byte")
            console.say(f"written: {file}")
    if json:
        console.print_json(figures)
        return 0
    for name, rows in (("length", figures["by_length"]), ("position", figures["by_position"])):
        console.table(f"bits per byte by {name}", (name, *scalings), [tuple(row.values()) for row in rows])
    return 0


def _stretched(rope: RopeFlags, model: str, own: dict[str, Any] | None) -> dict[str, Any] | None:
    """The model's own YaRN, unless there is none or another is asked for."""
    if own and rope == AS_THE_MODEL:
        return own
    return replace(rope, rope_scaling="yarn").scaling(model)
