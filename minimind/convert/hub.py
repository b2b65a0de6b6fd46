"""Models from and to Hugging Face and ModelScope, through the hubs' own clients (extra `data`).

A place on a hub is written `hf:user/name` or `modelscope:user/name`.
"""

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from minimind import runtime
from minimind.console import hushed
from minimind.convert.tensors import from_directory, select
from minimind.errors import UsageError, UserError
from minimind.model.store import load_config
from minimind.tokenizer.bpe import Tokenizer

HUBS = {"hf": "huggingface", "modelscope": "modelscope"}
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
WANTED = ["*.json", "*.safetensors", "pytorch_model*.bin", "*.jinja", "merges.txt"]


class Place(NamedTuple):
    """A repository on a hub."""

    hub: str
    """`huggingface` or `modelscope`."""
    repository: str

    @property
    def address(self) -> str:
        """Where people look at it."""
        folder = "/models" if self.hub == "modelscope" else ""
        return f"{runtime.hub_endpoint(self.hub)}{folder}/{self.repository}"


def place(text: str) -> Place | None:
    """Read `hf:user/name` or `modelscope:user/name`; None where the text does not begin with a hub.

    Raises:
        UsageError: it does, but is no repository's name.
    """
    prefix, colon, repository = text.partition(":")
    if not colon or prefix not in HUBS:
        return None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UsageError(f"{text}: write the repository as {prefix}:user/name")
    return Place(HUBS[prefix], repository)


def download(where: Place) -> Path:
    """Fetch a model into the client's own cache, where it stays for the next time; return its folder.

    Raises:
        UserError: no such repository, no connection, or the client is not installed.
    """
    with _client(where):
        if where.hub == "huggingface":
            from huggingface_hub import snapshot_download

            endpoint = runtime.hub_endpoint(where.hub)
            return Path(snapshot_download(where.repository, endpoint=endpoint, allow_patterns=WANTED))
        from modelscope_hub import HubApi

        api = HubApi(endpoint=runtime.hub_endpoint(where.hub))
        return Path(api.download_repo(where.repository, "model", allow_patterns=WANTED))


def push(model: Path, destination: str, private: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Upload a model directory, making the repository if it is not there.

    Args:
        model: model directory; all of its files go, hidden ones excepted.
        destination: `hf:user/name` or `modelscope:user/name`.
        private: make a new repository private.
        dry_run: check everything here and send nothing.

    Returns:
        `{"address", "files": {name: bytes}, "sent"}`.

    Raises:
        UsageError: `destination` is no place on a hub.
        UserError: `model` is not a whole model, or the hub refuses.
    """
    where = place(destination)
    if where is None:
        raise UsageError(f"{destination}: write where to push as hf:user/name or modelscope:user/name")
    config = load_config(model)
    select(from_directory(model), config, str(model))
    Tokenizer.load(model)
    going = [path for path in sorted(model.iterdir()) if path.is_file() and not path.name.startswith(".")]
    for path in going:
        if not path.resolve().is_relative_to(model.resolve()):
            raise UserError(f"{path} is a link out of the directory; put a copy there, or take it away")
    files = {path.name: path.stat().st_size for path in going}
    if not dry_run:
        with _client(where):
            _send(model, where, private, list(files))
    return {"address": where.address, "files": files, "sent": not dry_run}


def _send(model: Path, where: Place, private: bool, files: list[str]) -> None:
    endpoint, message = runtime.hub_endpoint(where.hub), "Upload with MiniMind"
    if where.hub == "huggingface":
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint)
        api.create_repo(where.repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=where.repository, folder_path=model, allow_patterns=files, commit_message=message)
        return
    from modelscope_hub import HubApi

    hub = HubApi(endpoint=endpoint)
    if not hub.repo_exists(where.repository, "model"):
        hub.create_repo(where.repository, "model", visibility="private" if private else "public")
    hub.upload_folder(  # its cache would be a file in the model's folder
        where.repository, "model", model, allow_patterns=files, commit_message=message, use_cache=False
    )


@contextmanager
def _client(where: Place) -> Iterator[None]:
    """Turn what a client raises into one sentence.

    The clients let the errors of their HTTP libraries through, and which those are changes with their version.
    """
    login = {"huggingface": "hf auth login", "modelscope": "modelscope login"}[where.hub]
    try:
        with redirect_stdout(sys.stderr), hushed():  # they print reports; ours is the only one on stdout
            yield
    except ImportError as error:
        raise UserError(f"{where.hub} needs the library {error.name}; pip install 'minimind[data]'") from None
    except Exception as error:
        status = _status(error)
        if status in (401, 403):
            raise UserError(f"{where.address} refused ({status}): log in with `{login}`, or see whose it is") from error
        if status == 404:
            raise UserError(f"{where.address} is not there, or private: check the name, or `{login}`") from error
        if full := _unwritable(error):
            raise UserError(
                f"{where.hub}'s cache cannot be written ({full}); make room, or name another folder in "
                f"{'HF_HOME' if where.hub == 'huggingface' else 'MODELSCOPE_CACHE'}"
            ) from error
        raise UserError(
            f"{where.address} cannot be reached ({_reason(error)}); check the connection and try again"
        ) from error


def _reason(error: BaseException) -> str:
    """What the operating system said, where it is the cause: the clients wrap that into a paragraph."""
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    wrapped = re.search(r"\[Errno -?\d+\] ([\w ]+)", text)
    return wrapped[1] if wrapped else text


def _unwritable(error: BaseException | None) -> str:
    """What the operating system said where the disk is to blame, or nothing."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return str(error.strerror)
        error = error.__cause__ or error.__context__
    return ""


def _status(error: BaseException | None) -> int | None:
    """HTTP status of an error or of what caused it; the clients wrap it once or twice."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status_code", None)
        if status:
            return status
        error = error.__cause__
    return None
