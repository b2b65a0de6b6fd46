"""`minimind eval length|needle MODEL`: how far back a model can look."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from minimind import console
from minimind.commands.arguments import AS_THE_MODEL, Device, Json, Model, OnBadLine, Rope, RopeFlags, at_least
from minimind.errors import UsageError

NAMES = {"bpb": "as trained", "score": "as trained", "bpb_yarn": "with YaRN", "score_yarn": "with YaRN"}


def length(
    model: Model,
    data: list[str],
    lengths: tuple[int, ...] = (),
    windows: int = 1,
    plot: str = "",
    on_bad_line: OnBadLine = "stop",
    rope: Rope = AS_THE_MODEL,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Bits per byte of a long text, by length of context and by position, with and without YaRN.

    The same text is read in windows of each length: what a longer context is worth shows as fewer bits. Memory grows
    only by the cache, so 32,768 tokens fit anywhere.

    Examples:
        minimind eval length runs/laptop/model --data book.txt --plot length.png
        minimind eval length runs/laptop/model --data book.txt --factor 4 --original-context 512 --lengths 512 2048

    Args:
        data: texts (.txt, each one document), or JSON Lines files with a `text` field, whose documents follow each
            other as one text.
        lengths: contexts to measure; by default powers of two from 128 to 32,768 or the end of the text.
        windows: how many windows of the longest context are read, where the text has so many.
        plot: picture to write, .png or .svg: by position, and beside it (`-by-length`) by length of context.
        rope: how far YaRN stretches; --rope-scaling none measures without it alone.
    """
    from minimind import runtime
    from minimind.eval.length import LONGEST, lengths_within, measure, read_text, read_texts
    from minimind.model.store import load_model
    from minimind.report import figure
    from minimind.report.plots import Series
    from minimind.tokenizer.bpe import Tokenizer

    at_least(1, windows=windows)
    at_least(8, lengths=min(lengths, default=8))
    pictures = {"position": Path(plot), "length": Path(plot).with_stem(f"{Path(plot).stem}-by-length")} if plot else {}
    for file in pictures.values():
        figure.check(file)
    scalings = _scalings(rope, model, "bpb")
    tokenizer = Tokenizer.load(model)
    text = read_text(read_texts(data, on_bad_line), tokenizer, windows * max(lengths, default=LONGEST))
    measured = lengths_within(len(text.ids), lengths)
    network = load_model(model, device=runtime.device(device))
    dtype = runtime.compute_dtype(network.output_weight.device)
    figures: dict[str, Any] = measure(network, text, measured, tokenizer.bos_id, dtype, scalings)
    figures |= {"rope_scaling": scalings.get("bpb_yarn"), "tokens": len(text.ids) // measured[-1] * measured[-1]}
    for name, file in pictures.items():
        rows = figures[f"by_{name}"]
        curves = [Series(NAMES[key], [(row[name], row[key]) for row in rows]) for key in scalings]
        figure.save(file, curves, f"{name}, tokens", "bits per byte")
        console.say(f"written: {file}")
    if json:
        console.print_json(figures)
        return
    for name, rows in (("length", figures["by_length"]), ("position", figures["by_position"])):
        console.table(f"bits per byte by {name}", (name, *scalings), [tuple(row.values()) for row in rows])


def needle(
    model: Model,
    lengths: tuple[int, ...] = (256, 512, 1024, 2048),
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
    texts: int = 10,
    rope: Rope = AS_THE_MODEL,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Needle in a haystack: is a sentence told once, somewhere in a long text, found again at its end?

    The text is of the small world, the needle a fact about a stranger, and the answer the likeliest of ten: a model
    that finds nothing scores 10 %.

    Examples:
        minimind eval needle runs/laptop/model
        minimind eval needle runs/laptop/model --lengths 1024 4096 --factor 4 --original-context 1024

    Args:
        lengths: tokens of the texts.
        depths: where the needles lie, from 0 (the beginning) to 1 (the end); each text has one at each.
        texts: how many texts of each length, English and Chinese by turns.
        rope: how far YaRN stretches; --rope-scaling none measures without it alone.
    """
    from minimind import runtime
    from minimind.eval.needle import retrieval
    from minimind.model.store import load_model
    from minimind.tokenizer.bpe import Tokenizer

    if not lengths or not depths or not all(0 <= depth <= 1 for depth in depths):
        raise UsageError("eval needle: --lengths needs a number, --depths numbers from 0 to 1")
    at_least(1, texts=texts)
    scalings = _scalings(rope, model, "score")
    tokenizer = Tokenizer.load(model)
    network = load_model(model, device=runtime.device(device))
    dtype = runtime.compute_dtype(network.output_weight.device)
    rows = retrieval(network, tokenizer, lengths, depths, texts, dtype, scalings)
    if json:
        console.print_json({"needle": rows, "chance": 0.1, "rope_scaling": scalings.get("score_yarn")})
        return
    for name in scalings:
        cells = [[n, *(row[name] for row in rows if row["length"] == n)] for n in lengths]
        console.table(f"needles found, {NAMES[name]}", ("length", *(f"depth {d:g}" for d in depths)), cells)


def _scalings(rope: RopeFlags, model: str, name: str) -> dict[str, dict[str, Any] | None]:
    """What is measured: without any stretching, and with the model's own YaRN or the one that is asked for."""
    from minimind.model.store import load_config

    own = load_config(model).rope_scaling
    if rope.rope_scaling == "none":
        return {name: None}
    asked = own if own and rope == AS_THE_MODEL else replace(rope, rope_scaling="yarn").scaling(model)
    return {name: None, f"{name}_yarn": asked}
