"""What the console says of the gateway itself, and what is set there."""

import re

from conftest import make_user
from playwright.sync_api import expect


def setting(gateway, name):
    items = gateway.call("GET", "/admin/api/settings")[1]["items"]
    return next((item["value"], item["from"]) for item in items if item["name"] == name)


def panel(page, heading):
    return page.locator("section", has=page.get_by_role("heading", name=heading, exact=True))


def test_a_changed_file_is_looked_at_before_it_counts(gateway, visit):
    file = gateway.folder / "config.toml"
    before = file.read_text()
    visitor = visit()
    visitor.sign_in()
    visitor.open("settings", "Settings")
    page = visitor.page
    look = page.get_by_role("button", name="What would reading it again change?")
    look.click()
    expect(panel(page, "The file")).to_contain_text("The file says nothing otherwise than before.")
    file.write_text(before.replace('"0.40"', '"0.40"\ndisplay_name = "Paid"', 1)
                    + '\n[[users]]\nname = "zoe"\n')
    look.click()
    rows = page.get_by_role("table", name="What would change").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.filter(has_text="zoe")).to_contain_text("added")
    paid = rows.filter(has_text="openai-main:paid")
    expect(paid).to_contain_text("display_name: unset → \"Paid\"")
    assert gateway.call("GET", "/admin/api/users/zoe")[0] == 404
    page.get_by_role("button", name="Read it and let it count").click()
    expect(page.get_by_role("table", name="What changed")).to_be_visible()
    assert gateway.call("GET", "/admin/api/users/zoe")[0] == 200

    file.write_text("[[users]]\nname = 7\n")
    look.click()
    expect(panel(page, "The file").get_by_role("alert")).to_contain_text("must be text")
    file.write_text(before)
    assert gateway.call("POST", "/admin/api/reload")[0] == 200


def test_a_switch_is_set_and_taken_back_and_less_is_kept_only_when_that_is_meant(gateway, visit):
    file = gateway.folder / "config.toml"
    before = file.read_text()
    visitor = visit()
    visitor.sign_in()
    visitor.open("settings", "Settings")
    page = visitor.page
    logs = panel(page, "Request logs")
    switch = logs.get_by_label("Log the requests of callers")
    expect(switch).to_be_disabled()
    expect(logs).to_contain_text("The file says so on line ")
    file.write_text(before.replace("enable_downstream_log = true", "", 1)
                    .replace("enable_downstream_log_body = true", "", 1))
    assert gateway.call("POST", "/admin/api/reload")[0] == 200
    visitor.open("users", "Users")
    visitor.open("settings", "Settings")
    switch.check()
    logs.get_by_role("button", name="Set").click()
    expect(page.get_by_role("status").get_by_text("It counts")).to_be_visible()
    assert setting(gateway, "global.enable_downstream_log") == (True, "database")
    gateway.call("PATCH", "/admin/api/settings", {"enable_downstream_log": None})
    file.write_text(before)
    assert gateway.call("POST", "/admin/api/reload")[0] == 200

    keeping = panel(page, "How long what is kept")
    days = keeping.get_by_label("Logged requests, days")
    days.fill("-4")
    keeping.get_by_role("button", name="Set").click()
    expect(keeping.locator(".mistake:visible")).to_have_count(1)
    days.fill("3")
    keeping.get_by_role("button", name="Set").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert setting(gateway, "ledger.log_days") == (7, "default")
    keeping.get_by_role("button", name="Set").click()
    page.get_by_role("dialog").get_by_role("button", name="Keep less").click()
    row = page.get_by_role("table", name="Settings in force").get_by_role("row")
    expect(row.filter(has_text="ledger.log_days")).to_contain_text("set here")
    assert setting(gateway, "ledger.log_days") == (3, "database")
    gateway.call("PATCH", "/admin/api/settings", {"log_days": None})


def test_the_books_are_checked_and_the_faults_are_told(gateway, visit):
    visitor = visit()
    visitor.sign_in()
    visitor.open("settings", "Settings")
    page = visitor.page
    books = panel(page, "Do the books add up?")
    books.get_by_role("button", name="Check the books").click()
    # The rows of the past that the test wrote are no chain.
    expect(books).to_contain_text("faults: ", timeout=60_000)
    expect(books).to_contain_text("was changed")


def test_a_key_with_an_end_and_a_network_is_made_and_a_mistake_stands_beside_its_field(
    gateway, visit
):
    make_user(gateway, "olga", "1")
    visitor = visit(timezone_id="America/New_York")
    visitor.sign_in()
    visitor.open("users/olga", "User olga")
    page = visitor.page
    page.get_by_role("button", name="New key", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Label").fill("office")
    dialog.get_by_label("It opens until").fill("2031-01-31T12:00")
    networks = dialog.get_by_label("It opens from")
    networks.fill("10.0.0.0/8\nnowhere")
    dialog.get_by_role("button", name="Make it").click()
    field = dialog.locator(".field", has=page.get_by_label("It opens from"))
    expect(field.locator(".mistake")).to_contain_text("must be a network")
    expect(networks).to_be_focused()
    networks.fill("10.0.0.0/8\n192.0.2.7")
    dialog.get_by_role("button", name="Make it").click()
    expect(dialog.get_by_label("The new key")).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    row = page.get_by_role("table", name="Keys").get_by_role("row").filter(has_text="office")
    expect(row).to_contain_text("31 Jan 2031, 12:00:00")
    expect(row).to_contain_text("10.0.0.0/8, 192.0.2.7")
    keys = gateway.call("GET", "/admin/api/user_keys?user_name=olga")[1]["items"]
    made = next(key for key in keys if key.get("label") == "office")
    assert made["expires_at"] == "2031-01-31T17:00:00Z"
    row.get_by_role("button", name="Change").click()
    expect(dialog.get_by_label("It opens until")).to_have_value(re.compile("^2031-01-31T12:00"))
    dialog.get_by_label("It opens until").fill("")
    dialog.get_by_role("button", name="Change it").click()
    expect(row).to_contain_text("any time")


def test_files_are_asked_for_apart_from_models(gateway, visit):
    make_user(gateway, "pia", "1")
    gateway.make("file_permissions", user_name="pia", provider_name="openai-main")
    visitor = visit()
    visitor.sign_in()
    visitor.open("permissions", "Permissions")
    page = visitor.page
    tester = panel(page, "May somebody use files and batches?")
    tester.get_by_label("User").fill("pia")
    for provider, answer in [
        ("openai-main", "files and batches at openai-main (pia:openai-main, made here)"),
        ("vertex-main", "none of the user's 1"),
    ]:
        tester.get_by_label("Provider").fill(provider)
        tester.get_by_role("button", name="Ask").click()
        expect(tester).to_contain_text(answer)
    page.get_by_label("Model", exact=False).first.fill("x")
    models = panel(page, "May somebody call a model?")
    models.get_by_label("User").fill("nobody-of-that-name")
    models.get_by_role("button", name="Ask").click()
    field = models.locator(".field", has=page.get_by_label("User"))
    expect(field.locator(".mistake")).to_contain_text("there is none of that name")
