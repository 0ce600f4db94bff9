"""What is left of a stream that broke off, on the page of its request."""

import http.client
import json
import socket
import threading

import pytest
from conftest import ADMIN_KEY
from playwright.sync_api import expect

BEGUN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 1000\r\n\r\n"
    b'data: {"object":"chat.completion.chunk","content":"a secret"}\n\n'
)


def answer_once(upstream):
    with upstream.accept()[0] as peer:
        peer.recv(65_536)
        peer.sendall(BEGUN)


def test_the_last_bytes_of_a_stream_that_broke_off_are_seen_without_what_was_said(gateway, visit):
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        threading.Thread(target=answer_once, args=[upstream], daemon=True).start()
        base_url = f"http://127.0.0.1:{upstream.getsockname()[1]}"
        gateway.make("providers", name="breaking", channel="custom",
                     settings={"base_url": base_url, "dialects": ["openai_chat"]})
        call = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        body = json.dumps({"model": "breaking/m", "stream": True, "messages": []})
        fields = {"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"}
        call.request("POST", "/v1/chat/completions", body, fields)
        with pytest.raises(http.client.IncompleteRead):
            call.getresponse().read()
    row = gateway.newest_row("provider_name=breaking")
    visitor = visit()
    visitor.sign_in()
    visitor.open(f"requests/{row['request_id']}", "Request")
    heading = visitor.page.get_by_role("heading", name="The last bytes of its stream")
    page = visitor.page.locator("section.panel", has=heading)
    expect(page).to_contain_text('"object":"chat.completion.chunk","content":<10 bytes>')
    expect(page).not_to_contain_text("a secret")
