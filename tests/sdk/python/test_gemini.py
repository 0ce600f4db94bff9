"""The official Google Gen AI client in Python."""

import asyncio
import time

import pytest
from google import genai
from google.genai import errors, types

from conftest import ADMIN_KEY, ALICE_KEY, GATEWAY, check_upstream_request, quickest

FLASH = "gemini-1.5-flash"
DATED = FLASH + "-2025-04-14"
PREFIXED = "vertex-main/" + FLASH

# base URL, model asked, model served, model in the reply
ROWS = [
    ("", PREFIXED, FLASH, PREFIXED),
    ("", "models/" + PREFIXED, FLASH, PREFIXED),
    ("/vertex-main", FLASH, FLASH, DATED),
    ("", "gemini-default", FLASH, "gemini-default"),
    ("/vertex-main", "gemini-default", FLASH, "gemini-default"),
    ("", "router/vendor/model:free", "vendor/model:free", "router/vendor/model:free"),
]
rows = pytest.mark.parametrize("base,asked,served,replied", ROWS)


def client(base="", key=ADMIN_KEY, **more):
    options = types.HttpOptions(base_url=GATEWAY + base, timeout=20_000)
    return genai.Client(api_key=key, http_options=options, **more)


def is_path(path, model, verb):
    # Newer clients say v1 where older ones said v1beta; what the client said goes up.
    return path in (f"/v1/models/{model}:{verb}", f"/v1beta/models/{model}:{verb}")


@rows
def test_generate(upstream, base, asked, served, replied):
    one = client(base)
    reply = one.models.generate_content(model=asked, contents="Hello")
    assert (reply.model_version, reply.text) == (replied, "Hello wörld")
    assert reply.usage_metadata.total_token_count == 5
    seen = upstream.only()
    assert is_path(seen.path, served, "generateContent") and seen.query == ""
    check_upstream_request(seen, "x-goog-api-key")


@rows
def test_generate_streamed(upstream, base, asked, served, replied):
    one = client(base)
    chunks = list(one.models.generate_content_stream(model=asked, contents="Hello"))
    assert {chunk.model_version for chunk in chunks} == {replied}
    assert "".join(chunk.text for chunk in chunks) == "Hello wörld\u2028"
    seen = upstream.only()
    assert is_path(seen.path, served, "streamGenerateContent") and seen.query == "alt=sse"


@rows
def test_count_tokens(upstream, base, asked, served, replied):
    one = client(base)
    assert one.models.count_tokens(model=asked, contents="Hello").total_tokens == 3
    assert is_path(upstream.only().path, served, "countTokens")


@rows
def test_embeddings(upstream, base, asked, served, replied):
    one = client(base)
    reply = one.models.embed_content(model=asked, contents="Hello")
    assert reply.embeddings[0].values == [0.5, -0.25]
    seen = upstream.only()
    verbs = ["batchEmbedContents", "embedContent"]
    assert any(is_path(seen.path, served, verb) for verb in verbs)
    for request in (seen.body or {}).get("requests", []):
        assert request["model"] == "models/" + served


@pytest.mark.parametrize("version", ["v1", "v1beta"])
def test_the_version_that_the_client_chose_goes_up(upstream, version):
    options = types.HttpOptions(base_url=GATEWAY, api_version=version)
    one = genai.Client(api_key=ADMIN_KEY, http_options=options)
    one.models.generate_content(model=PREFIXED, contents="Hello")
    assert upstream.only().path == f"/{version}/models/{FLASH}:generateContent"


def test_vertex_mode_puts_the_provider_among_the_publishers(upstream):
    one = client(vertexai=True)
    reply = one.models.generate_content(model=PREFIXED, contents="Hello")
    assert reply.model_version == PREFIXED
    assert upstream.only().path.endswith(f"/models/{FLASH}:generateContent")


def test_async_whole_and_streamed(upstream):
    async def calls():
        one = client().aio
        whole = await one.models.generate_content(model=PREFIXED, contents="Hello")
        stream = await one.models.generate_content_stream(model=PREFIXED, contents="Hello")
        return whole, [chunk async for chunk in stream]

    whole, chunks = asyncio.run(calls())
    assert {whole.model_version, *(chunk.model_version for chunk in chunks)} == {PREFIXED}


@pytest.mark.parametrize("status,words,key,base,model", [
    (401, "unauthorized", "sk-wrong", "", PREFIXED),
    (400, "prefix", ADMIN_KEY, "", FLASH),
    (403, "forbidden: model", ALICE_KEY, "", PREFIXED),
    (404, "", ADMIN_KEY, "/nowhere", FLASH),
])
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_of_the_gateway_are_typed(upstream, status, words, key, base, model, stream):
    one = client(base, key)
    call = one.models.generate_content_stream if stream else one.models.generate_content
    with pytest.raises(errors.ClientError) as caught:
        reply = call(model=model, contents="Hello")
        list(reply)
    assert caught.value.code == status
    assert words in caught.value.message
    assert caught.value.status.isupper()
    assert upstream.seen() == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503, 529])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_upstream_pass_unchanged(upstream, status, stream):
    one = client()
    call = one.models.generate_content_stream if stream else one.models.generate_content
    with pytest.raises(errors.ClientError if status < 500 else errors.ServerError) as caught:
        list(call(model=f"vertex-main/status-{status}", contents="Hello"))
    error = caught.value
    assert (error.code, error.message) == (status, f"the upstream says {status}")
    upstream.only()


def test_a_stream_that_dies_raises(upstream):
    one = client()
    with pytest.raises(Exception) as caught:
        for chunk in one.models.generate_content_stream(model="vertex-main/dies", contents="x"):
            assert chunk.model_version == "vertex-main/dies"
    assert not isinstance(caught.value, AssertionError)


def test_leaving_a_stream_is_seen_by_the_upstream_within_a_second(upstream):
    async def leave():
        one = client().aio
        stream = await one.models.generate_content_stream(
            model="vertex-main/hangs", contents="Hello")
        await anext(stream)
        left = time.time()
        await stream.aclose()
        await one.aclose()
        return left

    def measure():
        upstream.forget()
        left = asyncio.run(leave())
        return upstream.hung_up_at() - left

    assert quickest(3, measure) < 1.0


def test_models_are_listed_page_by_page(upstream):
    one, scoped = client(), client("/vertex-main")
    pager = one.models.list(config={"page_size": 2})
    assert len(pager) == 2
    assert [model.name for model in pager] == [
        "models/openai-main/gpt-4.1-mini", "models/anthropic-main/claude-3-5-sonnet-latest",
        "models/vertex-main/gemini-1.5-flash", "models/router/meta-llama/llama-3-70b:free",
        "models/chat-default", "models/claude-default", "models/gemini-default",
    ]
    assert [model.name for model in scoped.models.list()] == ["models/gemini-1.5-flash", "models/gemini-default"]
    # The client closes its connections when it goes.
    alice = client(key=ALICE_KEY)
    assert [model.name for model in alice.models.list()] == ["models/openai-main/gpt-4.1-mini"]
    assert upstream.seen() == []


@pytest.mark.parametrize("base,model", [
    ("", "gemini-default"), ("", PREFIXED), ("", "models/" + PREFIXED),
    ("", "router/meta-llama/llama-3-70b:free"), ("/vertex-main", FLASH),
])
def test_a_model_is_got(base, model):
    one = client(base)
    found = one.models.get(model=model)
    assert found.name == "models/" + model.removeprefix("models/")
    with pytest.raises(errors.ClientError) as caught:
        one.models.get(model="none")
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")
