"""A running gateway, for tests and measurements of the console."""

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

ADMIN_KEY = "sk-admin-1"
LOGGING = """
enable_upstream_log = true
enable_upstream_log_body = true
enable_downstream_log = true
enable_downstream_log_body = true
"""
PASSWORD = "correct horse battery"

CONFIG = """
[global]
host = "127.0.0.1"
port = {port}
workers = 2
data_dir = "{folder}/data"
allow_private_upstreams = true
{logging}

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

    def __init__(self, folder, binary, logging=""):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.binary = binary
        self.base = f"http://127.0.0.1:{self.port}"
        self.console = f"{self.base}/console"
        config = CONFIG.format(port=self.port, folder=folder, logging=logging)
        (folder / "config.toml").write_text(config)
        self.process = None

    def start(self):
        log = open(self.folder / "stderr", "a")
        command = [self.binary, "--config", self.folder / "config.toml"]
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
