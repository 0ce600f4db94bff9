#!/usr/bin/env python3
"""Keeps GPROXY under load for a while, against an upstream that fails in every way, with clients
that hang up; then looks whether anything is left behind.

    bench/soak.py --machine NAME [--seconds 1800] [--gproxy target/release/gproxy]

`--seconds 60` is a short run. Each call names in its model what the upstream is to do with it, so
the client knows what it must come to: a sound call that fails is a mistake of the gateway's,
whatever went on beside it. At the end:

- memory: the median of resident memory about the end of the load against that about its first third
- nothing is open: connections, streams, requests, calls, held bytes, sockets
- `gproxy audit` finds the books in balance
- each request that was answered with an id has exactly one row

Prints a verdict, exits with 1 when it is bad, and writes bench/record/NAME/DATE-soak.md. Everything
runs on this machine over loopback; it needs Python alone.
"""

import argparse
import asyncio
import collections
import datetime
import json
import logging
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from compare import ROOT, free_port, keep_record, machine, output_of, wait_for_port

# What an upstream may do, how often it is asked to of a thousand calls, and what may come of it:
# status, and whether the answer came whole. An early head makes 200 and a cut of every refusal.
BROKEN = {(502, True), (200, False)}
SLOW = {(504, True), (200, False)}
WITHIN = {(502, True), (504, True), (200, False)}
KINDS = {
    "ok": (620, {(200, True)}),
    "big": (60, {(200, True)}),
    "drip": (30, {(200, True)}),
    "late": (20, {(200, True)}),
    "reset": (30, BROKEN),
    "close": (30, BROKEN),
    "garbage": (30, BROKEN),
    "stall": (15, SLOW),
    "truncated": (40, WITHIN),
    "resetwithin": (30, WITHIN),
    "stallwithin": (15, WITHIN),
    "badchunk": (30, WITHIN),
    "s429": (25, {(429, True)}),
    "s500": (25, {(500, True)}),
}
MODELS = 8
PROVIDERS = ("plain", "early")
SILENCE_MS = 1_500
KEY = "sk-soak-1"

CONFIG = """
[global]
host = "127.0.0.1"
port = {port}
workers = 2
data_dir = "{folder}/data"
[limits]
recorder_bytes = 4096
[timeouts]
first_byte_ms = {silence}
between_bytes_ms = {silence}
[[users]]
name = "admin"
is_admin = true
keys = [{{ api_key = "{key}" }}]
[[permissions]]
user_name = "admin"
model_pattern = "*"
[[quotas]]
user_name = "admin"
quota = "1000000"
[[rate_limits]]
user_name = "admin"
model_pattern = "*"
rpm = 100000000
"""

PROVIDER = """
[[providers]]
name = "{name}"
channel = "custom"
credentials = [{{ api_key = "cred-{name}-1" }}, {{ api_key = "cred-{name}-2" }}]
settings = {{ base_url = "http://127.0.0.1:{upstream}", {more} }}
"""


def config(port, upstream, folder):
    text = CONFIG.format(port=port, folder=folder, silence=SILENCE_MS, key=KEY)
    for name in PROVIDERS:
        more = "keepalive_ms = 300"
        if name == "early":
            more += ", early_headers_ms = 300"
        text += PROVIDER.format(name=name, upstream=upstream, more=more)
        for kind in KINDS:
            for number in range(MODELS):
                text += (f'[[models]]\nprovider_name = "{name}"\nmodel_id = "{kind}-{number}"\n'
                         'price_each_call = "0.001"\n')
    return text


# The upstream.

def answer(path, model, stream):
    """A sound answer in the dialect of the path."""
    text = "Hello there. " * (4_000 if model.startswith("big") else 3)
    if "generateContent" in path or "streamGenerateContent" in path:
        one = {"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}],
               "modelVersion": model,
               "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 7}}
        return events([one]) if stream else json.dumps(one)
    if path.endswith("/messages"):
        usage = {"input_tokens": 5, "output_tokens": 7}
        message = {"type": "message", "id": "m", "role": "assistant", "model": model,
                   "content": [{"type": "text", "text": text}], "usage": usage}
        if not stream:
            return json.dumps(message)
        delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}
        return events([{"type": "message_start", "message": {**message, "content": []}}, delta,
                       {"type": "message_delta", "usage": usage}, {"type": "message_stop"}])
    if path.endswith("/responses"):
        usage = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
        done = {"id": "r", "object": "response", "model": model, "status": "completed",
                "output": [], "usage": usage}
        if not stream:
            return json.dumps({**done, "text": text})
        return events([{"type": "response.created", "response": {**done, "usage": None}},
                       {"type": "response.output_text.delta", "delta": text},
                       {"type": "response.completed", "response": done}])
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        return json.dumps({"id": "c", "model": model, "choices": [choice], "usage": usage})
    chunk = {"id": "c", "model": model, "choices": [{"index": 0, "delta": {"content": text}}]}
    last = {"id": "c", "model": model, "choices": [], "usage": usage}
    return events([chunk] * 5 + [last]) + "data: [DONE]\n\n"


def events(all_of_them):
    def one(event):
        name = f"event: {event['type']}\n" if "type" in event else ""
        return f"{name}data: {json.dumps(event)}\n\n"
    return "".join(map(one, all_of_them))


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def reset(writer):
    peer = writer.get_extra_info("socket")
    if peer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def read_request(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.I)
    body = await reader.readexactly(int(length.group(1))) if length else b""
    path = head.split(b" ", 2)[1].decode()
    try:
        told = json.loads(body)
    except ValueError:
        told = {}
    named = re.search(r"/models/([^:/?]+):", path)
    model = named.group(1) if named else told.get("model", "ok-0")
    stream = bool(told.get("stream")) or "streamGenerateContent" in path
    return path.split("?")[0], model, stream


async def serve(reader, writer):
    """One connection of the gateway's; ends when a fault ends it."""
    try:
        while True:
            path, model, stream = await read_request(reader)
            if not await commit(writer, path, model, stream):
                return
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()


async def commit(writer, path, model, stream):
    """Does what the model's name says. Whether the connection goes on."""
    kind = model.split("-")[0]
    if kind in ("reset", "close", "garbage", "stall"):
        if kind == "reset":
            reset(writer)
        elif kind == "garbage":
            writer.write(random.randbytes(200) + b"\r\n\r\n")
            await writer.drain()
        elif kind == "stall":
            await asyncio.sleep(3 * SILENCE_MS / 1_000)
        return False
    if kind in ("s429", "s500"):
        body = b'{"error":{"message":"this model has no room","type":"x"}}'
        wait = b"retry-after-ms: 300\r\n" if kind == "s429" else b""
        writer.write(b"HTTP/1.1 %s No\r\ncontent-type: application/json\r\n%s"
                     b"content-length: %d\r\n\r\n%s" % (kind[1:].encode(), wait, len(body), body))
        await writer.drain()
        return True
    if kind == "late":
        await asyncio.sleep(0.7)
    kind_of = b"text/event-stream" if stream else b"application/json"
    body = answer(path, model, stream).encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n"
                 % kind_of)
    if kind in ("truncated", "resetwithin", "stallwithin", "badchunk"):
        half = body[:len(body) // 2]
        writer.write(chunk(half)[:-9] if kind == "truncated" else chunk(half))
        if kind == "badchunk":
            writer.write(b"zz\r\nno chunk\r\n")
        await writer.drain()
        if kind == "stallwithin":
            await asyncio.sleep(3 * SILENCE_MS / 1_000)
        if kind == "resetwithin":
            reset(writer)
        return False
    if kind == "drip":
        for at in range(0, len(body), 40):
            writer.write(chunk(body[at:at + 40]))
            await writer.drain()
            await asyncio.sleep(0.02)
    else:
        for at in range(0, len(body), 8_000):
            writer.write(chunk(body[at:at + 8_000]))
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def upstream(port):
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


# The clients.

KIND_NAMES = list(KINDS)
KIND_WEIGHTS = [weight for weight, _ in KINDS.values()]


class Tally:
    def __init__(self, ids):
        self.ids = ids
        self.count = collections.Counter()
        self.wrong = []

    def note(self, what):
        self.count[what] += 1

    def saw(self, request_id, has_row):
        self.note("ids")
        if has_row:
            self.ids.write(request_id + "\n")


def request(rng):
    kind = rng.choices(KIND_NAMES, KIND_WEIGHTS)[0]
    provider = rng.choice(PROVIDERS)
    model = f"{provider}/{kind}-{rng.randrange(MODELS)}"
    stream = rng.random() < 0.5
    dialect = rng.randrange(4)
    said = {"model": model, "stream": stream}
    if dialect == 0:
        path, body = "/v1/chat/completions", {**said, "messages": []}
    elif dialect == 1:
        path, body = "/v1/messages", {**said, "max_tokens": 9, "messages": []}
    elif dialect == 2:
        path, body = "/v1/responses", {**said, "input": "x"}
    else:
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        path, body = f"/v1beta/models/{model}:{verb}", {}
    body = json.dumps(body).encode()
    head = (f"POST {path} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n")
    return kind, head.encode() + body


async def read_head(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    fields = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name.decode().lower()] = value.strip().decode()
    return int(head.split(b" ", 2)[1]), fields


async def read_body(reader, fields, slow):
    """Whether it came whole."""
    try:
        if "content-length" in fields:
            await reader.readexactly(int(fields["content-length"]))
            return True
        while True:
            size = int((await reader.readuntil(b"\r\n"))[:-2], 16)
            await reader.readexactly(size + 2)
            if size == 0:
                return True
            if slow:
                await asyncio.sleep(0.02)
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


async def client(port, until, rng, tally):
    """One client, call after call, on one connection while it lasts."""
    reader = writer = None
    while time.monotonic() < until:
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            keep = await call(reader, writer, rng, tally)
        except (asyncio.IncompleteReadError, ConnectionError, OSError) as why:
            # Behind an answer that kept the connection: the gateway must not close it unanswered.
            tally.note("unanswered")
            tally.wrong.append(f"unanswered: {why!r}")
            keep = False
        if not keep and writer is not None:
            writer.close()
            reader = writer = None
    if writer is not None:
        writer.close()


async def call(reader, writer, rng, tally):
    """One call. Whether the connection may be used again."""
    kind, wire = request(rng)
    tally.note("calls")
    mood = rng.random()
    if mood < 0.01:
        # Half a request.
        writer.write(wire[:len(wire) - 5])
        await writer.drain()
        tally.note("half requests")
        return False
    writer.write(wire)
    await writer.drain()
    if mood < 0.04:
        await asyncio.sleep(rng.random() * 0.05)
        tally.note("hung up before the head")
        if mood < 0.02:
            reset(writer)
        return False
    status, fields = await read_head(reader)
    # A full gateway refuses before it takes a request in.
    full = status == 503 and fields.get("x-gproxy-source") == "gateway"
    tally.saw(fields["x-gproxy-request-id"], not full)
    if full:
        tally.note("503")
    if mood < 0.06:
        tally.note("hung up after the head")
        return False
    whole = await read_body(reader, fields, mood < 0.07)
    tally.note(f"{kind}: {status}{'' if whole else ' cut'}")
    if (status, whole) not in KINDS[kind][1] and not full:
        tally.note("wrong")
        tally.wrong.append(f"{kind}: {status}, whole: {whole}")
    return whole and fields.get("connection") != "close"


async def clients(port, seconds, connections, seed, path):
    until = time.monotonic() + seconds
    with open(path, "w", encoding="ascii") as ids:
        tally = Tally(ids)
        await asyncio.gather(*(
            client(port, until, random.Random(f"{seed}-{number}"), tally)
            for number in range(connections)
        ))
    print(json.dumps({"count": tally.count, "wrong": tally.wrong[:20]}))


# The run.

def resident_kib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1))


def sockets(pid):
    """Open sockets of the process. Its files come when they are first needed, and stay."""
    folder, count = f"/proc/{pid}/fd", 0
    for name in os.listdir(folder):
        try:
            count += os.readlink(f"{folder}/{name}").startswith("socket:")
        except FileNotFoundError:
            pass
    return count


def metrics(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as peer:
        peer.sendall(f"GET /metrics HTTP/1.1\r\nhost: h\r\nconnection: close\r\n"
                     f"authorization: Bearer {KEY}\r\n\r\n".encode())
        text = b"".join(iter(lambda: peer.recv(65_536), b"")).decode()
    return {name: float(value)
            for name, value in re.findall(r"^(gproxy_\w+) ([0-9.e+-]+)$", text, re.M)}


# What may be open when nobody calls: the question for the metrics itself.
IDLE = {"gproxy_connections": 1, "gproxy_requests_in_flight": 1, "gproxy_streams": 0,
        "gproxy_upstream_in_flight": 0, "gproxy_held_bytes": 0, "gproxy_ledger_rows": 0,
        "gproxy_drains": 0, "gproxy_places_taken": 0, "gproxy_spools": 0}


def settle(port, pid, before):
    """Waits until nothing is open; what still is, and the last metrics."""
    deadline = time.monotonic() + 90
    while True:
        found = metrics(port)
        left = {name: found[name] for name, most in IDLE.items() if found[name] > most}
        open_now = sockets(pid)
        if open_now > before:
            left["sockets"] = open_now - before
        if not left or time.monotonic() > deadline:
            return left, found
        time.sleep(1)


def compare_rows(folder, id_files):
    """Ids without a row, rows of the same id, ids that were given twice, and rows in all."""
    books = sqlite3.connect(folder / "data" / "gproxy.db")
    books.execute("CREATE TEMP TABLE seen (id TEXT)")
    for path in id_files:
        with open(path, encoding="ascii") as lines:
            books.executemany("INSERT INTO seen VALUES (?)", ((line.strip(),) for line in lines))
    books.execute("CREATE TEMP TABLE rows AS SELECT request_id AS id FROM usages")
    books.execute("CREATE INDEX temp.rows_id ON rows (id)")
    count = lambda sql: books.execute(f"SELECT count(*) FROM {sql}").fetchone()[0]
    found = {
        "without a row": count("seen WHERE id NOT IN (SELECT id FROM rows)"),
        "with two rows": count("(SELECT id FROM rows GROUP BY id HAVING count(*) > 1)"),
        "given twice": count("(SELECT id FROM seen GROUP BY id HAVING count(*) > 1)"),
    }
    return found, count("rows")


def soak(options, folder):
    port, upstream_port = free_port(), free_port()
    path = folder / "config.toml"
    path.write_text(config(port, upstream_port, folder))
    me = [sys.executable, str(pathlib.Path(__file__).resolve())]
    failing = subprocess.Popen([*me, "--role", "upstream", "--port", str(upstream_port)])
    gateway = subprocess.Popen([options.gproxy, "--config", path, "--log-level", "off"],
                               cwd=folder, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(upstream_port)
        wait_for_port(port)
        before = sockets(gateway.pid)
        files = [folder / f"ids-{number}" for number in range(2)]
        load = [subprocess.Popen(
            [*me, "--role", "clients", "--port", str(port), "--seconds", str(options.seconds),
             "--connections", str(options.connections // 2), "--seed", f"{options.seed}-{number}",
             "--ids", str(file)],
            stdout=subprocess.PIPE, text=True) for number, file in enumerate(files)]
        memory = []
        begun = time.monotonic()
        while any(one.poll() is None for one in load):
            memory.append((time.monotonic() - begun, resident_kib(gateway.pid)))
            time.sleep(1)
        tallies = [json.loads(one.communicate()[0]) for one in load]
        left, found = settle(port, gateway.pid, before)
        gateway.send_signal(signal.SIGTERM)
        code = gateway.wait(timeout=60)
        audit = subprocess.run([options.gproxy, "audit", "--config", path], cwd=folder,
                               capture_output=True, text=True)
        rows = compare_rows(folder, files)
    finally:
        failing.kill()
        if gateway.poll() is None:
            gateway.kill()
    return tallies, memory, left, found, code, audit, rows


def about(memory, seconds):
    """The median of resident memory in the twentieth of the load around a time."""
    width = max(memory[-1][0] / 40, 2)
    near = [kib for at, kib in memory if abs(at - seconds) <= width]
    return statistics.median(near or [memory[-1][1]])


def judge(options, results):
    tallies, memory, left, found, code, audit, (ids, rows) = results
    count = collections.Counter()
    for tally in tallies:
        count.update(tally["count"])
    wrong = [line for tally in tallies for line in tally["wrong"]]
    loaded = min(options.seconds, memory[-1][0])
    third, end = about(memory, loaded / 3), about(memory, loaded * 39 / 40)
    growth = (end - third) / third * 100
    most = 2.0 if options.seconds >= 1_200 else 10.0
    checks = [
        (growth <= most, f"resident memory {third / 1024:.1f} MiB after a third, "
                         f"{end / 1024:.1f} MiB at the end: {growth:+.2f} %, at most {most} %"),
        (not left, f"left open: {left or 'nothing'}"),
        (not wrong, f"calls with another end than they must have: {count['wrong']}, unanswered: "
                    f"{count['unanswered']}" + "".join(f"\n  - {line}" for line in wrong[:5])),
        (audit.returncode == 0, f"gproxy audit: {(audit.stdout + audit.stderr).strip()}"),
        (not any(ids.values()), "ids of answers: " + ", ".join(
            f"{number} {what}" for what, number in ids.items())),
        (found["gproxy_panics_total"] == 0, f"panics: {found['gproxy_panics_total']:.0f}"),
        (code == 0, f"exit code after SIGTERM: {code}"),
    ]
    good = all(passed for passed, _ in checks)
    lines = [f"- {'good' if passed else '**BAD**'}: {text}" for passed, text in checks]
    tenths = ", ".join(f"{about(memory, loaded * (tenth + 0.5) / 10) / 1024:.1f}"
                       for tenth in range(10))
    ends = sorted((name, number) for name, number in count.items() if ":" in name)
    return good, (
        f"\n## Verdict: {'good' if good else 'BAD'}\n\n" + "\n".join(lines) +
        f"\n- in each tenth of the load, MiB: {tenths}"
        f"\n\n## Load\n\n- {count['calls']} calls in {options.seconds} s by {options.connections} "
        f"clients, {count['calls'] / options.seconds:.0f} a second; {rows} rows\n"
        f"- {count['hung up before the head']} hung up before the head, "
        f"{count['hung up after the head']} after it, {count['half requests']} sent half a "
        f"request, {count['503']} found the gateway full\n"
        f"- attempts {found['gproxy_attempts_total']:.0f}, of which failed "
        f"{found['gproxy_attempts_failed_total']:.0f}; replies cut "
        f"{found['gproxy_replies_cut_total']:.0f}\n\n"
        "| what the upstream did, and what the client got | calls |\n|---|---|\n" +
        "".join(f"| {name} | {number} |\n" for name, number in ends)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", help="folder of the record")
    parser.add_argument("--seconds", type=int, default=1_800)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--gproxy", default=str(ROOT / "target" / "release" / "gproxy"))
    parser.add_argument("--role", choices=["upstream", "clients"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ids", help=argparse.SUPPRESS)
    options = parser.parse_args()
    # That somebody has left is what happens here all the time.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if options.role == "upstream":
        return asyncio.run(upstream(options.port))
    if options.role == "clients":
        return asyncio.run(clients(options.port, options.seconds, options.connections,
                                   options.seed, options.ids))
    if not options.machine:
        parser.error("--machine is needed")
    options.gproxy = str(pathlib.Path(options.gproxy).resolve())
    begun = datetime.datetime.now(datetime.timezone.utc)
    arguments = " ".join(word for word in sys.argv[1:] if not word.startswith("/"))
    head = (
        f"# Soak of {begun:%Y-%m-%d %H:%M} UTC\n\n"
        f"- commit: {output_of('git', 'rev-parse', 'HEAD')}\n"
        f"- machine: {machine()}; load before: {os.getloadavg()[0]:.2f}\n"
        f"- command: `bench/soak.py {arguments}`\n"
        "- clients, upstream and gateway share the machine; 2 workers\n"
    )
    folder = pathlib.Path(tempfile.mkdtemp(prefix="gproxy-soak-"))
    try:
        good, text = judge(options, soak(options, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    keep_record(options.machine, begun, "-soak", head + text)
    return sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
