#!/usr/bin/env python3
"""Runs the official SDKs against the real binary and a scripted upstream.

    tests/sdk/run.py            everything
    tests/sdk/run.py current    one environment: current, previous, oldest or node

Makes its own environments in `.env` and `node_modules`, both ignored by git, and makes them again
when their pins change. GPROXY_BIN names the binary (default: target/debug/gproxy). Ends with a
summary, and with a non-zero status when anything failed.
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ENVIRONMENTS = HERE / ".env"
PYTHONS = ["current", "previous", "oldest"]
ADMIN_KEY = "sk-admin-1"
ALICE_KEY = "sk-alice-0123456789abcdef0123456789abcdef"
UPSTREAM_KEY = "upstream-credential-5f2a"

OPENAI = '"openai_chat", "openai_responses", "openai_embeddings"'
PROVIDERS = {
    "openai-main": OPENAI,
    "anthropic-main": '"anthropic"',
    "vertex-main": '"gemini"',
    "router": OPENAI + ', "anthropic", "gemini"',
}

TABLES = f"""
[[models]]
provider_name = "openai-main"
model_id = "gpt-4.1-mini"
[[models]]
provider_name = "anthropic-main"
model_id = "claude-3-5-sonnet-latest"
[[models]]
provider_name = "vertex-main"
model_id = "gemini-1.5-flash"
[[models]]
provider_name = "router"
model_id = "meta-llama/llama-3-70b:free"

[[model_aliases]]
alias = "chat-default"
provider_name = "openai-main"
model_id = "gpt-4.1-mini"
[[model_aliases]]
alias = "claude-default"
provider_name = "anthropic-main"
model_id = "claude-3-5-sonnet-latest"
[[model_aliases]]
alias = "gemini-default"
provider_name = "vertex-main"
model_id = "gemini-1.5-flash"

[[users]]
name = "admin"
is_admin = true
[[users.keys]]
api_key = "{ADMIN_KEY}"
[[users]]
name = "alice"
[[users.keys]]
api_key = "{ALICE_KEY}"

[[permissions]]
user_name = "admin"
model_pattern = "*"
[[file_permissions]]
user_name = "admin"
provider_name = "openai-main"
[[file_permissions]]
user_name = "admin"
provider_name = "anthropic-main"
[[file_permissions]]
user_name = "admin"
provider_name = "vertex-main"
[[permissions]]
user_name = "alice"
provider_name = "openai-main"
model_pattern = "gpt-*"
"""


def config(port, upstream_port, folder):
    text = f"""
[global]
host = "127.0.0.1"
port = {port}
workers = 2
data_dir = "{folder / "data"}"
"""
    for name, dialects in PROVIDERS.items():
        text += f"""
[[providers]]
name = "{name}"
channel = "custom"
credentials = [{{ api_key = "{UPSTREAM_KEY}" }}]
[providers.settings]
base_url = "http://127.0.0.1:{upstream_port}"
dialects = [{dialects}]
"""
    return text + TABLES


def is_made(stamp, pins):
    digest = hashlib.sha256(pins).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return True, digest
    return False, digest


def make_python(name):
    folder = ENVIRONMENTS / name
    pins = HERE / "requirements" / f"{name}.txt"
    stamp = folder / "pins.sha256"
    made, digest = is_made(stamp, pins.read_bytes())
    if not made:
        shutil.rmtree(folder, ignore_errors=True)
        run([sys.executable, "-m", "venv", folder])
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input"]
        run([*pip, "--disable-pip-version-check", "--requirement", pins])
        stamp.write_text(digest)
    return folder / "bin" / "python"


def make_node():
    stamp = HERE / "node_modules" / ".pins.sha256"
    made, digest = is_made(stamp, (HERE / "package-lock.json").read_bytes())
    if not made:
        run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"])
        stamp.write_text(digest)


def run(command):
    subprocess.run([str(word) for word in command], cwd=HERE, check=True)


def binary():
    path = os.environ.get("GPROXY_BIN")
    if path is None:
        root = HERE.parent.parent
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
        path = root / target / "debug" / "gproxy"
    path = pathlib.Path(path).resolve()
    if not path.is_file():
        sys.exit(f"no binary at {path}: run `cargo build`, or name one in GPROXY_BIN")
    return path


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def start_upstream():
    command = [sys.executable, HERE / "upstream.py"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def start_gateway(folder, upstream_port, log):
    port = free_port()
    path = folder / "config.toml"
    path.write_text(config(port, upstream_port, folder))
    command = [binary(), "--config", path]
    process = subprocess.Popen(command, stderr=log, cwd=folder)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5):
                return process, port
        except OSError:
            time.sleep(0.02)
    log.flush()
    sys.exit(f"the gateway did not start:\n{(folder / 'stderr').read_text()[-4000:]}")


def stop(process):
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def run_tests(which, environment):
    environment = {**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"]:
        environment.pop(name, None)
    if which == "node":
        files = sorted((HERE / "node").glob("*.test.mjs"))
        command = ["node", "--test", "--test-concurrency=1", *files]
    else:
        python = ENVIRONMENTS / which / "bin" / "python"
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "python"]
        command += os.environ.get("SDK_PYTEST", "").split()
    return subprocess.run([str(word) for word in command], cwd=HERE, env=environment).returncode


def main():
    wanted = sys.argv[1:] or [*PYTHONS, "node"]
    binary()
    for which in wanted:
        make_node() if which == "node" else make_python(which)
    results = {}
    with tempfile.TemporaryDirectory(prefix="gproxy-sdk-") as folder:
        folder = pathlib.Path(folder)
        upstream, upstream_port = start_upstream()
        with open(folder / "stderr", "w+") as log:
            gateway, port = start_gateway(folder, upstream_port, log)
            environment = {
                "GATEWAY_URL": f"http://127.0.0.1:{port}",
                "UPSTREAM_URL": f"http://127.0.0.1:{upstream_port}",
            }
            for which in wanted:
                print(f"--- {which}", flush=True)
                results[which] = run_tests(which, environment)
            missed = []
            if wanted == [*PYTHONS, "node"]:
                with urllib.request.urlopen(f"http://127.0.0.1:{upstream_port}/_rows") as rows:
                    missed = json.load(rows)
            alive = gateway.poll() is None
            status = stop(gateway)
        upstream.kill()
        if any(results.values()) or not alive or status != 0:
            print("the gateway's last words:")
            print("\n".join((folder / "stderr").read_text().splitlines()[-40:]))
    for which, code in results.items():
        print(f"sdk {which}: {'ok' if code == 0 else f'FAILED ({code})'}")
    for row in missed:
        print(f"sdk: no client made the call {row}")
    print(f"sdk gateway: {'ok' if alive and status == 0 else f'FAILED (exit {status})'}")
    return 1 if any(results.values()) or missed or not alive or status != 0 else 0


if __name__ == "__main__":
    sys.exit(main())
