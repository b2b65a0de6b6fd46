"""The looking-glass on the network: its page, its rooms, and who may ask."""

from importlib.resources import files

import httpx
import pytest
from conftest import serving

from minimind.errors import UserError
from minimind.serve.service import Service


class Echo:
    page = files("minimind.inspect") / "page"

    def answer(self, room, asked):
        if room == "cellar":
            raise UserError("there is no room 'cellar' here")
        return {"room": room, **asked}


@pytest.fixture
def client(model, tokenizer, monkeypatch):
    plain = Service.__init__
    monkeypatch.setattr(Service, "__init__", lambda self, settings, tok: plain(self, settings, tok, Echo()))
    with serving(None, tokenizer, api_key="secret") as (url, _), httpx.Client(base_url=url) as client:
        yield client


def test_page_rooms_and_key(client):
    page = client.get("/inspect")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/inspect/page/index.html").content == page.content
    assert client.get("/inspect/page/nothing.js").status_code == 404
    assert client.post("/inspect/lens", json={"text": "x"}).status_code == 401
    client.headers["authorization"] = "Bearer secret"
    assert client.post("/inspect/lens", json={"text": "x"}).json() == {"room": "lens", "text": "x"}
    wrong = client.post("/inspect/cellar", json={})
    assert wrong.status_code == 400
    assert "cellar" in wrong.json()["error"]["message"]
    for body in ("{", "[]"):
        answer = client.post("/inspect/lens", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, body


def test_a_server_without_one_has_no_page(url):
    assert httpx.get(f"{url}/inspect").status_code == 404
