"""A gateway with some weeks behind it, and a browser that reports whatever goes wrong in it."""

import os
import pathlib
import time

import books
import pytest
from gateway import ADMIN_KEY, LOGGING, PASSWORD, Gateway
from playwright.sync_api import sync_playwright

HERE = pathlib.Path(__file__).resolve().parent
ROWS, DAYS = 40_000, 60


def make_user(gateway, name, quota):
    """A user with a password, a permission, a limit and a quota; his key."""
    gateway.make("users", name=name, password=PASSWORD)
    gateway.make("permissions", user_name=name, model_pattern="*")
    gateway.make("rate_limits", user_name=name, model_pattern="*", rpm=1000)
    gateway.make("quotas", user_name=name, quota=quota)
    return gateway.make("user_keys", user_name=name)["api_key"]


@pytest.fixture(scope="session")
def gateway(tmp_path_factory):
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), os.environ["GPROXY_BIN"], LOGGING)
    gateway.start()
    assert gateway.stop() == 0
    books.fill(gateway.folder / "data" / "gproxy.db", ROWS, DAYS, int(time.time() * 1000))
    gateway.start()
    yield gateway
    assert gateway.process.poll() is None, "the gateway has died"
    assert gateway.stop() == 0


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """A page of the console, and all that its browser complained of."""

    def __init__(self, page, gateway):
        self.page = page
        self.gateway = gateway
        self.errors = []
        self.hosts = set()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self.hear)
        page.on("request", lambda request: self.hosts.add("/".join(request.url.split("/")[:3])))
        page.set_default_timeout(10_000)

    def hear(self, message):
        # A refusal that a page shows is no mistake of the page.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def sign_in(self, key=None, name=None):
        self.page.goto(self.gateway.console)
        if name:
            self.page.get_by_label("User name").fill(name)
            self.page.get_by_label("Password").fill(PASSWORD)
        else:
            self.page.get_by_role("button", name="Use a key").click()
            self.page.get_by_label("Key").fill(key or ADMIN_KEY)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("heading", name="Overview").wait_for()

    def open(self, address, heading):
        """Opens `#/ADDRESS` and waits until it is there."""
        self.page.goto(f"{self.gateway.console}#/{address}")
        self.page.get_by_role("heading", level=1, name=heading).wait_for()
        self.page.wait_for_load_state("networkidle")


@pytest.fixture
def visit(gateway, browser):
    """Makes visitors, each with cookies of his own; afterwards asks what their browsers say."""
    made = []

    def visit(**more):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **more)
        made.append((context, Visitor(context.new_page(), gateway)))
        return made[-1][1]

    yield visit
    for context, visitor in made:
        context.close()
    for _, visitor in made:
        assert visitor.errors == []
        assert visitor.hosts <= {gateway.base}
