"""Every page: pictures of it to be looked at, and what axe says of it."""

import re

import pytest
from conftest import HERE, make_user

SHOTS = HERE / ".shots"
AXE = HERE / "node_modules" / "axe-core" / "axe.min.js"
SIZES = {"desktop": (1280, 900), "phone": (360, 780)}

# Name, address, heading.
PAGES = [
    ("overview", "overview?span=30d&by=user&measure=cost", "Overview"),
    ("latency", "overview?span=7d&by=provider&measure=first_byte", "Overview"),
    ("requests", "requests?status_min=400&status_max=999", "Requests"),
    ("request", "requests/{request}", "Request"),
    ("playground", "playground", "Playground"),
    ("users", "users", "Users"),
    ("user", "users/hal", "User hal"),
    ("permissions", "permissions", "Permissions"),
    ("limits", "limits", "Rate limits"),
    ("quotas", "quotas", "Quotas"),
    ("providers", "providers", "Providers"),
    ("models", "models", "Models"),
    ("settings", "settings", "Settings"),
    ("me", "me", "Yours"),
]
# Of those who are no administrators.
OWN_PAGES = [
    ("overview", "overview?span=24h&by=model&measure=requests", "Overview"),
    ("requests", "requests", "Requests"),
    ("request", "requests/{request}", "Request"),
    ("playground", "playground", "Playground"),
    ("me", "me", "Yours"),
]


@pytest.fixture(scope="module")
def request_id(gateway):
    """The id of a request; there are also users with quotas, spent to different parts."""
    for name, quota in [("hal", "1"), ("ida", "0.5"), ("jan", "10")]:
        key = make_user(gateway, name, quota)
        gateway.chat(key, "openai-main/paid")
        gateway.newest_row(f"user_name={name}")
    return gateway.newest_row("user_name=hal")["request_id"]


def audit(page):
    """What axe finds that is serious."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{one['id']}: {node['target']}: {node['failureSummary']}"
        for one in found["violations"] if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_page_fits_and_axe_finds_nothing_serious(gateway, visit, request_id, size, scheme):
    SHOTS.mkdir(exist_ok=True)
    width, height = SIZES[size]
    visitor = visit(color_scheme=scheme)
    page = visitor.page
    page.set_viewport_size({"width": width, "height": height})
    page.goto(gateway.console)
    page.get_by_label("User name").wait_for()
    found = {"sign-in": audit(page)}
    page.screenshot(path=SHOTS / f"sign-in-{size}-{scheme}.png")
    visitor.sign_in()
    look_at(visitor, PAGES, request_id, found, f"{size}-{scheme}")
    assert {name: said for name, said in found.items() if said} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_a_users_own_pages_fit_and_axe_finds_nothing_serious(
    gateway, visit, request_id, size, scheme
):
    visitor = visit(color_scheme=scheme)
    width, height = SIZES[size]
    visitor.page.set_viewport_size({"width": width, "height": height})
    visitor.sign_in(name="hal")
    own = gateway.newest_row("user_name=hal")["request_id"]
    found = {}
    look_at(visitor, OWN_PAGES, own, found, f"user-{size}-{scheme}")
    assert {name: said for name, said in found.items() if said} == {}


def look_at(visitor, pages, request_id, found, name_of_shot):
    """Opens each page, asks axe, takes its picture."""
    page = visitor.page
    width = page.viewport_size["width"]
    for name, address, heading in pages:
        visitor.open(address.format(request=request_id), re.compile(f"^{heading}"))
        page.mouse.move(0, 0)
        found[name] = audit(page)
        page.screenshot(path=SHOTS / f"{name}-{name_of_shot}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
