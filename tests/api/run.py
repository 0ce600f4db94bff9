#!/usr/bin/env python3
"""Holds the administration interface against the OpenAPI document that it serves.

    tests/api/run.py [SECONDS]

Starts the binary with the shipped configuration's channel and one administrator, and lets
schemathesis call every operation with sound and unsound data for so long (60 unless said). Makes
its own environment in `.env`, ignored by git. GPROXY_BIN names the binary (default:
target/debug/gproxy). Ends with a non-zero status when anything differed.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".env"
PINNED = "schemathesis==4.32.5"
KEY = "sk-admin-1"
CONFIG = f"""
[global]
port = PORT
data_dir = "DATA"
[[providers]]
name = "local"
channel = "echo"
[[users]]
name = "admin"
is_admin = true
[[users.keys]]
api_key = "{KEY}"
[[permissions]]
user_name = "admin"
model_pattern = "*"
[[quotas]]
user_name = "admin"
quota = "10"
[[rate_limits]]
user_name = "admin"
model_pattern = "*"
rpm = 1000000
"""


def prepare():
    """The environment, made when it is not there or for another version."""
    mark = ENVIRONMENT / "pinned"
    if not mark.exists() or mark.read_text() != PINNED:
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        subprocess.run([ENVIRONMENT / "bin" / "pip", "install", "-q", PINNED], check=True)
        mark.write_text(PINNED)
    return ENVIRONMENT / "bin" / "schemathesis"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_healthy(base, process):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{base}/healthz", timeout=2).close()
            return
        except (OSError, urllib.error.URLError):
            time.sleep(0.05)
    sys.exit("the gateway did not start")


def main():
    seconds = sys.argv[1] if len(sys.argv) > 1 else "60"
    tool = prepare()
    binary = pathlib.Path(os.environ.get("GPROXY_BIN", HERE.parents[1] / "target/debug/gproxy"))
    with tempfile.TemporaryDirectory(prefix="gproxy-api-") as folder:
        folder = pathlib.Path(folder)
        port = free_port()
        config = CONFIG.replace("PORT", str(port)).replace("DATA", str(folder / "data"))
        (folder / "config.toml").write_text(config)
        base = f"http://127.0.0.1:{port}"
        with open(folder / "log", "w") as log:
            process = subprocess.Popen(
                [binary.resolve(), "--config", folder / "config.toml"], stdout=log, stderr=log)
        try:
            wait_healthy(base, process)
            command = [
                tool, "--config-file", HERE / "schemathesis.toml", "run",
                f"{base}/admin/api/openapi.json", "--header", f"Authorization: Bearer {KEY}",
                "--checks", "all", "--max-time", seconds, "--max-examples", "30", "--seed", "1",
                "--continue-on-failure", "--warnings", "off",
            ]
            status = subprocess.run(command, cwd=folder).returncode
            assert process.poll() is None, "the gateway ended"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=40)
        panics = [line for line in (folder / "log").read_text().splitlines() if "panic" in line]
        for line in panics:
            print(line)
    print(f"{0 if status else 1} passed, {1 if status else 0} failed: schemathesis")
    sys.exit(status or len(panics))


if __name__ == "__main__":
    main()
