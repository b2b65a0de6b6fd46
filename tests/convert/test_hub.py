"""Push and download through the hubs' own clients, against a hub that runs here."""

import base64
import hashlib
import json
import re
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlparse

import pytest

from minimind.convert.hub import download, place, push
from minimind.errors import UsageError, UserError

pytest.importorskip("huggingface_hub")
pytest.importorskip("modelscope_hub")
PLACES = ["hf:me/small", "modelscope:me/small"]
COMMIT = "a" * 40
PRIVATE = 1  # ModelScope's number for it


class Hub(BaseHTTPRequestHandler):
    """The endpoints of both hubs that their clients use to make, fill and read a model repository."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        data, path = self.body(), urlparse(self.path).path
        server = self.server
        server.seen.append(path)
        if server.refuse:
            return self.answer(server.refuse)
        if path == "/api/repos/create":  # Hugging Face
            server.private = json.loads(data).get("visibility") == "private" or json.loads(data).get("private", False)
            return self.json({"url": f"{server.address}/me/small"})
        if path.endswith("/preupload/main"):
            files = [one["path"] for one in json.loads(data)["files"]]  # "lfs" would go by Xet, a protocol of its own
            answer = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in files]
            return self.json({"files": answer})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{server.address}/blob/{one['oid']}"}}}
                for one in json.loads(data)["objects"]
            ]
            return self.json({"transfer": "basic", "objects": objects, "Data": {"objects": objects}, "Code": 200})
        if path == "/api/models/me/small/commit/main":
            for line in data.decode().splitlines():
                operation = json.loads(line)
                value = operation["value"]
                if operation["key"] == "file":
                    server.files[value["path"]] = base64.b64decode(value["content"])
            return self.json({"commitOid": COMMIT, "commitUrl": f"{server.address}/me/small/commit/{COMMIT}"})
        if path == "/api/v1/models":  # ModelScope
            if not server.made:  # the client asks once more before it uploads
                server.private, server.made = json.loads(data)["Visibility"] == PRIVATE, True
            return self.json({"Code": 200, "Success": True, "Data": {}})
        if path == "/api/v1/repos/models/me/small/commit/master":
            for action in json.loads(data)["actions"]:
                normal = action["type"] == "normal"
                content = base64.b64decode(action["content"]) if normal else server.blobs[action["sha256"]]
                server.files[action["path"]] = content
            return self.json({"Code": 200, "Success": True, "Data": {"oid": COMMIT}})
        return self.json({})

    def do_PUT(self):
        data = self.body()
        self.server.blobs[hashlib.sha256(data).hexdigest()] = data
        self.answer(200)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server, url = self.server, urlparse(self.path)
        server.seen.append(f"{self.command} {url.path}")
        if server.refuse:
            return self.answer(server.refuse)
        if found := re.fullmatch(rf"/me/small/resolve/{COMMIT}/(.+)", url.path):
            return self.file(unquote(found[1]))
        if url.path.startswith("/api/models/me/small/tree/"):
            return self.json([self.entry(name) for name in server.files])
        if url.path.startswith("/api/models/me/small"):
            siblings = [{"rfilename": name} for name in server.files]
            return self.json({"id": "me/small", "sha": COMMIT, "siblings": siblings, "private": False})
        if url.path == "/api/v1/models/me/small/repo/files":
            entries = [
                {
                    "Path": name,
                    "Name": name,
                    "Type": "blob",
                    "Size": len(data),
                    "Sha256": hashlib.sha256(data).hexdigest(),
                }
                for name, data in server.files.items()
            ]
            return self.json({"Code": 200, "Success": True, "Data": {"Files": entries}})
        if url.path == "/api/v1/models/me/small/repo":
            return self.file(parse_qs(url.query)["FilePath"][0])
        if url.path == "/api/v1/models/me/small/revisions":
            branches = {"Branches": [{"Revision": "master"}], "Tags": []}
            return self.json({"Code": 200, "Success": True, "Data": {"RevisionMap": branches}})
        if url.path.endswith("/models/me/small") and server.made:
            return self.json({"Code": 200, "Success": True, "Data": {"Name": "small", "Path": "me"}})
        return self.answer(404)

    def entry(self, name):
        data = self.server.files[name]
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def file(self, name):
        data = self.server.files[name]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        status = 200
        if found := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(found[1]), int(found[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self.answer(status, data, headers)

    def json(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.seen, server.files, server.blobs, server.made, server.refuse, server.private = [], {}, {}, False, 0, None
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, server.address)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-test")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def model(model_of, tmp_path):
    folder = shutil.copytree(model_of("dense"), tmp_path / "model")
    (folder / "README.md").write_text("---\nlibrary_name: transformers\n---\n# 小\n", encoding="utf-8")
    (folder / ".hidden").write_text("secret", encoding="utf-8")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name[0] != "."}


@pytest.mark.parametrize("destination", PLACES)
def test_what_is_pushed_arrives_and_comes_back(hub, model, destination):
    figures = push(model, destination, private=True)
    assert figures["sent"] is True
    assert figures["address"].startswith(hub.address)
    assert figures["address"].endswith("/me/small")
    assert hub.private
    assert hub.files == contents(model)
    assert figures["files"] == {name: len(data) for name, data in contents(model).items()}
    assert sorted(path.name for path in model.iterdir()) == sorted([*hub.files, ".hidden"]), (
        "nothing left in the folder"
    )
    fetched = contents(download(place(destination)))
    assert {name: fetched[name] for name in hub.files if name != "README.md"} == {
        name: data for name, data in hub.files.items() if name != "README.md"
    }


@pytest.mark.parametrize("destination", PLACES)
def test_a_dry_run_sends_nothing(hub, model, destination):
    figures = push(model, destination, dry_run=True)
    assert set(figures["files"]) == set(contents(model))
    assert figures["sent"] is False
    assert hub.seen == []


@pytest.mark.parametrize("destination", PLACES)
@pytest.mark.parametrize(
    ("status", "words"), [(401, "log in with"), (403, "log in with"), (404, "not there, or private")]
)
def test_a_refusal_is_one_sentence(hub, model, destination, status, words):
    hub.refuse = status
    for act in (lambda: push(model, destination), lambda: download(place(destination))):
        with pytest.raises(UserError, match=words) as error:
            act()
        assert "me/small" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("destination", PLACES)
def test_no_connection_is_one_sentence(hub, model, destination, monkeypatch):
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # the clients try again for seconds
    with pytest.raises(UserError, match="check the connection") as error:
        push(model, destination)
    assert "\n" not in str(error.value)


def test_only_whole_models_go(hub, model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match="not a readable safetensors"):
        push(model, "hf:me/small")
    with pytest.raises(UserError, match="not a model directory"):
        push(model / "none", "hf:me/small")
    assert hub.seen == []


@pytest.mark.parametrize(
    "wrong", ["me/small", "hf:small", "hf:me/small/more", "modelscope:", "https://huggingface.co/a/b"]
)
def test_a_place_is_written_with_its_hub(model, wrong):
    with pytest.raises(UsageError, match=r"user/name"):
        push(model, wrong)


def test_a_link_out_of_the_directory_is_not_pushed(model, tmp_path):
    folder, outside = tmp_path / "linked", tmp_path / "secret.txt"
    shutil.copytree(model, folder)
    outside.write_bytes(b"a key")
    (folder / "notes.txt").symlink_to(outside)
    with pytest.raises(UserError, match="a link out of the directory"):
        push(folder, "hf:me/mine", dry_run=True)
