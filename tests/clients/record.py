"""Writes what a client sends, a request of each form, for tests/serve/test_recorded.py: RECORD=1 make test-clients."""

import contextlib
import json
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HEADERS = ("accept", "accept-encoding", "authorization", "content-type", "user-agent", "x-client-name")


class Forwarder(BaseHTTPRequestHandler):
    """Passes a request on, and the answer back."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.forward(self.rfile.read(int(self.headers["content-length"])))

    def do_GET(self):
        self.forward(None)

    def forward(self, body):
        request = urllib.request.Request(self.server.target + self.path, body, dict(self.headers), method=self.command)
        del request.headers["Host"]
        try:
            answer = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            status, text, kind = answer.status, answer.read(), answer.headers["content-type"]
        if body is not None and status == 200:
            sent = json.loads(body)
            headers = {name: self.headers[name] for name in HEADERS if name in self.headers}
            form = json.dumps([self.path, {key: describe(value) for key, value in sent.items()}], sort_keys=True)
            self.server.records.setdefault(form, {"path": self.path, "headers": headers, "body": sent})
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def describe(value):
    """The form of a value: the type of a text or number, and what a list begins with."""
    if isinstance(value, list):
        return [describe(item) for item in value[:1]]
    return value if isinstance(value, bool) else type(value).__name__


@contextlib.contextmanager
def record(url, file):
    """Gives the address of a server that passes everything on to `url`, and writes what it saw to `file` at the end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Forwarder) as server:
        server.target, server.records = url, {}
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
    file.parent.mkdir(exist_ok=True)
    lines = [json.dumps(server.records[form], ensure_ascii=True) for form in sorted(server.records)]
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n")
