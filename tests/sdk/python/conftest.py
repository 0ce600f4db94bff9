"""Addresses of the gateway and the upstream, and what the upstream saw."""

import importlib.util
import json
import os
import time
import urllib.request

import pytest

GATEWAY = os.environ["GATEWAY_URL"]
UPSTREAM = os.environ["UPSTREAM_URL"]
ADMIN_KEY = "sk-admin-1"
ALICE_KEY = "sk-alice-0123456789abcdef0123456789abcdef"
UPSTREAM_KEY = "upstream-credential-5f2a"

# Headers of a client that must never reach an upstream.
SECRET_HEADERS = ["cookie", "x-goog-api-key", "api-key", "x-api-key", "authorization"]

# An environment tests the clients that it has.
collect_ignore = [
    f"test_{name}.py" for name, module in [("anthropic", "anthropic"), ("openai", "openai")]
    if importlib.util.find_spec(module) is None
]


class Seen:
    """One request as the upstream saw it."""

    def __init__(self, raw):
        self.method, self.path, self.query = raw["method"], raw["path"], raw["query"]
        self.headers = {}
        for name, value in raw["headers"]:
            self.headers[name] = ", ".join(filter(None, [self.headers.get(name), value]))
        self.base64 = raw["base64"]
        self.body = json.loads(raw["body"]) if raw["body"][:1] in ("{", "[") else None


class Upstream:
    def call(self, method, path):
        request = urllib.request.Request(UPSTREAM + path, method=method)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)

    def seen(self):
        return [Seen(raw) for raw in self.call("GET", "/_seen")]

    def only(self):
        """The single request since the last `forget`."""
        seen = self.seen()
        assert len(seen) == 1, [request.path for request in seen]
        return seen[0]

    def forget(self, row=""):
        """From now on it plays this row of calls.json."""
        self.call("DELETE", f"/_seen?row={row}")

    def wait_for_request(self):
        self.wait_for(lambda: self.seen())

    def hung_up_at(self):
        return self.wait_for(lambda: self.call("GET", "/_hangups"))[-1]["at"]

    def wait_for(self, probe):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = probe()
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError("waited twenty seconds in vain")


@pytest.fixture
def upstream():
    control = Upstream()
    control.forget()
    return control


def check_upstream_request(seen, credential_header):
    """Our own credential and nothing of the client's; plain bytes asked for."""
    for name in SECRET_HEADERS:
        value = seen.headers.get(name)
        if name == credential_header:
            assert value.removeprefix("Bearer ") == UPSTREAM_KEY
        else:
            assert value is None, (name, value)
    assert seen.headers["accept-encoding"] == "identity"
    assert not [name for name in seen.headers if name.startswith("x-gproxy")]
    assert ADMIN_KEY not in json.dumps(seen.headers) + seen.query + seen.path


def quickest(times, measure):
    """The least of several measurements: a machine under load proves nothing by one."""
    return min(measure() for _ in range(times))
