#!/usr/bin/env python3
"""Runs the static binary in an empty root and calls upstreams by name.

    .ci/empty_root.py BINARY

The root holds the binary, its configuration, /etc/hosts and /etc/resolv.conf, and nothing else: no
libraries, no NSS, no certificates, no /proc. One name stands in the hosts file, one is answered by a
small name server over UDP, and one only over TCP, since its answer over UDP says "truncated".
"""

import http.client
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

# Any address of the loopback network will do; this one is nobody's usual resolver.
SERVER = "127.0.0.77"
HOSTS, UDP, TCP, NOBODY = "hosts.test", "udp.test", "tcp.test", "nobody.test"
A, CODE_OK, CODE_NO_SUCH_NAME = 1, 0, 3
asked = []


def answer(query, over_tcp):
    """The reply to a DNS query: A records of 127.0.0.1 for the names that we know."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    kind = struct.unpack(">H", query[at + 1:at + 3])[0]
    name = ".".join(labels).lower()
    asked.append((name, over_tcp))
    known = name in (UDP, TCP)
    truncated = name == TCP and not over_tcp
    flags = 0x8180 | (0x0200 if truncated else 0) | (CODE_OK if known else CODE_NO_SUCH_NAME)
    records = b""
    if known and kind == A and not truncated:
        records = b"\xc0\x0c" + struct.pack(">HHIH", A, 1, 60, 4) + bytes([127, 0, 0, 1])
    counts = struct.pack(">HHHH", 1, 1 if records else 0, 0, 0)
    return query[:2] + struct.pack(">H", flags) + counts + query[12:at + 5] + records


def serve_udp(sock):
    while True:
        query, peer = sock.recvfrom(1500)
        sock.sendto(answer(query, False), peer)


def serve_tcp(listener):
    while True:
        sock, _ = listener.accept()
        with sock, sock.makefile("rwb") as file:
            length = struct.unpack(">H", file.read(2))[0]
            reply = answer(file.read(length), True)
            file.write(struct.pack(">H", len(reply)) + reply)
            file.flush()


class Upstream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"model": "m-dated", "host": self.headers["host"]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def background(function, *arguments):
    threading.Thread(target=function, args=arguments, daemon=True).start()


def start_servers():
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((SERVER, 53))
    background(serve_udp, udp)
    background(serve_tcp, socket.create_server((SERVER, 53)))
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    background(upstream.serve_forever)
    return upstream.server_port


def config(port, upstream_port):
    text = f'[global]\nhost = "127.0.0.1"\nport = {port}\nworkers = 2\ndata_dir = "/data"\n'
    for name in [HOSTS, UDP, TCP, NOBODY]:
        text += (
            f'[[providers]]\nname = "{name}"\nchannel = "custom"\n'
            f'credentials = [{{ api_key = "upstream-credential" }}]\n[providers.settings]\n'
            f'base_url = "http://{name}:{upstream_port}"\ndialects = ["openai_chat"]\n')
    return text + (
        '[[users]]\nname = "admin"\nis_admin = true\n[[users.keys]]\napi_key = "sk-admin-1"\n'
        '[[permissions]]\nuser_name = "admin"\nmodel_pattern = "*"\n')


def fill(root, binary, port, upstream_port):
    (root / "etc").mkdir()
    (root / "data").mkdir()
    shutil.copy(binary, root / "gproxy")
    (root / "config.toml").write_text(config(port, upstream_port))
    (root / "etc" / "hosts").write_text(f"127.0.0.1 localhost\n127.0.0.1\t{HOSTS} alias.test\n")
    (root / "etc" / "resolv.conf").write_text(f"nameserver {SERVER}\noptions timeout:2\n")


def call(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"authorization": "Bearer sk-admin-1", "content-type": "application/json"}
    connection.request(method, path, body and json.dumps(body), headers)
    reply = connection.getresponse()
    return reply.status, reply.read()


def wait_healthy(port, process):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if call(port, "GET", "/healthz")[0] == 200:
                return
        except OSError:
            time.sleep(0.02)
    sys.exit("the gateway did not start in the empty root")


def enter(folder):
    os.chroot(folder)
    os.chdir("/")


def check(port, name, upstream_port):
    body = {"model": f"{name}/m", "messages": []}
    status, text = call(port, "POST", "/v1/chat/completions", body)
    if name == NOBODY:
        assert status == 502, (name, status, text)
        return
    assert status == 200, (name, status, text)
    expected = {"model": f"{name}/m", "host": f"{name}:{upstream_port}"}
    assert json.loads(text) == expected, (name, text)


def main():
    upstream_port = start_servers()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="gproxy-root-") as folder:
        root = pathlib.Path(folder)
        fill(root, sys.argv[1], port, upstream_port)
        command = ["/gproxy", "--config", "/config.toml"]
        process = subprocess.Popen(command, env={}, preexec_fn=lambda: enter(folder))
        try:
            wait_healthy(port, process)
            for name in [HOSTS, UDP, TCP, NOBODY]:
                check(port, name, upstream_port)
                print(f"empty root: {name} as it should be")
            assert (TCP, True) in asked, "the truncated answer was asked for again over TCP"
            assert not [name for name, _ in asked if name == HOSTS], "hosts come first"
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(timeout=40)
    assert status == 0, f"exit {status}"


if __name__ == "__main__":
    main()
