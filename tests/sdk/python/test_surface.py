"""Methods of the official clients do through the gateway what they do against the vendor.

Each row of calls.json is called three times: against the upstream itself, through a provider's scope
and for every provider at once. The client has to get the same, and the upstream has to see the same
request, but for the credential and what belongs to a connection.
"""

import base64
import functools
import importlib.util
import json
import pathlib
import re

import pytest
from google import genai
from google.genai import types

from conftest import ADMIN_KEY, GATEWAY, UPSTREAM, UPSTREAM_KEY, check_upstream_request

CALLS = json.loads((pathlib.Path(__file__).parent.parent / "calls.json").read_text())
MODEL = "m-1"
PROVIDERS = {"openai": "openai-main", "anthropic": "anthropic-main", "gemini": "vertex-main"}
CREDENTIALS = {"openai": "authorization", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}
FILE = bytes(range(256)) + b"\r\n--b\r\nname=\"model\"\r\n\r\n" * 50

# What is the connection's, or differs from call to call.
IGNORED = {"host", "connection", "accept-encoding", "content-length", "transfer-encoding",
           "authorization", "x-api-key", "x-goog-api-key", "idempotency-key", "cookie"}


@functools.cache
def client(family, base, key, provider=None):
    headers = {"x-gproxy-provider": provider} if provider else {}
    if family == "gemini":
        options = types.HttpOptions(base_url=base, timeout=20_000, headers=headers)
        return genai.Client(api_key=key, http_options=options)
    options = {"api_key": key, "max_retries": 0, "timeout": 20, "default_headers": headers}
    if family == "openai":
        import openai
        return openai.OpenAI(base_url=base + "/v1", **options)
    import anthropic
    return anthropic.Anthropic(base_url=base, **options)


def filled(value, model):
    match value:
        case {"$file": name}:
            return name, FILE, "application/octet-stream"
        case {"$operation": name}:
            return types.GenerateVideosOperation(name=name)
        case dict():
            return {key: filled(item, model) for key, item in value.items()}
        case list():
            return [filled(item, model) for item in value]
        case "$model":
            return model
    return value


def perform(one, row, model):
    method = one
    for name in row["call"].split("."):
        method = getattr(method, name)
    result = method(*filled(row.get("args", []), model), **filled(row.get("with", {}), model))
    is_list = {"pages", "events", "lines", "all"} & row.keys()
    return [plain(item) for item in result] if is_list else plain(result)


def plain(value):
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", warnings=False)
        return {name: item for name, item in value.items() if name != "sdk_http_response"}
    if hasattr(value, "read") and not isinstance(value, (str, bytes)):
        value = value.read()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def plain_request(seen):
    body = base64.b64decode(seen.base64)
    headers = {name: value for name, value in seen.headers.items() if name not in IGNORED}
    boundary = re.search(r"boundary=([^;]+)", headers.get("content-type", ""))
    if boundary:
        body = body.replace(boundary[1].strip('"').encode(), b"BOUNDARY")
        headers["content-type"] = "multipart/form-data"
    return seen.method, seen.path, seen.query, headers, body


# Some methods are said to go away, some to be new.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = [pytest.param(family, number, row, id=f"{family}-{number}-{row['call']}")
        for family, rows in CALLS.items() if importlib.util.find_spec(family) or family == "gemini"
        for number, row in enumerate(rows)]


@pytest.mark.parametrize("family,number,row", ROWS)
def test_a_method_does_what_it_does_against_the_vendor(upstream, family, number, row):
    def call(base, key, model, named=None):
        upstream.forget(f"{family}-{number}")
        one = client(family, base, key, named)
        told = json.dumps(perform(one, row, model))
        for address in [GATEWAY + "/" + provider, GATEWAY, UPSTREAM]:
            told = told.replace(address, "")
        # The name that was asked for comes back in the place of the dated one; where none was, the
        # dated one has its provider in front. So has the address of a batch's results.
        if named:
            dated = MODEL + "-2025-04-14"
            told = told.replace(f"{named}/{dated}", dated).replace(model, dated)
            told = told.replace(f"?x-gproxy-provider={named}", "")
        return json.loads(told), upstream.seen()

    provider = PROVIDERS[family]
    try:
        expected, direct = call(UPSTREAM, UPSTREAM_KEY, MODEL)
    except (AttributeError, TypeError, ValueError, NotImplementedError) as error:
        if not re.search("has no attribute|unexpected keyword|only supported", str(error)):
            raise
        pytest.skip("this client has no such method")
    method, path = row["asks"].replace("$model", MODEL).split(" ")
    assert direct[-1].method == method and direct[-1].path.endswith(path)
    for base, model, named in [
        (f"{GATEWAY}/{provider}", MODEL, None), (GATEWAY, f"{provider}/{MODEL}", provider),
    ]:
        result, seen = call(base, ADMIN_KEY, model, named)
        assert result == expected
        for one in seen:
            check_upstream_request(one, CREDENTIALS[family])
        assert [plain_request(one) for one in seen] == [plain_request(one) for one in direct]
