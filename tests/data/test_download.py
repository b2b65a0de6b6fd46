import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlparse

import pytest

from minimind.cli import main
from minimind.data.download import CORPORA, fetch
from minimind.errors import UsageError, UserError

pytest.importorskip("huggingface_hub")
pytest.importorskip("modelscope_hub")

CONTENT = b"".join(b'{"text": "document %06d"}\n' % n for n in range(4000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "dpo.jsonl"


class Hub(BaseHTTPRequestHandler):
    """The few endpoints of both hubs that their clients ask for one dataset's file."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(self.path)
        if "huggingface" in self.server.down or "/paths-info/" not in self.path:
            return self.answer(500)
        lfs = {"oid": SHA256, "size": len(CONTENT), "pointerSize": 130}
        return self.answer_json([{"type": "file", "path": FILE, "size": len(CONTENT), "oid": "0" * 40, "lfs": lfs}])

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.seen.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        url = urlparse(self.path)
        if url.path.startswith("/datasets/jingyaogong/minimind_dataset/resolve/"):
            if "huggingface" in self.server.down:
                return self.answer(503)
            return self.answer_file({"ETag": f'"{SHA256}"', "X-Repo-Commit": "a" * 40})
        if "modelscope" in self.server.down:
            return self.answer(404)  # a 503 would be asked again for seconds
        if url.path == "/api/v1/datasets/gongjy/minimind_dataset/repo/tree":
            entry = {"Path": FILE, "Name": FILE, "Size": len(CONTENT), "Sha256": SHA256, "Type": "blob"}
            page = int(parse_qs(url.query).get("PageNumber", ["1"])[0])
            files = [entry] if page == 1 else []
            return self.answer_json({"Code": 200, "Success": True, "Data": {"Files": files, "TotalCount": 1}})
        if url.path.startswith("/api/v1/datasets/gongjy/minimind_dataset/repo"):
            return self.answer_file({})
        return self.answer(404)

    def answer_file(self, headers):
        body, status = self.server.content, 200
        if match := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), int(match[2] or len(body) - 1)
            headers = headers | {"Content-Range": f"bytes {first}-{last}/{len(body)}"}
            body, status = body[first : last + 1], 206
        if self.command == "GET" and self.server.cut_after and len(body) > self.server.cut_after:
            cut, self.server.cut_after = self.server.cut_after, 0
            self.start(status, headers | {"Content-Length": str(len(body)), "Connection": "close"})
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        self.answer(status, body, headers)

    def answer_json(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status, body=b"", headers=None):
        self.start(status, {"Content-Length": str(len(body)), "Accept-Ranges": "bytes"} | (headers or {}))
        if self.command != "HEAD":
            self.wfile.write(body)

    def start(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.down, server.content, server.cut_after = [], set(), CONTENT, 0
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", address)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_file_arrives_whole_and_is_not_fetched_twice(hub, tmp_path, name):
    assert fetch(["dpo"], tmp_path, name) == {FILE: {"bytes": len(CONTENT), "sha256": SHA256, "hub": name}}
    assert (tmp_path / FILE).read_bytes() == CONTENT
    hub.seen.clear()
    hub.content = b"must not be asked for"
    fetch(["dpo"], tmp_path, name)
    assert (tmp_path / FILE).read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_an_interrupted_file_goes_on_from_where_it_was(hub, tmp_path, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # it keeps whole chunks
    hub.cut_after = 40_000
    try:
        fetch(["dpo"], tmp_path, name)
    except UserError:
        fetch(["dpo"], tmp_path, name)
    assert (tmp_path / FILE).read_bytes() == CONTENT
    resumed = [re.search(r"bytes=(\d+)-", line) for line in hub.seen if line.startswith("GET")]
    assert any(match and int(match[1]) > 0 for match in resumed)


def test_the_other_hub_is_asked_where_one_fails(hub, tmp_path, capsys):
    hub.down = {"huggingface"}
    assert fetch(["dpo"], tmp_path)[FILE]["hub"] == "modelscope"
    assert (tmp_path / FILE).read_bytes() == CONTENT
    assert "trying modelscope" in capsys.readouterr().err.replace("\n", " ")


def test_where_no_hub_answers_both_reasons_are_said(hub, tmp_path):
    hub.down = {"huggingface", "modelscope"}
    with pytest.raises(UserError, match=r"dpo\.jsonl could not be fetched \(huggingface: .*; modelscope: .*\)"):
        fetch(["dpo"], tmp_path)
    assert not (tmp_path / FILE).exists()


def test_a_hub_without_the_file(hub, tmp_path):
    with pytest.raises(UserError, match=r"gongjy/minimind_dataset has no rlaif\.jsonl.*--hub"):
        fetch(["rlaif"], tmp_path, "modelscope")


def test_damaged_content_is_not_kept(hub, tmp_path):
    hub.content = CONTENT[:-2] + b"!\n"
    with pytest.raises(UserError, match="arrived damaged"):
        fetch(["dpo"], tmp_path, "huggingface")
    assert not (tmp_path / FILE).exists()


def test_the_command(hub, tmp_path, capsys):
    assert main(["data", "download", "--name", "dpo", "--out", str(tmp_path), "--json"]) == 0
    files = json.loads(capsys.readouterr().out.splitlines()[-1])["files"]
    assert files == {FILE: {"bytes": len(CONTENT), "sha256": SHA256, "hub": "huggingface"}}


def test_names():
    assert CORPORA["mini"] == ("pretrain_t2t_mini.jsonl", "sft_t2t_mini.jsonl")
    assert len(CORPORA["all"]) == len(set(CORPORA["all"])) == 8
    with pytest.raises(UsageError, match="did you mean 'mini'"):
        fetch(["mimi"], None)


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        fetch(["dpo"], tmp_path / "file")
