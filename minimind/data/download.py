"""The published MiniMind corpora, from either hub, through the hubs' own clients (extra `data`).

The clients go on with an interrupted file and ask the hub for its SHA-256; what is already there and has that checksum
is not fetched again.
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from minimind import runtime
from minimind.console import say, warn
from minimind.errors import UsageError, UserError, did_you_mean, optional
from minimind.files import sha256_of, writing_to

CORPORA: dict[str, tuple[str, ...]] = {
    "pretrain": ("pretrain_t2t.jsonl",),
    "pretrain-mini": ("pretrain_t2t_mini.jsonl",),
    "sft": ("sft_t2t.jsonl",),
    "sft-mini": ("sft_t2t_mini.jsonl",),
    "dpo": ("dpo.jsonl",),
    "rlaif": ("rlaif.jsonl",),
    "agent": ("agent_rl.jsonl",),
    "agent-math": ("agent_rl_math.jsonl",),
}
CORPORA |= {
    "mini": CORPORA["pretrain-mini"] + CORPORA["sft-mini"],
    "full": CORPORA["pretrain"] + CORPORA["sft"],
    "all": tuple(file for files in CORPORA.values() for file in files),
}
REPOSITORY = {"huggingface": "jingyaogong/minimind_dataset", "modelscope": "gongjy/minimind_dataset"}
NEEDS = "downloading needs the library {}; pip install 'minimind[data]'"


class Published(NamedTuple):
    """What a hub says about a file; `sha256` is None for a small file that it keeps without one."""

    size: int
    sha256: str | None


Offer: TypeAlias = tuple[Published, Callable[[], object]]
"""What a hub says about a file, and how to download it."""


class HubError(Exception):
    """A hub that cannot be reached, does not have the file, or sends something else."""


def fetch(
    names: Sequence[str], out: Path, hub: Literal["auto", "huggingface", "modelscope"] = "auto"
) -> dict[str, dict[str, Any]]:
    """Download corpora (keys of CORPORA) into `out`; return `{file name: {"bytes", "sha256", "hub"}}`.

    With "auto" a file that Hugging Face does not give is fetched from ModelScope.

    Raises:
        UsageError: no such corpus.
        UserError: no hub gives a file, a client is not installed, `out` cannot be written.
    """
    for name in names:
        if name not in CORPORA:
            raise UsageError(f"--name {name}: there is no such corpus{did_you_mean(name, CORPORA)}")
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    hubs: list[str] = list(REPOSITORY) if hub == "auto" else [hub]
    files = dict.fromkeys(file for name in names for file in CORPORA[name])
    return {file: _fetch_file(file, out, hubs) for file in files}


def _fetch_file(file: str, out: Path, hubs: list[str]) -> dict[str, Any]:
    reasons = []
    for hub in hubs:
        say(f"{file} from {REPOSITORY[hub]} on {hub}")
        try:
            with _client_errors(out):
                about, download = _CLIENTS[hub](file, out)
                if not _is_there(out / file, about):
                    download()
            sha256 = _checked(out / file, about)
        except HubError as error:
            reasons.append(f"{hub}: {error}")
            if hub != hubs[-1]:
                warn(f"{reasons[-1]}; trying {hubs[-1]}")
            continue
        return {"bytes": (out / file).stat().st_size, "sha256": sha256, "hub": hub}
    other = "" if len(hubs) > 1 else ", or try the other hub with --hub"
    raise UserError(f"{file} could not be fetched ({'; '.join(reasons)}); check the connection and run it again{other}")


def _from_huggingface(file: str, out: Path) -> Offer:
    with optional(NEEDS.format("huggingface_hub")):
        from huggingface_hub import HfApi, RepoFile, hf_hub_download
    endpoint, repository = runtime.hub_endpoint("huggingface"), REPOSITORY["huggingface"]
    found = HfApi(endpoint=endpoint).get_paths_info(repository, file, repo_type="dataset")
    if not found or not isinstance(found[0], RepoFile):
        raise HubError(f"{repository} has no {file}")
    about = Published(found[0].size, found[0].lfs.sha256 if found[0].lfs else None)
    return about, partial(hf_hub_download, repository, file, repo_type="dataset", local_dir=out, endpoint=endpoint)


def _from_modelscope(file: str, out: Path) -> Offer:
    with optional(NEEDS.format("modelscope")):
        from modelscope_hub import HubApi
    api, repository = HubApi(endpoint=runtime.hub_endpoint("modelscope")), REPOSITORY["modelscope"]
    found = [one for one in api.list_repo_files(repository, "dataset") if one.path == file]
    if not found:
        raise HubError(f"{repository} has no {file}")
    about = Published(found[0].size, found[0].sha256)
    checks: dict[str, Any] = {"expected_sha256": about.sha256, "file_size": about.size}
    return about, partial(api.download_file, repository, "dataset", file, local_dir=out, **checks)


_CLIENTS: dict[str, Callable[[str, Path], Offer]] = {"huggingface": _from_huggingface, "modelscope": _from_modelscope}


def _is_there(path: Path, about: Published) -> bool:
    """Whether the file is complete already."""
    if not path.is_file() or path.stat().st_size != about.size:
        return False
    return about.sha256 is None or sha256_of(path) == about.sha256


def _checked(path: Path, about: Published) -> str:
    """The file's SHA-256; a file that is not what the hub announced is removed."""
    sha256 = sha256_of(path)
    if path.stat().st_size != about.size or about.sha256 not in (None, sha256):
        path.unlink()
        raise HubError(f"{path.name} arrived damaged (its checksum or size is not the hub's)")
    return sha256


@contextmanager
def _client_errors(out: Path) -> Iterator[None]:
    """A full disk is the user's to mend, everything else the hub's.

    The clients let the errors of their HTTP libraries through, and which those are changes with their version.
    """
    try:
        yield
    except (HubError, UserError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            with writing_to(out):
                raise
        lines = str(error).strip().splitlines()
        raise HubError(lines[0] if lines else type(error).__name__) from error
