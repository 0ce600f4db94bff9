"""Text of callers and upstreams stays text, whatever stands in it."""

from gateway import ADMIN_KEY
from playwright.sync_api import expect

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>'\"&lt;"


def test_a_model_a_user_agent_and_a_mistake_of_html_and_script_are_shown_as_they_are(
    gateway, visit
):
    user = f"<i>{HOSTILE}</i>"
    gateway.make("users", name=user)
    gateway.make("permissions", user_name=user, model_pattern="*")
    key = gateway.make("user_keys", user_name=user, label=HOSTILE)["api_key"]
    model = f"openai-main/{HOSTILE}".replace(" ", "/")
    assert gateway.chat(key, model, {"user-agent": HOSTILE})[0] == 200
    gateway.newest_row("model=*onerror*")
    told = gateway.chat(key, HOSTILE.replace(" ", "/"), {"user-agent": HOSTILE})
    assert told[0] == 400

    visitor = visit()
    page = visitor.page
    page.on("dialog", lambda dialog: visitor.errors.append(f"a dialog: {dialog.message}"))
    visitor.sign_in()
    for address in [
        "overview?by=user&measure=requests", "overview?by=model&measure=requests",
        "overview?by=model_served&measure=tokens", "users", "permissions", "settings", "requests",
    ]:
        visitor.open(address, address.split("?")[0].capitalize())
        expect(page.locator("main")).to_contain_text("onerror=alert(1)")
        assert page.locator("main img, main script, main i, nav img").count() == 0, address
    rows = page.locator("tbody tr", has_text="onerror")
    for place in [0, 1]:
        rows.nth(place).get_by_role("link").first.click()
        page.get_by_role("heading", level=1, name="Request ").wait_for()
        expect(page.locator("main")).to_contain_text("onerror=alert(1)")
        expect(page.locator("dt:text-is('User agent') + dd")).to_have_text(HOSTILE)
        for summary in page.locator("main summary").all():
            summary.click()
        assert page.locator("main img, main script, main i").count() == 0
        page.go_back()

    visitor.open("playground", "Playground")
    page.get_by_label("Key").fill(ADMIN_KEY)
    page.get_by_label("Model or alias").fill("openai-main/gpt-4.1")
    page.get_by_label("What you say").fill(HOSTILE)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".answer")).to_have_text(HOSTILE)
    assert page.locator("main img, main script").count() == 0


def test_a_command_to_copy_is_one_word_where_a_caller_named_the_model(gateway, visit):
    model = "openai-main/';touch${IFS}/tmp/owned;'"
    assert gateway.chat(ADMIN_KEY, model)[0] == 200
    row = gateway.newest_row("model=*owned*")
    visitor = visit()
    visitor.sign_in()
    visitor.open(f"requests/{row['request_id']}", "Request")
    command = visitor.page.get_by_label("A command that calls again").inner_text()
    assert "';touch" not in command.replace("'\\'';touch", "")
