#!/usr/bin/env python3
"""Walks the console in a real browser, on the real binary with traffic.

    tests/console/run.py            everything
    tests/console/run.py -k TEXT    tests whose names hold it

Makes an environment in `.env` and `node_modules`, both ignored by git, and makes them again when
their pins change. GPROXY_BIN names the binary (default: target/debug/gproxy), CHROMIUM the browser
(default: /usr/bin/chromium). Pictures of every page, light and dark, wide and narrow, lie in
`.shots` afterwards. Ends with a summary, and with a non-zero status when anything failed.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ENVIRONMENT = HERE / ".env"


def run(command):
    subprocess.run([str(word) for word in command], cwd=HERE, check=True)


def is_made(stamp, pins):
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    return stamp.is_file() and stamp.read_text() == digest, digest


def make():
    stamp = ENVIRONMENT / "pins.sha256"
    made, digest = is_made(stamp, HERE / "requirements.txt")
    if not made:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        run([sys.executable, "-m", "venv", ENVIRONMENT])
        pip = [ENVIRONMENT / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-input"]
        run([*pip, "--disable-pip-version-check", "--requirement", "requirements.txt"])
        stamp.write_text(digest)
    stamp = HERE / "node_modules" / ".pins.sha256"
    made, digest = is_made(stamp, HERE / "package-lock.json")
    if not made:
        run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"])
        stamp.write_text(digest)


def binary():
    root = HERE.parent.parent
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    path = pathlib.Path(os.environ.get("GPROXY_BIN", root / target / "debug" / "gproxy")).resolve()
    if not path.is_file():
        sys.exit(f"no binary at {path}: run `cargo build`, or name one in GPROXY_BIN")
    return path


def main():
    environment = {**os.environ, "GPROXY_BIN": str(binary()), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"]:
        environment.pop(name, None)
    make()
    command = [ENVIRONMENT / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE]
    return subprocess.run([*command, *sys.argv[1:]], cwd=HERE, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
