"""The official Anthropic client in Python."""

import asyncio
import time

import anthropic
import pytest

from conftest import ADMIN_KEY, ALICE_KEY, GATEWAY, check_upstream_request, quickest

CLAUDE = "claude-3-5-sonnet-latest"
DATED = CLAUDE + "-2025-04-14"
MESSAGES = [{"role": "user", "content": "Hello"}]

# base URL, model asked, model served, model in the reply
ROWS = [
    ("", "anthropic-main/" + CLAUDE, CLAUDE, "anthropic-main/" + CLAUDE),
    ("/anthropic-main", CLAUDE, CLAUDE, DATED),
    ("", "claude-default", CLAUDE, "claude-default"),
    ("/anthropic-main", "claude-default", CLAUDE, "claude-default"),
    ("/v1", "anthropic-main/" + CLAUDE, CLAUDE, "anthropic-main/" + CLAUDE),
    ("", "router/vendor/model:free", "vendor/model:free", "router/vendor/model:free"),
]
rows = pytest.mark.parametrize("base,asked,served,replied", ROWS)


def client(base="", key=ADMIN_KEY, kind=None):
    kind = kind or anthropic.Anthropic
    return kind(base_url=GATEWAY + base, api_key=key, max_retries=0, timeout=20)


def ask(one, model, **more):
    return one.messages.create(model=model, max_tokens=256, messages=MESSAGES, **more)


@rows
def test_messages(upstream, base, asked, served, replied):
    reply = ask(client(base), asked)
    assert (reply.model, reply.content[0].text) == (replied, "Hello wörld")
    assert reply.usage.output_tokens == 2
    seen = upstream.only()
    assert (seen.path, seen.body["model"]) == ("/v1/messages", served)
    check_upstream_request(seen, "x-api-key")


@rows
def test_messages_streamed(upstream, base, asked, served, replied):
    events = list(ask(client(base), asked, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert events[0].message.model == replied
    assert upstream.only().body["model"] == served


@rows
def test_the_stream_helper(upstream, base, asked, served, replied):
    one = client(base)
    with one.messages.stream(model=asked, max_tokens=256, messages=MESSAGES) as stream:
        assert "".join(stream.text_stream) == "Hello wörld"
        final = stream.get_final_message()
    assert (final.model, final.usage.output_tokens) == (replied, 2)


@rows
def test_count_tokens(upstream, base, asked, served, replied):
    assert client(base).messages.count_tokens(model=asked, messages=MESSAGES).input_tokens == 3
    seen = upstream.only()
    assert (seen.path, seen.body["model"]) == ("/v1/messages/count_tokens", served)


def test_async_whole_and_streamed(upstream):
    async def calls():
        async with client(kind=anthropic.AsyncAnthropic) as one:
            whole, stream = await asyncio.gather(
                ask(one, "claude-default"), ask(one, "claude-default", stream=True))
            return whole, [event async for event in stream]

    whole, events = asyncio.run(calls())
    assert whole.model == events[0].message.model == "claude-default"


def test_versions_and_betas_go_up(upstream):
    one = client()
    one.beta.messages.create(model="claude-default", max_tokens=9, messages=MESSAGES,
                             betas=["first-2025-01-01", "second-2025-01-01"],
                             extra_query={"beta": "true"})
    seen = upstream.only()
    assert seen.query == "beta=true"
    assert seen.headers["anthropic-version"] == one.default_headers["anthropic-version"]
    betas = [beta.strip() for beta in seen.headers["anthropic-beta"].split(",")]
    assert {"first-2025-01-01", "second-2025-01-01"} <= set(betas)


@pytest.mark.parametrize("status,name,words,key,model", [
    (401, "AuthenticationError", "unauthorized", "sk-wrong", "claude-default"),
    (400, "BadRequestError", "prefix", ADMIN_KEY, CLAUDE),
    (400, "BadRequestError", "openai_chat", ADMIN_KEY, "openai-main/gpt-4.1-mini"),
    (403, "PermissionDeniedError", "forbidden: model", ALICE_KEY, "claude-default"),
])
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_of_the_gateway_are_typed(upstream, status, name, words, key, model, stream):
    with pytest.raises(getattr(anthropic, name)) as caught:
        ask(client(key=key), model, stream=stream)
    error = caught.value
    assert error.status_code == status
    assert error.body["type"] == "error" and words in error.body["error"]["message"]
    assert words in str(error)
    assert error.response.headers["x-gproxy-source"] == "gateway"
    assert error.request_id == error.response.headers["x-gproxy-request-id"]
    assert upstream.seen() == []


def test_an_unknown_path_is_a_not_found(upstream):
    with pytest.raises(anthropic.NotFoundError) as caught:
        ask(client("/nowhere"), "claude-default")
    assert caught.value.body["error"]["type"] == "not_found_error"


THEIRS = [
    (400, "BadRequestError"), (401, "AuthenticationError"), (403, "PermissionDeniedError"),
    (404, "NotFoundError"), (429, "RateLimitError"), (500, "InternalServerError"),
    (529, "InternalServerError"),
]


@pytest.mark.parametrize("status,name", THEIRS)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_upstream_pass_unchanged(upstream, status, name, stream):
    # Newer clients have classes of their own for some statuses, below or beside the older ones.
    with pytest.raises((getattr(anthropic, name), anthropic.APIStatusError)) as caught:
        ask(client(), f"anthropic-main/status-{status}", stream=stream)
    error = caught.value
    assert error.status_code == status
    assert error.body["error"]["message"] == f"the upstream says {status}"
    assert error.response.headers["retry-after"] == "7"
    assert error.response.headers["x-gproxy-source"] == "upstream"
    if status not in (529,):
        assert isinstance(error, getattr(anthropic, name))
    upstream.only()


def test_a_stream_that_dies_raises(upstream):
    with pytest.raises(Exception) as caught:
        for event in ask(client(), "anthropic-main/dies", stream=True):
            assert event.type == "message_start"
            assert event.message.model == "anthropic-main/dies"
    assert not isinstance(caught.value, AssertionError)


def test_leaving_a_stream_is_seen_by_the_upstream_within_a_second(upstream):
    def leave():
        upstream.forget()
        stream = ask(client(), "anthropic-main/hangs", stream=True)
        next(iter(stream))
        left = time.time()
        stream.close()
        return upstream.hung_up_at() - left

    assert quickest(3, leave) < 1.0


def test_models_are_listed_page_by_page(upstream):
    page = client().models.list(limit=2)
    assert (len(page.data), page.has_more) == (2, True)
    ids = [model.id for model in client().models.list(limit=2)]
    assert ids == [
        "openai-main/gpt-4.1-mini", "anthropic-main/claude-3-5-sonnet-latest",
        "vertex-main/gemini-1.5-flash", "router/meta-llama/llama-3-70b:free",
        "chat-default", "claude-default", "gemini-default",
    ]
    scoped = [model.id for model in client("/anthropic-main").models.list()]
    assert scoped == ["claude-3-5-sonnet-latest", "claude-default"]
    alices = client(key=ALICE_KEY).models.list()
    assert [model.id for model in alices] == ["openai-main/gpt-4.1-mini"]
    assert upstream.seen() == []


@pytest.mark.parametrize("base,model", [
    ("", "claude-default"), ("", "anthropic-main/claude-3-5-sonnet-latest"),
    ("", "router/meta-llama/llama-3-70b:free"), ("/anthropic-main", "claude-3-5-sonnet-latest"),
])
def test_a_model_is_retrieved(base, model):
    found = client(base).models.retrieve(model)
    assert (found.id, found.type, found.display_name) == (model, "model", model)
    with pytest.raises(anthropic.NotFoundError):
        client(base).models.retrieve("none")
