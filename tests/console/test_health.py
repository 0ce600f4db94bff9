"""A credential that its upstream denies: seen, tested and brought back in the console."""

import http.server
import threading

import pytest
from gateway import ADMIN_KEY
from playwright.sync_api import expect

ANSWERS = {401: b'{"error":{"message":"no such key"}}', 200: b'{"model":"m","data":[{"id":"m"}]}'}


class Upstream(http.server.ThreadingHTTPServer):
    """Answers everything with one status."""

    status = 401
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = ANSWERS[self.server.status]
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def upstream():
    with Upstream(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_denied_credential_is_seen_disabled_and_is_brought_back(gateway, visit, upstream):
    base = f"http://127.0.0.1:{upstream.server_port}"
    settings = {"base_url": base, "dialects": ["openai_chat"]}
    credentials = [{"api_key": "upstream-credential-77aa"}]
    gateway.make(
        "providers", name="denied", channel="custom", settings=settings, credentials=credentials
    )
    assert gateway.chat(ADMIN_KEY, "denied/m")[0] != 200
    visitor = visit()
    visitor.sign_in()
    visitor.open("providers", "Providers")
    page = visitor.page
    row = page.get_by_role("table", name="How credentials stand").get_by_role("row")
    row = row.filter(has_text="denied:")
    expect(row).to_contain_text("disabled")
    expect(row).to_contain_text("all models: denied, until it is cleared")

    row.get_by_role("button", name="Test call").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Call it").click()
    expect(dialog).to_contain_text("the upstream answered 401")
    expect(dialog).to_contain_text(f"GET {base}/")
    expect(dialog).to_contain_text("no such key")
    dialog.get_by_role("button", name="Close").click()

    upstream.status = 200
    row.get_by_role("button", name="Clear").click()
    expect(row.locator(".badge")).to_have_text("ok")
    assert gateway.chat(ADMIN_KEY, "denied/m")[0] == 200
    provider = page.get_by_role("table", name="All providers").get_by_role("row")
    provider.filter(has_text=base).get_by_role("button", name="Pull list").click()
    expect(dialog).to_contain_text("Models: 1, of them new: 1.")
    dialog.get_by_role("button", name="Close").click()

    row.get_by_role("button", name="Pause").click()
    expect(row.locator(".badge")).to_have_text("paused")
    row.get_by_role("button", name="Clear").click()
    expect(row.locator(".badge")).to_have_text("ok")


def test_a_credential_is_made_with_a_ceiling_that_is_shown_and_taken_back(gateway, visit, upstream):
    settings = {"base_url": f"http://127.0.0.1:{upstream.server_port}"}
    gateway.make("providers", name="bounded", channel="custom", settings=settings)
    visitor = visit()
    visitor.sign_in()
    visitor.open("providers", "Providers")
    page = visitor.page
    page.get_by_role("button", name="New credential", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Provider").fill("bounded")
    dialog.get_by_label("Key", exact=True).fill("upstream-credential-31d8")
    dialog.get_by_label("Side by side").fill("0")
    dialog.get_by_role("button", name="Make it").click()
    field = dialog.locator(".field", has=page.get_by_label("Side by side"))
    expect(field.locator(".mistake")).to_contain_text("must be from 1")
    dialog.get_by_label("Side by side").fill("40")
    dialog.get_by_role("button", name="Make it").click()
    row = page.get_by_role("table", name="Credentials", exact=True).get_by_role("row")
    row = row.filter(has_text="bounded")
    expect(row.get_by_role("cell").nth(5)).to_have_text("40")
    row.get_by_role("button", name="Change").click()
    dialog.get_by_label("Side by side").fill("")
    dialog.get_by_role("button", name="Change it").click()
    expect(row.get_by_role("cell").nth(5)).to_have_text("")


def test_it_is_told_whether_rows_reach_the_disk_and_what_happens_when_not(gateway, visit):
    file = gateway.folder / "config.toml"
    before = file.read_text()
    visitor = visit()
    visitor.sign_in()
    visitor.open("providers", "Providers")
    page = visitor.page
    books = page.locator("section", has=page.get_by_role("heading", name="Are the books written?"))
    expect(books).to_contain_text("they reach the disk")
    expect(books).to_contain_text("requests are refused")
    file.write_text(before + '\n[ledger]\nunbilled = "serve"\n')
    assert gateway.call("POST", "/admin/api/reload")[0] == 200
    page.get_by_role("button", name="Look again").click()
    expect(books).to_contain_text("requests are served, and charged to nobody")
    file.write_text(before)
    assert gateway.call("POST", "/admin/api/reload")[0] == 200
