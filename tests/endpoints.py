"""A chat endpoint of our own, which behaves well or badly as a test wants."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint:
    """An OpenAI-compatible server whose replies are what `reply(prompt)` returns: text, a message, a status, raw bytes.

    `prompt` is what the first turn says.
    """

    def __init__(self):
        self.reply = lambda prompt: ""
        self.requests = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append((self.path, dict(self.headers), body))
                reply = endpoint.reply(body["messages"][0]["content"] if body["messages"] else "")
                if isinstance(reply, str):
                    reply = {"role": "assistant", "content": reply}
                if isinstance(reply, dict):
                    finish = reply.pop("finish_reason", "stop")
                    reply = json.dumps({"choices": [{"message": reply, "finish_reason": finish}]}).encode()
                self.send_response(reply if isinstance(reply, int) else 200)
                self.end_headers()
                if isinstance(reply, bytes):
                    self.wfile.write(reply)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@contextmanager
def endpoint():
    """One that listens."""
    one = Endpoint()
    yield one
    one.server.shutdown()
    one.server.server_close()
