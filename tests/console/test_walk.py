"""What an administrator and a user do in the console, from signing in to a spent quota."""

import re
import urllib.parse

from conftest import make_user
from gateway import ADMIN_KEY, PASSWORD
from playwright.sync_api import expect


def test_a_wrong_key_is_told_and_a_right_one_opens_the_console(gateway, visit):
    visitor = visit()
    page = visitor.page
    page.goto(gateway.console)
    page.get_by_role("button", name="Use a key").click()
    page.get_by_label("Key").fill("sk-wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("do not go together")
    page.get_by_label("Key").fill(ADMIN_KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page.get_by_label("User name")).to_be_visible()


def test_signing_out_everywhere_ends_the_other_browsers_session(gateway, visit):
    make_user(gateway, "dora", "1")
    one, other = visit(), visit()
    for visitor in [one, other]:
        visitor.sign_in(name="dora")
    one.page.get_by_role("button", name="Sign out everywhere").click()
    expect(one.page.get_by_label("User name")).to_be_visible()
    other.page.goto(f"{gateway.console}#/requests")
    expect(other.page.get_by_label("User name")).to_be_visible()


def make(page, one, **fields):
    """Makes a row through its dialog."""
    page.get_by_role("button", name=f"New {one}", exact=True).click()
    dialog = page.get_by_role("dialog")
    for label, value in fields.items():
        dialog.get_by_label(label.replace("_", " ")).fill(value)
    dialog.get_by_role("button", name="Make it").click()
    return dialog


CLAUDE = ["Anthropic, JavaScript", "Claude Code"]


def make_erin(page):
    """A user with a permission, a limit, a quota and a key, all by hand; his key."""
    make(page, "user", Name="erin", Password="short")
    expect(page.get_by_role("dialog").locator(".mistake:visible")).to_have_count(1)
    page.get_by_role("dialog").get_by_label("Password").fill(PASSWORD)
    page.get_by_role("dialog").get_by_role("button", name="Make it").click()
    page.get_by_role("heading", name="User erin").wait_for()
    for one, fields in [
        ("permission", {"Models": "*"}), ("rate limit", {"Requests_in_a_minute": "1000"}),
        ("quota", {"USD": "0.50"}),
    ]:
        expect(make(page, one, **fields)).to_have_count(0)
    make(page, "key", Label="laptop")
    key = page.get_by_label("The new key").inner_text().strip()
    assert key.startswith("sk-gp-")
    for way in ["OpenAI, Python", "Anthropic, JavaScript", "Claude Code", "Open WebUI"]:
        page.get_by_role("tab", name=way).click()
        lines = page.get_by_label(way, exact=True).and_(page.locator("pre"))
        expect(lines).to_contain_text(key)
        # Models that there are and that he may call.
        model = "anthropic-main/claude-sonnet-4-5" if way in CLAUDE else "chat-default"
        if way != "Open WebUI":
            expect(lines).to_contain_text(model)
    page.get_by_role("button", name="Close").click()
    expect(page.locator("dialog")).to_have_count(0)
    assert key not in page.content()
    return key


def test_a_user_made_by_hand_calls_spends_his_quota_is_topped_up_and_calls_again(gateway, visit):
    visitor = visit()
    visitor.sign_in()
    page = visitor.page
    visitor.open("users", "Users")
    key = make_erin(page)
    visitor.open("permissions", "Permissions")
    page.get_by_label("User", exact=False).first.fill("erin")
    page.get_by_label("Model", exact=False).first.fill("openai-main/paid")
    page.get_by_role("button", name="Ask").first.click()
    expect(page.locator("main")).to_contain_text("models * (erin::*, made here)")

    assert gateway.chat(key, "openai-main/paid")[0] == 200
    assert gateway.chat(key, "openai-main/paid")[0] == 402
    gateway.newest_row("user_name=erin")
    visitor.open("requests?user_name=erin", "Requests")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("402 refused")
    expect(rows.nth(1)).to_contain_text("$0.40")

    rows.nth(0).get_by_role("link").first.click()
    told = page.get_by_text(re.compile("quota_exceeded: 0.4 USD used")).first
    expect(told).to_be_visible()
    page.go_back()
    page.locator("tbody tr").nth(1).get_by_role("link").first.click()
    expect(page.get_by_role("heading", name="Timings")).to_be_visible()
    expect(page.get_by_text("0.4 USD", exact=True)).to_be_visible()
    curl = page.get_by_label("A command that calls again")
    expect(curl).to_contain_text("$GPROXY_KEY")
    assert key not in page.content()

    visitor.open("quotas", "Quotas")
    row = page.get_by_role("row").filter(has_text="erin")
    expect(row).to_contain_text("$0.40 of $0.50")
    row.get_by_role("button", name="Top up").click()
    page.get_by_role("dialog").get_by_label("USD").fill("1")
    page.get_by_role("dialog").get_by_role("button", name="Top up").click()
    expect(page.get_by_role("row").filter(has_text="erin")).to_contain_text("of $1.50")
    assert gateway.chat(key, "openai-main/topped-up")[0] == 200
    gateway.newest_row("user_name=erin&model=openai-main/topped-up")
    visitor.open("requests?user_name=erin&status_max=399", "Requests")
    expect(page.locator("tbody tr")).to_have_count(2)


def test_the_filters_of_requests_are_what_the_interface_finds(gateway, visit):
    visitor = visit()
    visitor.sign_in()
    page = visitor.page
    visitor.open("requests", "Requests")
    page.get_by_label("User", exact=True).fill("carol")
    page.get_by_label("Model, * for any text").fill("claude*")
    page.get_by_label("Status").select_option("400 and above")
    page.get_by_role("button", name="Search").click()
    expect(page).to_have_url(re.compile("user_name=carol.*status_min=400"))
    query = "user_name=carol&model=claude*&status_min=400&status_max=999&limit=50"
    found = gateway.call("GET", f"/admin/api/usage?{query}")[1]["items"]
    assert found
    expect(page.locator("tbody tr")).to_have_count(len(found))
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("tbody tr")).not_to_have_count(len(found))
    page.get_by_role("button", name="More").click()
    expect(page.locator("tbody tr").nth(80)).to_be_visible()


def test_the_overview_tells_the_sums_and_new_requests_come_by_themselves(gateway, visit):
    visitor = visit()
    visitor.sign_in()
    page = visitor.page
    visitor.open("overview?span=30d&by=user&measure=requests", "Overview")
    spender = page.locator("section", has_text="Who spends").locator("tbody tr").first
    sums = gateway.call("GET", "/admin/api/usage/sums?by=user")[1]["items"]
    most = max(sums, key=lambda one: float(one["cost"]))["user"]
    expect(spender).to_contain_text(most)
    page.get_by_text("As a table of 30 rows").click()
    expect(page.get_by_role("region").locator("tbody tr")).to_have_count(30)
    page.get_by_role("link", name=re.compile("^First byte")).click()
    expect(page.get_by_role("img", name=re.compile("First byte by user"))).to_be_visible()

    gateway.chat(ADMIN_KEY, "openai-main/just-now")
    expect(page.locator("section", has_text="Halt")).to_contain_text("openai-main/just-now")


def test_the_playground_streams_each_dialect_and_shows_its_receipt(gateway, visit):
    visitor = visit()
    visitor.sign_in()
    page = visitor.page
    for dialect, model in [
        ("openai_chat", "openai-main/gpt-4.1"), ("openai_responses", "openai-main/gpt-4.1"),
        ("anthropic", "anthropic-main/claude-sonnet-4-5"),
        ("gemini", "vertex-main/gemini-2.5-flash"),
    ]:
        visitor.open("playground", "Playground")
        page.get_by_label("Key").fill(ADMIN_KEY)
        page.get_by_label("Dialect").select_option(dialect)
        page.get_by_label("Model or alias").fill(model)
        page.get_by_label("What you say").fill("Say these words again.")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".answer")).to_have_text("Say these words again.")
        page.get_by_role("tab", name="Events").click()
        expect(page.locator(".events li").nth(2)).to_be_visible()
        page.get_by_role("tab", name="Receipt").click()
        expect(page.get_by_role("row", name=re.compile("^Output"))).to_be_visible()
        page.get_by_role("link", name=re.compile("^Request ")).click()
        expect(page.get_by_role("heading", name="Tokens and cost")).to_be_visible()
        visitor.open("overview", "Overview")


def test_a_user_sees_his_own_and_reaches_nothing_of_others_by_any_url(gateway, visit):
    frank, grace = make_user(gateway, "frank", "9"), make_user(gateway, "grace", "9")
    gateway.chat(frank, "openai-main/of-frank")
    gateway.chat(grace, "openai-main/of-grace")
    gateway.chat(grace, "no-such-alias-of-grace")
    row = gateway.newest_row("user_name=grace")
    visitor = visit()
    visitor.sign_in(name="frank")
    page = visitor.page
    expect(page.locator("nav")).not_to_contain_text("Users")
    visitor.open("me", "Yours, frank")
    expect(page.locator("main")).to_contain_text("of $9.00")
    expect(make(page, "key", Label="of frank's own").get_by_label("The new key")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    for address in [
        "overview", "overview?by=user", "requests", "requests?user_name=grace",
        f"requests/{row['request_id']}", "playground", "users/grace", "settings", "quotas",
    ]:
        page.goto(f"{gateway.console}#/{address}")
        page.reload()
        page.wait_for_load_state("networkidle")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert "grace" not in page.locator("main").inner_text().replace("grace'", ""), address
    visitor.open("requests", "Requests")
    expect(page.locator("tbody")).to_contain_text("openai-main/of-frank")
    # By the session's own cookie, past every page.
    paths = [
        f"/user/api/usage?request_id={row['request_id']}", "/user/api/usage?user_name=grace",
        "/admin/api/usage", "/admin/api/users", "/admin/api/refusals", "/user/api/refusals",
    ]
    for path in paths:
        told = page.evaluate("path => fetch(path).then((reply) => reply.text())", path)
        assert "grace" not in told, path


def test_no_path_of_the_interface_tells_a_user_of_another(gateway, visit):
    make_user(gateway, "mona", "9")
    ned = make_user(gateway, "ned-the-other", "9")
    gateway.chat(ned, "openai-main/of-ned")
    row = gateway.newest_row("user_name=ned-the-other")
    key = gateway.call("GET", "/admin/api/user_keys?user_name=ned-the-other")[1]["items"][0]["id"]
    names = [
        "ned-the-other", "ned-the-other::*", "ned-the-other:*", "ned-the-other:total", key,
        row["request_id"],
    ]
    visitor = visit()
    visitor.sign_in(name="mona")
    ask = """async ([method, path]) => {
        const session = await fetch("/user/api/session").then((reply) => reply.json());
        const headers = { "x-gproxy-csrf": session.csrf, "content-type": "application/json" };
        const body = method === "GET" || method === "DELETE" ? undefined : "{}";
        const reply = await fetch(path, { method, headers, body });
        return [reply.status, await reply.text()];
    }"""
    asked = 0
    for path, methods in gateway.call("GET", "/admin/api/openapi.json")[1]["paths"].items():
        for method in methods:
            # What ends her own session says nothing of others.
            if "session" in path:
                continue
            for name in names if "{id}" in path else [""]:
                target = path.replace("{id}", urllib.parse.quote(name, safe=""))
                status, text = visitor.page.evaluate(ask, [method.upper(), target])
                assert "of-ned" not in text and "ned-the-other" not in text, target
                if path.startswith("/admin"):
                    assert status == 403, (method, target, status)
                elif "{id}" in path:
                    assert status == 404, (method, target, status)
                asked += 1
    assert asked > 100
    still = gateway.call("GET", "/admin/api/user_keys?user_name=ned-the-other")[1]["items"]
    assert [one["id"] for one in still] == [key]


def test_the_keyboard_reaches_every_page_and_the_theme_is_kept(gateway, visit):
    visitor = visit(color_scheme="light")
    visitor.sign_in()
    page = visitor.page
    visitor.open("overview", "Overview")
    page.reload()
    page.get_by_role("heading", name="Overview").wait_for()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    link = page.get_by_role("link", name="Requests")
    link.first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Requests")).to_be_visible()

    color = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(color)
    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate(color)
    assert dark != light
    page.reload()
    page.get_by_role("heading", name="Requests").wait_for()
    assert page.evaluate(color) == dark
