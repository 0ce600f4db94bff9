"""The page of one request: what was decided, its attempts, its logs, and a command that repeats it."""

from conftest import ADMIN_KEY, make_user
from playwright.sync_api import expect
from test_pages import SHOTS, audit


def open_request(visitor, row):
    visitor.open(f"requests/{row['request_id']}", "Request")
    return visitor.page.locator("main")


def panel(main, title):
    heading = main.page.get_by_role("heading", name=title, exact=True)
    return main.locator("section.panel", has=heading)


def test_attempts_and_logs_of_a_request_that_failed_are_told(gateway, visit):
    told = gateway.chat(ADMIN_KEY, "broken/lost", {"user-agent": "agent/7"})
    assert told[0] == 502
    row = gateway.newest_row("model=broken/lost")
    visitor = visit()
    visitor.sign_in()
    page = open_request(visitor, row)
    expect(panel(page, "What happened")).to_contain_text("agent/7")
    decided = panel(page, "What would be decided now")
    expect(decided).to_contain_text("http://127.0.0.1:9/v1/chat/completions")
    expect(decided).to_contain_text("would be served")
    expect(panel(page, "Attempts")).to_contain_text("Connect")
    expect(panel(page, "Timings").locator(".waterfall li").first).to_contain_text("broken")
    log = panel(page, "Its log")
    log.locator("summary", has_text="Fields of the request").click()
    expect(log).to_contain_text("authorization: ***")
    log.locator("summary", has_text="Body of the request").click()
    expect(log).to_contain_text("Say hello.")
    closed = page.locator("details:not([open]) > summary")
    while closed.count():
        closed.first.click()
    assert audit(page.page) == []
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 1280
    SHOTS.mkdir(exist_ok=True)
    page.page.screenshot(path=SHOTS / "story-desktop-light.png", full_page=True)
    command = page.page.get_by_label("A command that calls again").inner_text()
    assert "/v1/chat/completions" in command and "Say hello." in command
    assert ADMIN_KEY not in page.page.content()


def test_a_user_sees_the_log_of_his_request_and_nothing_of_the_upstream(gateway, visit):
    key = make_user(gateway, "kim", "5")
    assert gateway.chat(key, "broken/other")[0] == 502
    row = gateway.newest_row("user_name=kim")
    visitor = visit()
    visitor.sign_in(name="kim")
    page = open_request(visitor, row)
    expect(panel(page, "Its log")).to_contain_text("/v1/chat/completions")
    expect(panel(page, "Attempts")).to_have_count(0)
    assert "127.0.0.1:9/" not in page.page.content()
    visitor.open("requests/0123", "Request")
    expect(visitor.page.locator("main")).to_contain_text("It is not in the books")
