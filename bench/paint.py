#!/usr/bin/env python3
"""How soon a browser paints the console, on loopback.

    cargo build --release
    tests/console/run.py -k nothing     # makes the environment
    tests/console/.env/bin/python bench/paint.py [--gateway target/release/gproxy]

Opens the page of the sign-in, and that of an administrator who is signed in, each twenty times in
a browser that has never seen them, and asks it when it painted the first text.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile

from playwright.sync_api import sync_playwright

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "console"))
from gateway import ADMIN_KEY, Gateway  # noqa: E402

TIMES = 20
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--gateway", default=ROOT / "target" / "release" / "gproxy")
    options = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="gproxy-paint-") as folder:
        gateway = Gateway(pathlib.Path(folder), pathlib.Path(options.gateway).resolve())
        gateway.start()
        with sync_playwright() as playwright:
            path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            print("| page | first paint, median | longest |")
            print("|---|---|---|")
            row("sign-in", paints(browser, gateway, None, "User name"))
            row("overview, signed in", paints(browser, gateway, session(browser, gateway), None))
            browser.close()
        gateway.stop()


def row(name, times):
    print(f"| {name} | {statistics.median(times):.0f} ms | {max(times):.0f} ms |")


def session(browser, gateway):
    """The cookies of an administrator who is signed in."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(gateway.console)
    page.get_by_role("button", name="Use a key").click()
    page.get_by_label("Key").fill(ADMIN_KEY)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Overview").wait_for()
    state = context.storage_state()
    context.close()
    return state


def paints(browser, gateway, state, label):
    times = []
    for _ in range(TIMES):
        context = browser.new_context(storage_state=state)
        page = context.new_page()
        page.goto(gateway.console)
        place = page.get_by_label(label) if label else page.get_by_role("heading", level=1)
        place.wait_for()
        page.wait_for_function(f"{PAINT} !== undefined")
        times.append(page.evaluate(PAINT))
        context.close()
    return times


if __name__ == "__main__":
    main()
