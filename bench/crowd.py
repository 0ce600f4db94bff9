#!/usr/bin/env python3
"""Many clients at once: slow ones beside a normal one, open streams, idle connections.

    bench/crowd.py --machine NAME [--gproxy target/release/gproxy] [--only slow,streams,idle]

- slow: 2,000 clients that send a head byte by byte and 500 that hardly read their replies, all at
  once. A normal client, four connections with ten milliseconds between its calls, is measured
  before and meanwhile. Its p99 has to stay below the greater of three times the quiet one and
  50 ms, and the process below the memory that it promises in its log at the start.
- streams: 9,000 open streams, two descriptors each; at most 56 KiB of resident memory for each.
- idle: 15,000 silent keep-alive connections; at most 2 KiB for each.

Everything runs on this machine over loopback, with books, for one user. The record is written to
bench/record/NAME/DATE-crowd.md; the exit code is 1 when a bound was passed or a client saw an
error.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import pathlib
import re
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time

from compare import GPROXY, PRICES, ROOT, MODEL, Bench, Subject
from compare import arguments, commit, free_port, keep_record, machine, metrics, wait_for_port

SLOW_HEADS, SLOW_READERS = 2000, 500
P99_FLOOR_MS, P99_TIMES = 50, 3
STREAM_KIB_MAX, IDLE_KIB_MAX = 56, 2

# What one user may have under way without a look at his share is half of `in_flight_max`.
MORE = """
[[providers]]
name = "endless"
channel = "custom"
[providers.settings]
base_url = "http://127.0.0.1:{endless}"
dialects = ["openai_chat"]
[limits]
connections_max = {connections}
in_flight_max = {in_flight}
"""


# --- Slow clients --------------------------------------------------------------------------------


class Client:
    """A connection that is opened again whenever the gateway has closed it."""

    def __init__(self, port):
        self.port, self.closed, self.sock = port, 0, None
        self.open()

    def open(self):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect(("127.0.0.1", self.port))
        self.sock.setblocking(False)
        self.begin()

    def again(self):
        self.sock.close()
        self.closed += 1
        self.open()

    def read(self, size):
        try:
            if not self.sock.recv(size):
                self.again()
        except BlockingIOError:
            pass
        except OSError:
            self.again()


class SlowHead(Client):
    """Sends a head of which a byte comes each second."""

    HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: " + b"a" * 10_000

    def begin(self):
        self.at = 0
        self.turn()

    def turn(self):
        try:
            self.sock.send(self.HEAD[self.at:self.at + 1])
            self.at += 1
        except OSError:
            return self.again()
        self.read(4096)


class SlowReader(Client):
    """Asks for more than it will ever read, and reads a KiB each second."""

    def begin(self):
        stream = str(self.sock.fileno() % 2 == 0).lower()
        body = f'{{"model":"endless/m","stream":{stream},"messages":[]}}'.encode()
        self.sock.setblocking(True)
        self.sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
                          b"authorization: Bearer sk-admin-1\r\ncontent-length: "
                          + str(len(body)).encode() + b"\r\n\r\n" + body)
        self.sock.setblocking(False)

    def turn(self):
        self.read(1024)


def attack(make, count, port, told):
    """Each client has its turn once a second, evenly spread."""
    clients = [make(port) for _ in range(count)]
    told.send("ready")
    due = time.monotonic()
    while not told.poll():
        for at, client in enumerate(clients):
            client.turn()
            if at % 20 == 0:
                due += 20 / count
                time.sleep(max(0, due - time.monotonic()))
        due = max(due, time.monotonic() - 1)
    told.send(sum(client.closed for client in clients))


class Attack:
    def __init__(self, make, count, port):
        self.told, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=attack, args=(make, count, port, theirs))
        self.process.start()
        self.told.recv()

    def stop(self):
        """How often the gateway closed a connection of theirs."""
        self.told.send("stop")
        closed = self.told.recv()
        self.process.join()
        return closed


def endless(port):
    """An upstream whose replies do not end while somebody takes them."""
    event = b'data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,' \
            b'"delta":{"content":"' + b"word " * 200 + b'"},"finish_reason":null}]}\n\n'
    piece = b"%x\r\n%b\r\n" % (len(event), event) * 16
    stream = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" \
             b"transfer-encoding: chunked\r\n\r\n"
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" \
            b"content-length: 1000000000\r\n\r\n{\"text\":\""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    poll = selectors.DefaultSelector()
    poll.register(listener, selectors.EVENT_READ)
    rest = {}
    while True:
        for key, _ in poll.select():
            sock = key.fileobj
            if sock is listener:
                taken, _ = listener.accept()
                taken.setblocking(False)
                poll.register(taken, selectors.EVENT_READ)
                continue
            try:
                if sock not in rest:
                    asked = sock.recv(65536)
                    rest[sock] = stream if b'"stream":true' in asked else whole
                    poll.modify(sock, selectors.EVENT_WRITE)
                left = rest[sock] or piece
                rest[sock] = left[sock.send(left):]
            except BlockingIOError:
                pass
            except OSError:
                poll.unregister(sock)
                rest.pop(sock, None)
                sock.close()


# --- Measuring -----------------------------------------------------------------------------------


class Crowd(Bench):
    def __init__(self, options, folder):
        super().__init__(options, folder)
        self.endless = free_port()
        self.giver = multiprocessing.Process(target=endless, args=(self.endless,), daemon=True)
        self.giver.start()
        wait_for_port(self.endless)

    def crowded(self, connections=10_000, in_flight=4096):
        """The gateway with these limits, those of every day as a rule, and its log in a file."""
        port = free_port()
        folder = self.folder / str(port)
        folder.mkdir()
        fields = {"folder": folder, "whole": self.whole, "stream": self.stream, "port": port,
                  "switches": "", "endless": self.endless, "connections": connections,
                  "in_flight": in_flight}
        (folder / "config.toml").write_text((GPROXY + PRICES.replace("{", "{{").replace("}", "}}")
                                             + MORE).format(**fields))
        with open(folder / "log", "w") as log:
            command = [self.options.gproxy, "--config", folder / "config.toml"]
            process = subprocess.Popen(command, stderr=log, cwd=self.folder)
        wait_for_port(port)
        paths = {kind: "/v1/chat/completions" for kind in ["whole", "stream"]}
        models = {kind: f"{kind}/{MODEL}" for kind in ["whole", "stream"]}
        subject = Subject("gproxy", port, process, paths, models)
        subject.log = folder / "log"
        return subject


def gauge(subject, name):
    return metrics(subject.port)[name]


def wait_until(what, holds, seconds=120):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: it did not happen within {seconds} s")
        time.sleep(0.2)


class Peak:
    """The most resident memory, looked at every 50 ms."""

    def __init__(self, subject):
        self.kib, self.open = 0, True
        self.thread = threading.Thread(target=self.run, args=(subject,))
        self.thread.start()

    def run(self, subject):
        while self.open:
            self.kib = max(self.kib, subject.resident_kib())
            time.sleep(0.05)

    def stop(self):
        self.open = False
        self.thread.join()
        return self.kib


def verdict(holds):
    return "**holds**" if holds else "**DOES NOT HOLD**"


def slow(bench, options):
    subject = bench.crowded()
    seconds = options.seconds
    normal = ["--connections", 4, "--pace-us", 10_000, "--seconds", seconds]
    bench.load(subject, "whole", "--connections", 4, "--requests", 200, "--seconds", 10)
    quiet, before = bench.load(subject, "whole", *normal), subject.resident_kib()
    attacks = [Attack(SlowHead, SLOW_HEADS, subject.port),
               Attack(SlowReader, SLOW_READERS, subject.port)]
    count = SLOW_HEADS + SLOW_READERS
    wait_until("the slow clients", lambda: gauge(subject, "gproxy_connections") >= count * 0.98
               and gauge(subject, "gproxy_upstream_in_flight") >= SLOW_READERS)
    peak = Peak(subject)
    loaded = bench.load(subject, "whole", *normal)
    after = [gauge(subject, f"gproxy_{name}") for name in ["connections", "upstream_in_flight"]]
    peak_kib = peak.stop()
    closed = [one.stop() for one in attacks]
    begun = time.monotonic()
    wait_until("the end of the crowd", lambda: gauge(subject, "gproxy_connections") <= 8)
    gone = time.monotonic() - begun
    told = re.search(r"memory of at most (\d+) MiB", subject.log.read_text())
    subject.stop()
    bound_mib = int(told.group(1))
    bound_ms = max(P99_TIMES * quiet["p99_us"] / 1000, P99_FLOOR_MS)
    holds = [loaded["p99_us"] / 1000 < bound_ms, peak_kib / 1024 < bound_mib]
    rows = "".join(
        f"| {name} | {run['requests']} | {run['p50_us'] / 1000:.2f} "
        f"| {run['p99_us'] / 1000:.2f} |\n"
        for name, run in [("quiet", quiet), ("beside the crowd", loaded)])
    return all(holds), (
        f"\n## {SLOW_HEADS} slow heads and {SLOW_READERS} slow readers, beside a normal client\n\n"
        f"| normal client | calls in {seconds} s | p50 ms | p99 ms |\n|---|---|---|---|\n{rows}\n"
        f"- p99 below {bound_ms:.1f} ms: {verdict(holds[0])}\n"
        f"- memory: {before / 1024:.0f} MiB before, {peak_kib / 1024:.0f} MiB at the most, told "
        f"at the start: at most {bound_mib} MiB: {verdict(holds[1])}\n"
        f"- at the end of the run there were {after[0]:.0f} connections and {after[1]:.0f} "
        f"upstream calls; of the slow heads {closed[0]} were closed and opened again, of the slow "
        f"readers {closed[1]}; {gone:.1f} s after the crowd had left its connections were gone\n")


def held(bench, kind, count, bound_kib, pace):
    """Memory that so many connections add."""
    # One place more to look from; for all of them the system may have no room.
    subject = bench.crowded(count + 1, 3 * count)
    bench.load(subject, "whole", "--requests", 200, "--seconds", 10)
    time.sleep(3)
    before = subject.resident_kib()
    command = bench.command(subject, kind, "--hold", "--connections", count, *pace)
    load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if load.stdout.readline().strip() != "held":
        sys.exit(f"{count} connections were not held")
    # Idle connections are parked by then.
    time.sleep(10 if kind == "whole" else 3)
    each = (subject.resident_kib() - before) / count
    descriptors = len(os.listdir(f"/proc/{subject.process.pid}/fd"))
    is_open = kind == "whole" or gauge(subject, "gproxy_streams") == count
    result = json.loads(load.communicate()[0])
    subject.stop()
    holds = [not result["errors"] and is_open, each <= bound_kib]
    names = {"whole": "idle keep-alive connections", "stream": "open streams"}
    why = f" ({result['why']})" if result["errors"] else ""
    return all(holds), (
        f"\n## {count} {names[kind]}\n\n- all at once, {result['errors']} errors{why}: "
        f"{verdict(holds[0])}\n"
        f"- {each:.2f} KiB of resident memory for each, at most {bound_kib}: {verdict(holds[1])}\n"
        f"- {descriptors} descriptors were open\n")


def streams(bench, options):
    # One after the other, for the upstream's backlog is short. Events every six seconds: a stream
    # lasts two minutes.
    pace = ["--gap-us", 6_000_000, "--pace-us", 1000]
    return held(bench, "stream", options.streams, STREAM_KIB_MAX, pace)


def idle(bench, options):
    # All within the 75 seconds that a connection may be silent.
    return held(bench, "whole", options.idle, IDLE_KIB_MAX, ["--pace-us", 1000])


PARTS = {"slow": slow, "streams": streams, "idle": idle}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", required=True, help="folder of the record")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--streams", type=int, default=9000)
    parser.add_argument("--idle", type=int, default=15_000)
    parser.add_argument("--gproxy", default=str(ROOT / "target" / "release" / "gproxy"))
    options = parser.parse_args()
    options.gproxy = str(pathlib.Path(options.gproxy).resolve())
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < 20_000:
        sys.exit(f"20,000 descriptors are needed, {most} are allowed: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    begun = datetime.datetime.now(datetime.timezone.utc)
    text = (
        f"# Crowds of {begun:%Y-%m-%d %H:%M} UTC\n\n"
        f"- commit: {commit()}\n"
        f"- machine: {machine()}; load before: {os.getloadavg()[0]:.2f}; {most} descriptors\n"
        f"- command: `bench/crowd.py {arguments()}`\n"
        f"- 2 workers, with books and a line of log for each request; crowd, normal client and "
        f"upstreams share the machine\n"
    )
    good = True
    with tempfile.TemporaryDirectory(prefix="gproxy-crowd-") as folder:
        bench = Crowd(options, pathlib.Path(folder))
        try:
            for name in options.only.split(","):
                holds, part = PARTS[name](bench, options)
                good, text = good and holds, text + part
        finally:
            bench.upstream.kill()
            bench.giver.kill()
    keep_record(options.machine, begun, "-crowd", text)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
