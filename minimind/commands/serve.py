"""`minimind serve MODEL`: an OpenAI-compatible server with a chat page."""

import re
from pathlib import Path
from typing import Annotated, Any

import tyro

from minimind import console, runtime
from minimind.commands.arguments import AS_THE_MODEL, Device, Rope, Text, at_least, call, choose_tools, server_for
from minimind.errors import UsageError, UserError


def main(argv: list[str]) -> int:
    """Start a server."""
    return call(serve, argv, "minimind serve")


def serve(
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]],
    host: str = "127.0.0.1",
    port: int = 8000,
    name: Text = None,
    lora: tuple[str, ...] = (),
    tools: str = "",
    context: int = 4096,
    parallel: int = 64,
    cache_tokens: int = 65536,
    queue: int = 256,
    max_tokens: int = 0,
    max_seconds: float = 600.0,
    max_body_mb: float = 4.0,
    grace: float = 10.0,
    api_key: Text = None,
    insecure: bool = False,
    allowed_host: tuple[str, ...] = (),
    cors_origin: tuple[str, ...] = (),
    rollout: bool = False,
    rollout_root: str = "",
    dtype: str = "auto",
    rope: Rope = AS_THE_MODEL,
    device: Device = "auto",
) -> None:
    """Serve a model over HTTP: OpenAI's interface at /v1, a chat page at /.

    Examples:
        minimind serve runs/demo/sft/model
        minimind serve runs/demo/sft/model --tools all
        minimind serve runs/demo/sft/model --lora pirate=runs/pirate/model doctor=runs/doctor/model
        MINIMIND_API_KEY=secret minimind serve runs/demo/sft/model --host 0.0.0.0 --allowed-host mybox.example.org

    Args:
        model: model directory, or a LoRA adapter's, which knows its base.
        host: address to listen on; other machines reach only another than 127.0.0.1, and must bring an API key.
        port: port to listen on; 0 takes a free one.
        name: what clients call the model; the directory's name by default.
        lora: LoRA adapters on the model as NAME=DIR; to clients each is a model of that name.
        tools: what the page may run: all built-in tools, or names and Python files of your own, with commas between.
        context: longest conversation in tokens.
        parallel: answers written at once, if the cache has room for them; others wait.
        cache_tokens: tokens of all conversations together that memory is reserved for; at least `context`.
        queue: answers written and waiting together; beyond it clients are told to come back.
        max_tokens: longest answer; 0: as long as the context.
        max_seconds: longest time for one request.
        max_body_mb: largest body of a request.
        grace: seconds that running answers have when the server is stopped.
        api_key: key that clients must send (better: the variable MINIMIND_API_KEY, which `ps` does not show).
        insecure: listen on any host without a key.
        allowed_host: other names that clients may call this server by, as in host.docker.internal.
        cors_origin: web pages of other sites that may call this server, as in https://chat.example.org.
        rollout: also answer the protocol that reinforcement learning uses (/generate, new weights): who may ask
            anything, may replace the weights.
        rollout_root: directory that files of new weights may come from.
        dtype: number format of the weights: auto, float32, bfloat16 or int8 (half the bytes, a little rounder).
        rope: how far positions may go; --context says how much of that is used.
    """
    at_least(1, context=context, parallel=parallel, queue=queue, max_seconds=max_seconds)
    if cache_tokens < context:
        raise UsageError(f"--cache-tokens {cache_tokens}: one conversation (--context {context}) must fit; give more")
    at_least(0, max_tokens=max_tokens, max_body_mb=max_body_mb, grace=grace)
    if rollout != bool(rollout_root):
        raise UsageError(
            "--rollout and --rollout-root DIR go together: files of new weights come from that directory alone"
        )
    if rollout and lora:
        raise UsageError("--rollout takes new weights, which adapters (--lora) are not made for; use one of them")
    if rollout and not Path(rollout_root).is_dir():
        raise UsageError(f"--rollout-root {rollout_root}: there is no such directory")
    for origin in cors_origin:
        if not re.fullmatch(r"https?://[^\s/*A-Z]+", origin):
            raise UsageError(
                f"--cors-origin {origin}: write a page's origin as a browser does, as in https://chat.example.org: "
                f"small letters, no path; every page at once ('*') cannot be let in"
            )
    if "*" in allowed_host:
        raise UsageError("--allowed-host '*': write each name that clients call this server by; any IP address will do")
    key = runtime.api_key() if api_key is None else api_key
    server = server_for(port)
    if not server.is_loopback(host) and not key and not insecure:
        raise UsageError(
            f"--host {host} lets other machines in: give an --api-key (or MINIMIND_API_KEY), or --insecure if all of "
            f"them may use the model"
        )
    from minimind.inspect.glass import LookingGlass
    from minimind.serve.service import Service
    from minimind.serve.settings import Settings
    from minimind.tokenizer.bpe import Tokenizer

    served = _name_of(Path(model)) if name is None else name
    if not served:
        raise UsageError("--name is empty: clients need a name to call the model by")
    adapters = _adapters(lora, model, served)
    sizes = {"max_batch_size": parallel, "context": context, "cache_tokens": cache_tokens}
    load = _loader(model, adapters, rope.scaling(model), dtype, device, queue, sizes)
    settings = Settings(
        model=served,
        adapters=tuple(adapters),
        api_key=key or None,
        allowed_hosts=(host, *allowed_host),
        cors_origins=cors_origin,
        tools=choose_tools(tools),
        rollout_root=Path(rollout_root) if rollout else None,
        max_bytes=int(max_body_mb * 2**20),
        max_tokens=max_tokens or None,
        max_open=queue,
        seconds=max_seconds,
        grace=grace,
    )
    tokenizer = Tokenizer.load(model)
    glass = LookingGlass(model, device) if server.is_loopback(host) else None  # it is for who sits at the machine
    listening = server.listen(host, port)
    url = server.address(host, listening)
    console.say(console.bold(settings.model), " is being loaded. Ctrl-C stops the server.")
    console.say(f"  chat page        {url}/")
    if glass:
        console.say(f"  looking-glass    {url}/inspect")
    console.say(f"  OpenAI base URL  {url}/v1   model {', '.join((settings.model, *settings.adapters))}")
    server.run(Service(settings, tokenizer, glass), lambda: load(tokenizer), listening)


def _name_of(model: Path) -> str:
    """A directory's name, or that of the run which it is the result of (`runs/mine/model`)."""
    path = model.resolve()
    return path.parent.name if path.name == "model" else path.name


def _adapters(given: tuple[str, ...], model: str, served: str) -> dict[str, Path]:
    """`--lora NAME=DIR ...` as directories by name."""
    from minimind.model.adapter import is_adapter

    adapters: dict[str, Path] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"--lora {one}: write it as NAME=DIR, the name that clients ask for and the adapter")
        if name in adapters or name == served:
            raise UsageError(f"--lora {one}: there is a model {name!r} already; give it another name")
        if not is_adapter(Path(folder)):
            raise UserError(f"--lora {one}: {folder} is no adapter, it has no adapter_config.json")
        adapters[name] = Path(folder)
    if adapters and is_adapter(Path(model)):
        raise UsageError(f"--lora: {model} is an adapter itself; serve its base, and it as --lora NAME={model}")
    return adapters


def _loader(
    model: str, adapters: dict[str, Path], rope_scaling: Any, dtype: str, device: str, queue: int, sizes: dict[str, Any]
) -> Any:
    """What loads the model later, in another thread; mistakes that can be seen now are raised now."""
    import torch

    from minimind.engine.background import EngineThread
    from minimind.engine.engine import Engine
    from minimind.model.adapter import adapted_copy
    from minimind.model.store import load_config, load_model

    on = runtime.device(device)
    formats = {
        "auto": runtime.decoding_dtype(on),
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "int8": runtime.compute_dtype(on),  # the engine rounds the matrices further
    }
    if dtype not in formats:
        raise UsageError(f"--dtype {dtype}: choose {', '.join(formats)}")
    load_config(model)

    def load(tokenizer: Any) -> EngineThread:
        weights = load_model(model, dtype=formats[dtype], device=on).eval()
        if rope_scaling is not None:
            weights.use_rope_scaling(rope_scaling)
        variants = {name: adapted_copy(weights, folder, Path(model)) for name, folder in adapters.items()}
        engine = Engine(weights, tokenizer, int8=dtype == "int8", variants=variants, **sizes)
        engine.grammars  # noqa: B018  # made now: not while others are answered
        return EngineThread(engine, max_waiting=queue)

    return load
