"""The official OpenAI client in Python."""

import asyncio
import json
import time

import openai
import pytest

from conftest import ADMIN_KEY, ALICE_KEY, GATEWAY, check_upstream_request, quickest

MINI = "gpt-4.1-mini"
LLAMA = "meta-llama/llama-3-70b:free"
DATED = MINI + "-2025-04-14"
MESSAGES = [{"role": "user", "content": "Say hello in one short sentence."}]

# base URL, model asked, model served, model in the reply
ROWS = [
    ("/v1", "openai-main/" + MINI, MINI, "openai-main/" + MINI),
    ("/v1", "router/" + LLAMA, LLAMA, "router/" + LLAMA),
    ("/openai-main/v1", MINI, MINI, DATED),
    ("/v1", "chat-default", MINI, "chat-default"),
    ("/openai-main/v1", "chat-default", MINI, "chat-default"),
    ("/openai-main/v1", "openai-main/" + MINI, MINI, "openai-main/" + MINI),
    ("", "openai-main/" + MINI, MINI, "openai-main/" + MINI),
    ("/openai-main", MINI, MINI, DATED),
    ("/v1/", "chat-default", MINI, "chat-default"),
]
rows = pytest.mark.parametrize("base,asked,served,replied", ROWS)


def client(base="/v1", key=ADMIN_KEY, kind=None):
    kind = kind or openai.OpenAI
    return kind(base_url=GATEWAY + base, api_key=key, max_retries=0, timeout=20)


@rows
def test_chat(upstream, base, asked, served, replied):
    reply = client(base).chat.completions.create(model=asked, messages=MESSAGES)
    assert reply.model == replied
    assert "wörld" in reply.choices[0].message.content
    assert served + "-2025-04-14" in reply.choices[0].message.content
    assert reply.usage.total_tokens == 5
    seen = upstream.only()
    assert (seen.method, seen.path, seen.body["model"]) == ("POST", "/v1/chat/completions", served)
    assert seen.body["messages"] == MESSAGES
    check_upstream_request(seen, "authorization")


@rows
def test_chat_streamed(upstream, base, asked, served, replied):
    stream = client(base).chat.completions.create(model=asked, messages=MESSAGES, stream=True)
    chunks = list(stream)
    assert {chunk.model for chunk in chunks} == {replied}
    assert all(chunk.choices for chunk in chunks), "the usage chunk was not asked for"
    assert all(chunk.usage is None for chunk in chunks)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "Hello wörld 😀"
    seen = upstream.only()
    assert seen.body["model"] == served
    assert seen.body["stream_options"] == {"include_usage": True}


@rows
def test_responses(upstream, base, asked, served, replied):
    reply = client(base).responses.create(model=asked, input="Hello")
    assert (reply.model, reply.output_text) == (replied, "Hello wörld")
    assert reply.metadata == {"model": "stays"}
    seen = upstream.only()
    assert (seen.path, seen.body["model"]) == ("/v1/responses", served)


@rows
def test_responses_streamed(upstream, base, asked, served, replied):
    events = list(client(base).responses.create(model=asked, input="Hello", stream=True))
    named = [event.response.model for event in events if hasattr(event, "response")]
    assert named == [replied] * 3
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == "Hello wörld"
    assert "stream_options" not in upstream.only().body


@rows
def test_legacy_completions(upstream, base, asked, served, replied):
    reply = client(base).completions.create(model=asked, prompt="Hello")
    assert (reply.model, reply.choices[0].text) == (replied, "Hello")
    chunks = list(client(base).completions.create(model=asked, prompt="Hello", stream=True))
    assert {chunk.model for chunk in chunks} == {replied}
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hellö"
    assert {seen.path for seen in upstream.seen()} == {"/v1/completions"}


@rows
def test_embeddings(upstream, base, asked, served, replied):
    reply = client(base).embeddings.create(model=asked, input="Hello")
    assert reply.model == replied
    assert list(reply.data[0].embedding) == [0.5, -0.25]
    seen = upstream.only()
    assert (seen.path, seen.body["encoding_format"]) == ("/v1/embeddings", "base64")


def test_async_whole_and_streamed(upstream):
    async def calls():
        async with client(kind=openai.AsyncOpenAI) as one:
            whole = one.chat.completions.create(model="chat-default", messages=MESSAGES)
            streams = [
                one.chat.completions.create(model=asked, messages=MESSAGES, stream=True)
                for asked in ["chat-default", "openai-main/" + MINI]
            ]
            replies = await asyncio.gather(whole, *streams)
            return replies[0], [[chunk async for chunk in stream] for stream in replies[1:]]

    whole, streams = asyncio.run(calls())
    assert whole.model == "chat-default"
    models = [{chunk.model for chunk in chunks} for chunks in streams]
    assert models == [{"chat-default"}, {"openai-main/" + MINI}]


def test_usage_is_there_for_a_client_that_asks(upstream):
    options = {"include_usage": True}
    chunks = list(client().chat.completions.create(
        model="chat-default", messages=MESSAGES, stream=True, stream_options=options))
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 5
    assert {chunk.model for chunk in chunks} == {"chat-default"}


def test_usage_leaves_no_trace_for_a_client_that_does_not_ask(upstream):
    raw = client().chat.completions.with_streaming_response
    with raw.create(model="chat-default", messages=MESSAGES, stream=True) as reply:
        body = b"".join(reply.iter_bytes())
    assert b"usage" not in body and body.endswith(b"data: [DONE]\n\n")
    assert body.decode().count("data: ") == 6


def test_tool_schemas_go_up_unchanged(upstream):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {
        "type": "object", "properties": {"model": {"type": "string", "const": "chat-default"}}}}}]
    client().chat.completions.create(model="chat-default", messages=MESSAGES, tools=tools,
                                     metadata={"model": "chat-default"}, max_tokens=12345678901)
    body = upstream.only().body
    assert (body["tools"], body["metadata"]) == (tools, {"model": "chat-default"})
    assert (body["model"], body["max_tokens"]) == (MINI, 12345678901)


def test_headers_of_an_answer(upstream):
    reply = client().chat.completions.with_raw_response.create(
        model="chat-default", messages=MESSAGES)
    assert reply.headers["x-gproxy-request-id"]
    assert int(reply.headers["x-gproxy-overhead-us"]) >= 0
    assert reply.headers["x-request-id"] == "upstream-1"
    assert "set-cookie" not in reply.headers
    assert "x-gproxy-source" not in reply.headers or reply.headers["x-gproxy-source"] == "upstream"


def test_a_cookie_of_the_client_does_not_go_up(upstream):
    headers = {"cookie": "a=b", "x-gproxy-provider": "router", "openai-beta": "x=1"}
    client().chat.completions.create(model="chat-default", messages=MESSAGES, extra_headers=headers)
    seen = upstream.only()
    check_upstream_request(seen, "authorization")
    assert seen.headers["openai-beta"] == "x=1"
    assert seen.headers["x-stainless-lang"] == "python"


OWN = [
    (401, "AuthenticationError", "unauthorized", "sk-wrong", "chat-default"),
    (400, "BadRequestError", "prefix", ADMIN_KEY, MINI),
    (403, "PermissionDeniedError", "forbidden: model", ALICE_KEY, "chat-default"),
]


@pytest.mark.parametrize("status,name,words,key,model", OWN)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_of_the_gateway_are_typed(upstream, status, name, words, key, model, stream):
    with pytest.raises(getattr(openai, name)) as caught:
        client(key=key).chat.completions.create(model=model, messages=MESSAGES, stream=stream)
    assert caught.value.status_code == status
    assert words in caught.value.message
    assert words in caught.value.body["message"]
    assert caught.value.response.headers["x-gproxy-source"] == "gateway"
    assert caught.value.request_id == caught.value.response.headers["x-gproxy-request-id"]
    assert upstream.seen() == []


def test_an_unknown_path_is_a_not_found_that_names_the_base_url(upstream):
    with pytest.raises(openai.NotFoundError) as caught:
        client("/nowhere/v1").chat.completions.create(model="chat-default", messages=MESSAGES)
    assert "/v1" in caught.value.message


def test_a_permitted_user_may_call(upstream):
    reply = client(key=ALICE_KEY).chat.completions.create(
        model="openai-main/" + MINI, messages=MESSAGES)
    assert reply.model == "openai-main/" + MINI


THEIRS = [
    (400, "BadRequestError"), (401, "AuthenticationError"), (403, "PermissionDeniedError"),
    (404, "NotFoundError"), (409, "ConflictError"), (422, "UnprocessableEntityError"),
    (429, "RateLimitError"), (500, "InternalServerError"), (503, "InternalServerError"),
    (529, "InternalServerError"),
]


@pytest.mark.parametrize("status,name", THEIRS)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_upstream_pass_unchanged(upstream, status, name, stream):
    with pytest.raises(getattr(openai, name)) as caught:
        client().chat.completions.create(
            model=f"openai-main/status-{status}", messages=MESSAGES, stream=stream)
    error = caught.value
    assert error.status_code == status
    assert error.body["message"] == f"the upstream says {status}"
    assert (error.code, error.type) == ("some_code", "some_type")
    assert error.response.headers["retry-after"] == "7"
    assert error.response.headers["x-should-retry"] == "false"
    assert error.response.headers["x-gproxy-source"] == "upstream"
    upstream.only()


def test_a_stream_that_dies_raises(upstream):
    with pytest.raises(Exception) as caught:
        stream = client().chat.completions.create(
            model="openai-main/dies", messages=MESSAGES, stream=True)
        for chunk in stream:
            assert chunk.model == "openai-main/dies"
    assert not isinstance(caught.value, AssertionError)


def test_a_responses_stream_that_dies_raises_or_says_so(upstream):
    kinds = []
    try:
        stream = client().responses.create(model="openai-main/dies", input="x", stream=True)
        kinds += [event.type for event in stream]
    except Exception:
        return
    assert kinds[-1] == "error", kinds


def test_a_whole_reply_that_dies_raises(upstream):
    with pytest.raises((openai.APIError, json.JSONDecodeError, Exception)) as caught:
        client().chat.completions.create(model="openai-main/dies", messages=MESSAGES)
    assert not isinstance(caught.value, AssertionError)


def test_a_thinking_upstream_is_waited_for(upstream):
    reply = client().chat.completions.create(model="openai-main/slow-1500", messages=MESSAGES)
    assert reply.model == "openai-main/slow-1500"


def test_leaving_a_stream_is_seen_by_the_upstream_within_a_second(upstream):
    def leave():
        upstream.forget()
        stream = client().chat.completions.create(
            model="openai-main/hangs", messages=MESSAGES, stream=True)
        next(iter(stream))
        left = time.time()
        stream.close()
        return upstream.hung_up_at() - left

    assert quickest(3, leave) < 1.0


def test_giving_up_on_a_silent_upstream_is_seen_by_it_within_a_second(upstream):
    def leave():
        upstream.forget()
        with pytest.raises(openai.APITimeoutError):
            client().with_options(timeout=0.5).chat.completions.create(
                model="openai-main/hangs", messages=MESSAGES)
        return upstream.hung_up_at() - time.time()

    assert quickest(3, leave) < 1.0


LISTED = [
    "openai-main/" + MINI, "anthropic-main/claude-3-5-sonnet-latest",
    "vertex-main/gemini-1.5-flash", "router/" + LLAMA,
    "chat-default", "claude-default", "gemini-default",
]


@pytest.mark.parametrize("base,key,expected", [
    ("/v1", ADMIN_KEY, LISTED),
    ("", ADMIN_KEY, LISTED),
    ("/openai-main/v1", ADMIN_KEY, [MINI, "chat-default"]),
    ("/v1", ALICE_KEY, ["openai-main/" + MINI]),
])
def test_models_are_listed(upstream, base, key, expected):
    assert [model.id for model in client(base, key).models.list()] == expected
    assert upstream.seen() == []


@pytest.mark.parametrize("base,model", [
    ("/v1", "chat-default"), ("/v1", "openai-main/" + MINI), ("/v1", "router/" + LLAMA),
    ("/openai-main/v1", MINI), ("/router/v1", LLAMA),
])
def test_a_model_is_retrieved(base, model):
    found = client(base).models.retrieve(model)
    assert (found.id, found.object) == (model, "model")


def test_a_model_that_may_not_be_called_does_not_exist():
    with pytest.raises(openai.NotFoundError) as caught:
        client(key=ALICE_KEY).models.retrieve("chat-default")
    assert caught.value.code == "model_not_found"
