"""A scripted upstream for the SDK tests.

It speaks the three families in their vendors' shapes, with dated model names, and cuts its bytes as
badly as TCP allows: one to seven at a time, within CRLFs, escapes and UTF-8 characters. What it does
beyond that stands in the model's name:

  status-429   answers with that status, in the vendor's error shape
  slow-300     thinks for so many milliseconds first
  dies         breaks off in the middle: a stream after its first event, a whole reply in its body
  hangs        sends the first event of a stream (of a whole reply: nothing) and waits for the
               gateway to hang up; when it did is told under /_hangups

GET /_seen lists the requests, DELETE /_seen forgets them. With `?row=openai-7` the next calls are
those of a row of calls.json, and have their replies there; GET /_rows lists the rows that were never
called. Standard library only.
"""

import base64
import hashlib
import json
import pathlib
import random
import re
import socket
import struct
import sys
import threading
import time

KEY = "upstream-credential-5f2a"
ROWS = {f"{family}-{number}": row
        for family, rows in json.loads((pathlib.Path(__file__).parent / "calls.json").read_text()).items()
        for number, row in enumerate(rows)}
BYTES = bytes(range(256)) + b"\r\n\r\ndata: x\n\n" * 300
lock = threading.Lock()
called, row_now = set(), None
seen = []
hangups = []


def dated(model):
    return model + "-2025-04-14"


# --- replies ---------------------------------------------------------------------------------


def chat(model):
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1744600000, "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": {
            "role": "assistant", "content": f'Hello wörld, I am "model": "{model}" 😀'}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def chat_events(model, body):
    usage = (body.get("stream_options") or {}).get("include_usage") is True
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1744600000,
            "model": model}

    def chunk(choices, total=None):
        event = {**base, "choices": choices}
        if usage:
            event["usage"] = total
        return data(event)

    def delta(content, reason=None):
        return [{"index": 0, "delta": content, "finish_reason": reason}]

    yield chunk(delta({"role": "assistant", "content": ""}))
    for text in ["Hello", " wörld", " 😀"]:
        yield chunk(delta({"content": text}))
    yield chunk(delta({}, "stop"))
    if usage:
        yield chunk([], {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})
    yield "data: [DONE]\n\n"


def completion(model):
    return {
        "id": "cmpl-1", "object": "text_completion", "created": 1744600000, "model": model,
        "choices": [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def completion_events(model, body):
    for text, reason in [("Hel", None), ("lö", "stop")]:
        yield data({**completion(model), "choices": [
            {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]})
    yield "data: [DONE]\n\n"


def response(model, status="completed"):
    done = status == "completed"
    text = {"type": "output_text", "text": "Hello wörld", "annotations": [], "logprobs": []}
    message = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
               "content": [text]}
    usage = {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 2,
             "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 5}
    return {
        "id": "resp_1", "object": "response", "created_at": 1744600000, "status": status,
        "model": model, "error": None, "incomplete_details": None, "instructions": None,
        "metadata": {"model": "stays"}, "parallel_tool_calls": True, "temperature": 1.0,
        "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "output": [message] if done else [], "usage": usage if done else None,
    }


def response_events(model, body):
    item = {"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant",
            "content": []}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    done = response(model)["output"][0]
    events = [
        ("response.created", {"response": response(model, "in_progress")}),
        ("response.in_progress", {"response": response(model, "in_progress")}),
        ("response.output_item.added", {"output_index": 0, "item": item}),
        ("response.content_part.added", {**at, "part": part}),
        ("response.output_text.delta", {**at, "delta": "Hello ", "logprobs": []}),
        ("response.output_text.delta", {**at, "delta": "wörld", "logprobs": []}),
        ("response.output_text.done", {**at, "text": "Hello wörld", "logprobs": []}),
        ("response.content_part.done", {**at, "part": done["content"][0]}),
        ("response.output_item.done", {"output_index": 0, "item": done}),
        ("response.completed", {"response": response(model)}),
    ]
    for number, (kind, more) in enumerate(events):
        yield named(kind, {"type": kind, "sequence_number": number, **more})


def embeddings(model):
    return {
        "object": "list", "model": model, "usage": {"prompt_tokens": 3, "total_tokens": 3},
        "data": [{"object": "embedding", "index": 0, "embedding": "AAAAPwAAgL4="}],
    }


def message(model):
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": model,
        "content": [{"type": "text", "text": "Hello wörld"}], "stop_reason": "end_turn",
        "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 2},
    }


def message_events(model, body):
    begun = {**message(model), "content": [], "stop_reason": None}
    events = [
        ("message_start", {"message": begun}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        ("ping", {}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "Hello "}}),
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "wörld"}}),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None},
                           "usage": {"output_tokens": 2}}),
        ("message_stop", {}),
    ]
    for kind, more in events:
        yield named(kind, {"type": kind, **more})


def gemini(model, text="Hello wörld"):
    return {
        "candidates": [{"content": {"parts": [{"text": text}], "role": "model"},
                        "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
        "modelVersion": model, "responseId": "r1",
    }


def gemini_events(model, body):
    for text in ["Hello ", "wör", "ld\u2028"]:
        # Escaped line separators have to stay escaped.
        yield "data: " + json.dumps(gemini(model, text)) + "\r\n\r\n"


def data(value):
    return "data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n\n"


def named(kind, value):
    return f"event: {kind}\n" + data(value)


CALLS = {
    "chat/completions": (chat, chat_events),
    "completions": (completion, completion_events),
    "responses": (response, response_events),
    "embeddings": (embeddings, None),
    "messages": (message, message_events),
    "messages/count_tokens": (lambda model: {"input_tokens": 3}, None),
    ":generateContent": (gemini, None),
    ":streamGenerateContent": (gemini, gemini_events),
    ":countTokens": (lambda model: {"totalTokens": 3}, None),
    ":embedContent": (lambda model: {"embedding": {"values": [0.5, -0.25]}}, None),
    ":batchEmbedContents": (lambda model: {"embeddings": [{"values": [0.5, -0.25]}]}, None),
}


def listed(row, family, query):
    """The first page of two, or the second."""
    first = not re.search("after|page_token|pageToken|page=", query)
    one = row["pages"][0 if first else 1]
    if family == "gemini":
        page = {row["key"]: [{"name": f"{row['key']}/{one}", **row.get("item", {})}]}
        return {**page, "nextPageToken": "second"} if first else page
    item = {"id": one, **row.get("item", {})}
    page = {"data": [item], "has_more": first, "first_id": one, "last_id": one}
    if "skills" in row["call"]:
        page["next_page"] = "page_2" if first else None
    return {"object": "list", **page} if family == "openai" else page


def answer_row(connection, request, name):
    """Answers a call of calls.json."""
    headers = dict(request["headers"])
    path = re.sub("^/v1[a-z0-9]*/", "", request["path"])
    row, asked = ROWS[name], f"{request['method']} {path}"
    family = name.partition("-")[0]

    def asks(row):
        return row["asks"].replace("$model", "m-1").replace(" /v1/", " ") == asked

    if not asks(row):
        # The client asks for something else on its way.
        row = next((other for other in ROWS.values() if asks(other)), None)
        if row is None:
            return connection.whole(404, error_body(request["path"], 404))
    with lock:
        called.add(name)
    if "bytes" in row:
        return connection.blob(BYTES, row["bytes"])
    if "lines" in row:
        lines = "".join(json.dumps(line) + "\n" for line in row["lines"])
        lines = lines.replace("$dated", dated("m-1"))
        return connection.blob(lines.encode(), "application/x-jsonl")
    if "events" in row:
        text = json.dumps(row["events"]).replace("$dated", dated("m-1"))
        events = [named(event["type"], event) for event in json.loads(text)]
        return stream(connection, "m-1", events)
    reply = listed(row, family, request["query"]) if "pages" in row else row["reply"]
    text = json.dumps(reply).replace("$dated", dated("m-1"))
    return connection.whole(200, json.loads(text.replace("$base", f"http://{headers['host']}")))


def error_body(path, status):
    text = f"the upstream says {status}"
    if "/messages" in path:
        return {"type": "error", "error": {"type": "api_error", "message": text}}
    if ":" in path:
        return {"error": {"code": status, "message": text, "status": "UNAVAILABLE"}}
    return {"error": {"message": text, "type": "some_type", "param": None, "code": "some_code"}}


# --- the server ------------------------------------------------------------------------------


class Gone(Exception):
    pass


class Connection:
    def __init__(self, sock):
        self.sock = sock
        self.held = b""
        self.random = random.Random(7)

    def read(self):
        piece = self.sock.recv(65536)
        if not piece:
            raise Gone
        self.held += piece

    def request(self):
        while b"\r\n\r\n" not in self.held:
            self.read()
        head, self.held = self.held.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = [[name.strip().lower(), value.strip()]
                   for name, value in (line.split(":", 1) for line in lines[1:])]
        if dict(headers).get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        else:
            body = self.take(int(dict(headers).get("content-length", 0)))
        path, _, query = target.partition("?")
        return {"method": method, "path": path, "query": query, "headers": headers,
                "body": body.decode("utf-8", "replace"), "base64": base64.b64encode(body).decode()}

    def take(self, length):
        while len(self.held) < length:
            self.read()
        taken, self.held = self.held[:length], self.held[length:]
        return taken

    def chunk(self):
        while b"\r\n" not in self.held:
            self.read()
        line, self.held = self.held.split(b"\r\n", 1)
        piece = self.take(int(line, 16))
        self.take(2)
        return piece

    def cut(self, data):
        """Sends bytes one to seven at a time."""
        at = 0
        while at < len(data):
            size = self.random.randint(1, 7)
            self.sock.sendall(data[at:at + size])
            at += size

    def head(self, status, lines):
        self.sock.sendall(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode())

    def whole(self, status, value, lines="", cut=True, part=1.0):
        body = json.dumps(value, ensure_ascii=False, indent=2).encode()
        self.head(status, f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                  f"x-request-id: upstream-1\r\nset-cookie: tracking=1\r\n{lines}")
        body = body[:int(len(body) * part)]
        self.cut(body) if cut else self.sock.sendall(body)

    def blob(self, body, kind):
        self.head(200, f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n")
        self.cut(body)

    def begin_stream(self):
        self.head(200, "content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n")

    def event(self, text):
        """One event, in chunks of one to seven bytes, in segments that fit none of them."""
        body, framed = text.encode(), b""
        while body:
            size = self.random.randint(1, 7)
            piece, body = body[:size], body[size:]
            framed += f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
        self.cut(framed)

    def wait_for_hang_up(self, model):
        try:
            while self.sock.recv(65536):
                pass
        except OSError:
            pass
        with lock:
            hangups.append({"model": model, "at": time.time()})
        raise Gone


def model_of(request, body):
    if ":" in request["path"]:
        return request["path"].rpartition(":")[0].rpartition("models/")[2]
    return body.get("model") or ""


def call_of(path):
    if ":" in path:
        return CALLS.get(":" + path.rpartition(":")[2])
    for tail in sorted(CALLS, key=len, reverse=True):
        if path.endswith("/" + tail):
            return CALLS[tail]
    return None


# --- sessions and uploads ----------------------------------------------------------------------


def field(request, wanted):
    return next((value for name, value in request["headers"] if name.lower() == wanted), "")


class Socket:
    """A WebSocket after its handshake."""

    def __init__(self, sock, request):
        self.sock, self.held = sock, b""
        salt = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        digest = hashlib.sha1((field(request, "sec-websocket-key") + salt).encode()).digest()
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n"
                     b"connection: upgrade\r\nsec-websocket-accept: "
                     + base64.b64encode(digest) + b"\r\n\r\n")

    def take(self, count):
        while len(self.held) < count:
            got = self.sock.recv(65536)
            if not got:
                raise Gone
            self.held += got
        taken, self.held = self.held[:count], self.held[count:]
        return taken

    def send(self, opcode, payload):
        size = len(payload)
        length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size)
        self.sock.sendall(bytes([0x80 | opcode]) + length + payload)

    def tell(self, event, opcode=1):
        self.send(opcode, json.dumps(event).encode())

    def event(self):
        """The next event; answers pings and ends with a close."""
        while True:
            first, size = self.take(2)
            size &= 127
            if size == 126:
                size, = struct.unpack(">H", self.take(2))
            elif size == 127:
                size, = struct.unpack(">Q", self.take(8))
            mask = self.take(4)
            payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.take(size)))
            if first & 15 in (1, 2):
                return json.loads(payload)
            self.send({9: 10}.get(first & 15, first & 15), payload)
            if first & 15 == 8:
                raise Gone


def session(connection, request):
    live = Socket(connection.sock, request)
    realtime = request["path"].endswith("/realtime")
    model = dated(request["query"].partition("model=")[2].partition("&")[0])
    if realtime:
        live.tell({"type": "session.created", "event_id": "e",
                   "session": {"type": "realtime", "model": model}})
    while True:
        event = live.event()
        with lock:
            seen.append({**request, "body": json.dumps(event)})
        if "setup" in event:
            live.tell({"setupComplete": {}}, 2)
        elif {"clientContent", "client_content"} & set(event):
            live.tell({"serverContent": {"modelTurn": {"parts": [{"text": "Hello wörld"}]}}}, 2)
            usage = {"promptTokenCount": 3, "responseTokenCount": 2, "totalTokenCount": 5}
            live.tell({"serverContent": {"turnComplete": True}, "usageMetadata": usage}, 2)
        elif realtime:
            live.tell({"type": "response.done", "event_id": "e", "response": {
                "id": "resp_1", "object": "realtime.response", "status": "completed",
                "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}}})
        else:
            live.tell({"type": "response.completed", "sequence_number": 0,
                       "response": response(dated(event.get("model") or model))})


def upload(connection, request):
    if "start" in field(request, "x-goog-upload-command"):
        url = f"http://{field(request, 'host')}{request['path']}?upload_id=s1&upload_protocol=x"
        return connection.whole(200, {}, f"x-goog-upload-url: {url}\r\n")
    file = {"name": "files/f1", "sizeBytes": str(len(request["body"])), "mimeType": "text/plain",
            "state": "ACTIVE", "uri": "https://g.test/files/f1"}
    return connection.whole(200, {"file": file}, "x-goog-upload-status: final\r\n")


def answer(connection, request):
    if request["path"].startswith("/_"):
        return control(connection, request)
    if field(request, "upgrade").lower() == "websocket":
        return session(connection, request)
    with lock:
        seen.append(request)
    if row_now is not None:
        return answer_row(connection, request, row_now)
    if request["path"].startswith("/upload/"):
        return upload(connection, request)
    try:
        body = json.loads(request["body"] or "{}")
    except ValueError:
        return connection.whole(400, error_body(request["path"], 400))
    model = model_of(request, body)
    call = call_of(request["path"])
    if call is None:
        return connection.whole(404, error_body(request["path"], 404))
    whole, events = call
    kind, _, number = model.partition("-")
    if kind == "status":
        lines = "retry-after: 7\r\nx-should-retry: false\r\n"
        return connection.whole(int(number), error_body(request["path"], int(number)), lines)
    if kind == "slow":
        time.sleep(int(number) / 1000)
    streams = body.get("stream") is True or ":streamGenerate" in request["path"]
    if not streams or events is None:
        if model == "hangs":
            connection.wait_for_hang_up(model)
        connection.whole(200, whole(dated(model)), part=0.5 if model == "dies" else 1.0)
        if model == "dies":
            raise Gone
        return None
    return stream(connection, model, list(events(dated(model), body)))


def stream(connection, model, events):
    connection.begin_stream()
    for number, event in enumerate(events):
        if number == 1 and model == "hangs":
            connection.wait_for_hang_up(model)
        if number == 1 and model == "dies":
            connection.event(event[:len(event) // 2])
            raise Gone
        connection.event(event)
    connection.sock.sendall(b"0\r\n\r\n")


def control(connection, request):
    with lock:
        if request["method"] == "DELETE":
            seen.clear()
            hangups.clear()
            global row_now
            row_now = request["query"].removeprefix("row=") or None
        rows = [f"{name} {row['call']}" for name, row in ROWS.items() if name not in called]
        value = {"/_seen": seen, "/_hangups": hangups, "/_rows": rows}.get(request["path"], {})
        connection.whole(200, value, cut=False)


def serve(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = Connection(sock)
    try:
        while True:
            answer(connection, connection.request())
    except (Gone, OSError):
        pass
    finally:
        sock.close()


def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
