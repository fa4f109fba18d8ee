"""A small server in this process that speaks OpenAI's chat form, and fails as it is told to."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Response = tuple[int, str, dict[str, str]]
Asked = list[tuple[str, dict[str, str], dict[str, Any]]]


def make_completion(text: str | None, finish: str = "stop") -> Response:
    """The response that holds a completion."""
    return 200, json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}]}), {}


@contextmanager
def serving(respond: Callable[[dict[str, Any]], Response | None]) -> Iterator[tuple[str, Asked]]:
    """Serves what `respond` makes of each request's body, and hangs up where that is None.

    Yields the address, and a list that grows by path, headers and body of each request.
    """
    asked: Asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, dict(self.headers), body))
            response = respond(body)
            if response is None:
                return
            status, text, headers = response
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                self.send_header(name, value)
            with suppress(ConnectionError):  # whoever asked is gone
                self.end_headers()
                self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128  # of the usual 5, some that ask at once would ask again after a second

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
