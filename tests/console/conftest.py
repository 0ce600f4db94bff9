"""A gateway with some weeks behind it, and a browser that reports whatever goes wrong in it."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import books
import pytest
from playwright.sync_api import sync_playwright

HERE = pathlib.Path(__file__).resolve().parent
ADMIN_KEY = "sk-admin-1"
PASSWORD = "correct horse battery"
ROWS, DAYS = 40_000, 60

CONFIG = """
[global]
host = "127.0.0.1"
port = {port}
workers = 2
data_dir = "{folder}/data"

[[providers]]
name = "openai-main"
channel = "echo"
[[providers]]
name = "anthropic-main"
channel = "echo"
[[providers]]
name = "vertex-main"
channel = "echo"
[[providers]]
name = "broken"
channel = "custom"
credentials = [{{ api_key = "upstream-credential-5f2a" }}]
[providers.settings]
base_url = "http://127.0.0.1:9"
dialects = ["openai_chat"]

[[models]]
provider_name = "openai-main"
model_id = "gpt-4.1"
price_tiers = [{{ price_input_tokens = "2.00", price_output_tokens = "8.00" }}]
[[models]]
provider_name = "openai-main"
model_id = "paid"
price_each_call = "0.40"
[[models]]
provider_name = "anthropic-main"
model_id = "claude-sonnet-4-5"
[[models]]
provider_name = "vertex-main"
model_id = "gemini-2.5-flash"
[[model_aliases]]
alias = "chat-default"
provider_name = "openai-main"
model_id = "gpt-4.1"

[[users]]
name = "admin"
is_admin = true
[[users.keys]]
api_key = "sk-admin-1"
[[permissions]]
user_name = "admin"
model_pattern = "*"
"""


class Gateway:
    """A running gateway."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.base = f"http://127.0.0.1:{self.port}"
        self.console = f"{self.base}/console"
        (folder / "config.toml").write_text(CONFIG.format(port=self.port, folder=folder))
        self.process = None

    def start(self):
        log = open(self.folder / "stderr", "a")
        command = [os.environ["GPROXY_BIN"], "--config", self.folder / "config.toml"]
        self.process = subprocess.Popen(command, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.base}/healthz", timeout=5):
                    return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError((self.folder / "stderr").read_text()[-4000:])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)

    def call(self, method, path, body=None, key=ADMIN_KEY, headers=None):
        """A call with a key; status and JSON."""
        told = {"authorization": f"Bearer {key}", **(headers or {})}
        if body is not None:
            told["content-type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}{path}", data, told, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return reply.status, json.loads(reply.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def make(self, section, **fields):
        """Makes a row as an administrator."""
        status, made = self.call("POST", f"/admin/api/{section}", fields)
        assert status == 201, made
        return made

    def newest_row(self, query):
        """The newest row of the books that passes, once it is there: rows come in batches."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            items = self.call("GET", f"/admin/api/usage?limit=1&{query}")[1]["items"]
            if items:
                return items[0]
            time.sleep(0.02)
        raise AssertionError(f"no row for {query}")

    def chat(self, key, model, headers=None):
        body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}]}
        return self.call("POST", "/v1/chat/completions", body, key, headers)


def make_user(gateway, name, quota):
    """A user with a password, a permission, a limit and a quota; his key."""
    gateway.make("users", name=name, password=PASSWORD)
    gateway.make("permissions", user_name=name, model_pattern="*")
    gateway.make("rate_limits", user_name=name, model_pattern="*", rpm=1000)
    gateway.make("quotas", user_name=name, quota=quota)
    return gateway.make("user_keys", user_name=name)["api_key"]


@pytest.fixture(scope="session")
def gateway(tmp_path_factory):
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
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
