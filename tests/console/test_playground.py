"""What the playground says of a call whose upstream has ids of its own, and of one without a row."""

import http.server
import json
import re
import threading

import pytest
from gateway import ADMIN_KEY
from playwright.sync_api import expect

CHAT = [
    {"choices": [{"index": 0, "delta": {"content": "Hello."}}]},
    {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 11}},
    "[DONE]",
]
MESSAGES = [
    {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 7}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello."}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 11}},
    {"type": "message_stop"},
]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as a vendor does: a stream, and an id of its own."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        is_chat = self.path.endswith("/chat/completions")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("x-request-id" if is_chat else "request-id", "req_of_the_vendor")
        self.end_headers()
        for event in CHAT if is_chat else MESSAGES:
            if isinstance(event, str):
                text = f"data: {event}\n\n"
            else:
                name = f"event: {event['type']}\n" if "type" in event else ""
                text = f"{name}data: {json.dumps(event)}\n\n"
            self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def vendor():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def call(visitor, dialect, model):
    visitor.open("overview", "Overview")
    visitor.open("playground", "Playground")
    page = visitor.page
    page.get_by_label("Key").fill(ADMIN_KEY)
    page.get_by_label("Dialect").select_option(dialect)
    page.get_by_label("Model or alias").fill(model)
    page.get_by_role("button", name="Send").click()


def test_the_receipt_is_found_where_the_upstream_has_an_id_of_its_own(gateway, visit, vendor):
    settings = {"base_url": vendor, "dialects": ["openai_chat", "anthropic"]}
    credentials = [{"api_key": "upstream-credential-91c0"}]
    gateway.make(
        "providers", name="vendor", channel="custom", settings=settings, credentials=credentials
    )
    visitor = visit()
    visitor.sign_in()
    page = visitor.page
    for dialect in ["openai_chat", "anthropic"]:
        call(visitor, dialect, "vendor/m")
        expect(page.locator(".answer")).to_have_text("Hello.")
        page.get_by_role("tab", name="Head").click()
        expect(page.get_by_text("req_of_the_vendor")).to_be_visible()
        page.get_by_role("tab", name="Receipt").click()
        expect(page.get_by_role("row", name=re.compile("^Output"))).to_contain_text("11")
        page.get_by_role("link", name=re.compile("^Request ")).click()
        expect(page.get_by_role("heading", name="Tokens and cost")).to_be_visible()


def test_a_call_that_has_no_row_is_told_what_that_may_mean(gateway, visit):
    visitor = visit()
    visitor.sign_in()
    call(visitor, "openai_chat", "no-such-alias")
    page = visitor.page
    page.get_by_role("tab", name="Receipt").click()
    expect(page.get_by_text("No row of it was found")).to_be_visible()
    page.get_by_role("link", name=re.compile("^Request ")).click()
    expect(page.get_by_text(re.compile("provider prefix missing")).first).to_be_visible()
