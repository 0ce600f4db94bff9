#!/usr/bin/env python3
"""How long the console's questions take over many usage rows, while more are written.

    cargo build --release
    bench/console.py [--rows 5000000] [--gateway target/release/gproxy] > DATE-console.md

Fills the books of a stopped gateway, starts it, keeps calling it from the side, and asks what the
Overview asks (five questions at once, as a browser does) and what a search of Requests asks: warm,
each twenty times. The sums of each day, user and provider are compared with those of the raw rows.
"""

import argparse
import concurrent.futures
import os
import pathlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from decimal import Decimal

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "console"))
import books  # noqa: E402
import gateway as gateways  # noqa: E402

TIMES = 20
DAYS = 90
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=5_000_000)
    options.add_argument("--gateway", default=ROOT / "target" / "release" / "gproxy")
    options = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="gproxy-console-") as folder:
        gateway = gateways.Gateway(pathlib.Path(folder), pathlib.Path(options.gateway).resolve())
        gateway.start()
        gateway.stop()
        file = pathlib.Path(folder) / "data" / "gproxy.db"
        books.fill(file, options.rows, DAYS, int(time.time() * 1000))
        gateway.start()
        wait_for_days(file)
        assert told(gateway) == raw(file)
        report(options, gateway, file)
        gateway.stop()


def wait_for_days(file):
    """Until each day that is over has sums of its own: made in the background, once."""
    today = int(time.time() * 1000 - 2 * HOUR_MS) // DAY_MS
    connection = sqlite3.connect(file)
    while connection.execute("SELECT day FROM daily_until").fetchone()[0] < today:
        time.sleep(0.2)


def raw(file):
    """By day, user and provider: requests, tokens, milliseconds and cost, from the rows."""
    connection = sqlite3.connect(file)
    select = "SELECT at / 86400000 * 86400000, user, provider, count(*), sum(input_tokens), " \
        "sum(output_tokens), sum(total_ms), sum(cost) FROM usages GROUP BY 1, 2, 3"
    return {row[:3]: row[3:] for row in connection.execute(select)}


def told(gateway):
    """The same as the gateway tells it."""
    names = ["requests", "input_tokens", "output_tokens", "total_ms"]
    return {
        (one["day"], one["user"], one["provider"]):
            (*(one[name] for name in names), int(Decimal(one["cost"]) * 10**12))
        for one in sums(gateway, by="day,user,provider")
    }


def sums(gateway, **query):
    text = "&".join(f"{name}={value}" for name, value in query.items())
    return gateway.call("GET", f"/admin/api/usage/sums?{text}")[1]["items"]


def overview(gateway, days, cut, pool):
    """What `pages/overview.js` asks."""
    step = HOUR_MS if cut == "hour" else DAY_MS
    end = (int(time.time() * 1000) // step + 1) * step
    begin = end - days * DAY_MS
    now, before = {"from": begin, "to": end}, {"from": begin - days * DAY_MS, "to": begin}
    asked = [
        {**now, "by": f"{cut},user"}, now, {**before, "by": "user"}, {**now, "by": "user"},
        {**now, "by": "provider,model,status,outcome"},
    ]
    list(pool.map(lambda query: sums(gateway, **query), asked))


SEARCHES = [
    "limit=50", "user_name=carol&limit=50", "status_min=500&limit=50",
    "user_name=bob&model=claude*&status_min=429&status_max=429&limit=50", "cost_min=0.2&limit=50",
    "user_name=nobody&limit=50",
]


def report(options, gateway, file):
    stop = threading.Event()
    written = [0]

    def write():
        while not stop.is_set():
            gateway.chat(gateways.ADMIN_KEY, "openai-main/gpt-4.1")
            written[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    size = file.stat().st_size >> 20
    cpus = pathlib.Path("/proc/cpuinfo").read_text().partition("model name")[2]
    cpu = cpus.partition(":")[2].partition("\n")[0].strip()
    machine = f"{os.cpu_count()} cores, {cpu}"
    print(f"# The console's questions over {options.rows:,} rows ({size} MiB)\n")
    print(f"Commit {commit}; `bench/console.py --rows {options.rows}`; {machine}; warm, while "
          f"rows are written; median and longest of {TIMES}, in ms. The sums of each day, user "
          "and provider are those of the raw rows.\n")
    print("| question | median | longest |\n|---|---:|---:|")
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        for days, cut in [(1, "hour"), (7, "hour"), (30, "day"), (90, "day")]:
            line(f"overview, {days} d", lambda: overview(gateway, days, cut, pool))
        for search in SEARCHES:
            line(f"`{search}`", lambda: gateway.call("GET", f"/admin/api/usage?{search}"))
    stop.set()
    writer.join()
    print(f"\nMeanwhile {written[0]:,} requests were served and recorded.")


def line(name, ask):
    ask()
    taken = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - begun) * 1000)
    print(f"| {name} | {statistics.median(taken):.0f} | {max(taken):.0f} |", flush=True)


if __name__ == "__main__":
    main()
