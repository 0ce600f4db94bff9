"""Sessions over WebSocket, and Gemini's uploads, through the official clients in Python."""

import asyncio
import io

import pytest

from conftest import ADMIN_KEY, GATEWAY, UPSTREAM_KEY

openai = pytest.importorskip("openai")
genai = pytest.importorskip("google.genai")
from google.genai import live, types  # noqa: E402


def client(base=""):
    return openai.OpenAI(api_key=ADMIN_KEY, base_url=GATEWAY + base + "/v1")


@pytest.mark.skipif(openai.__version__.startswith("1."), reason="this client dials wss alone")
@pytest.mark.parametrize("base,asked,served,replied", [
    ("", "chat-default", "gpt-4.1-mini", "chat-default"),
    ("/openai-main", "gpt-4.1-mini", "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14"),
])
def test_realtime(upstream, base, asked, served, replied):
    with client(base).realtime.connect(model=asked) as connection:
        created = connection.recv()
        assert (created.type, created.session.model) == ("session.created", replied)
        for _ in range(2):
            connection.response.create()
            done = connection.recv()
            assert (done.type, done.response.usage.total_tokens) == ("response.done", 5)
    for seen in upstream.seen():
        assert (seen.path, seen.query) == ("/v1/realtime", "model=" + served)
        assert seen.headers["authorization"] == "Bearer " + UPSTREAM_KEY
        assert "sec-websocket-extensions" not in seen.headers


def test_responses(upstream):
    if not hasattr(client().responses, "connect"):
        pytest.skip("this client has no Responses over WebSocket")
    with client().responses.connect() as connection:
        connection.response.create(model="chat-default", input="Hello")
        done = connection.recv()
        assert (done.type, done.response.model) == ("response.completed", "chat-default")
        connection.response.create(model="router/other", input="Hello")
        assert connection.recv().type == "error"
    assert upstream.only().body["model"] == "gpt-4.1-mini"


def test_gemini_live(upstream, monkeypatch):
    # The client always dials wss, which a proxy in front of the gateway would end.
    dial = live.ws_connect
    plain = lambda uri, **more: dial(uri.replace("wss://", "ws://", 1),
                                     **{k: v for k, v in more.items() if k != "ssl"})
    monkeypatch.setattr(live, "ws_connect", plain)
    options = types.HttpOptions(base_url=GATEWAY, api_version="v1beta")
    one = genai.Client(api_key=ADMIN_KEY, http_options=options)

    async def talk():
        config = {"response_modalities": ["TEXT"]}
        async with one.aio.live.connect(model="gemini-default", config=config) as session:
            turn = types.Content(role="user", parts=[types.Part(text="Hello")])
            await session.send_client_content(turns=turn)
            return [message async for message in session.receive()]

    messages = asyncio.run(talk())
    assert messages[0].server_content.model_turn.parts[0].text == "Hello wörld"
    assert messages[-1].usage_metadata.total_token_count == 5
    setup = upstream.seen()[0]
    assert setup.body["setup"]["model"] == "models/gemini-1.5-flash"
    assert setup.headers["x-goog-api-key"] == UPSTREAM_KEY
    assert ADMIN_KEY not in setup.query


def test_gemini_files_are_uploaded_through_the_gateway(upstream):
    options = types.HttpOptions(base_url=GATEWAY + "/vertex-main", timeout=20_000)
    one = genai.Client(api_key=ADMIN_KEY, http_options=options)
    file = one.files.upload(file=io.BytesIO(b"7" * 1_000), config={"mime_type": "text/plain"})
    assert (file.name, file.size_bytes) == ("files/f1", 1_000)
    start, bytes_ = upstream.seen()
    assert start.path == bytes_.path and start.path in ("/upload/v1beta/files", "/upload/v1/files")
    assert bytes_.query == "upload_id=s1&upload_protocol=x"
    assert bytes_.headers["x-goog-api-key"] == UPSTREAM_KEY
