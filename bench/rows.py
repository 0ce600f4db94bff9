#!/usr/bin/env python3
"""How many usage rows the one writer keeps up with, under load and for as long as it is asked.

    bench/rows.py --machine NAME [--seconds 60] [--gproxy target/release/gproxy]

Small chats go through a gateway with prices, a limit and a quota, as fast as they come back. Each
second the rows that were taken and the rows that wait for the disk are read from `/metrics`. Then
the gateway is stopped, its rows are counted in the file and compared with the replies that the load
generator verified, and `gproxy audit` goes through them. The writer keeps up when it wrote 20,000
rows a second on average and no more rows wait at the end of the run than in its middle, give or
take what is taken in half a second.

Everything runs on this machine over loopback. The record is written to
bench/record/NAME/DATE-rows.md; the exit code is 1 when the writer did not keep up or a row is
missing.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

from compare import ROOT, Bench, arguments, commit, keep_record, machine, metrics

ROWS_A_SECOND = 20_000


def watched(bench, subject, seconds):
    """The load's result, and (rows taken, rows waiting) of each second."""
    command = bench.command(subject, "whole", "--seconds", seconds)
    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    samples = []
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            load.wait(timeout=1)
        if load.returncode is not None:
            return json.loads(load.stdout.read()), samples
        seen = metrics(subject.port)
        samples.append((time.monotonic(), seen["gproxy_usage_rows_total"],
                        seen["gproxy_ledger_rows"]))


def rows_in(folder):
    database = folder / "gproxy.db"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return (connection.execute("SELECT count(*) FROM usages").fetchone()[0],
                database.stat().st_size)


def measure(bench, options):
    subject = bench.gproxy("with limits")
    result, samples = watched(bench, subject, options.seconds)
    subject.stop()
    if result["errors"]:
        sys.exit(f"the load saw errors: {result}")
    folder = bench.folder / "with-limits"
    written, size = rows_in(folder / "data")
    begun = time.monotonic()
    audit = subprocess.run([options.gproxy, "audit", "--config", folder / "config.toml"],
                           capture_output=True, text=True)
    took = time.monotonic() - begun
    each = [(after[1] - before[1]) / (after[0] - before[0])
            for before, after in zip(samples, samples[1:])]
    waiting = [sample[2] for sample in samples]
    middle = statistics.median(waiting[len(waiting) // 3:2 * len(waiting) // 3])
    end = statistics.median(waiting[-len(waiting) // 5:])
    rate = written / result["seconds"]
    said = (audit.stdout + audit.stderr).strip().splitlines()
    verdicts = {
        f"{rate:.0f} rows a second over {result['seconds']:.0f} s, "
        f"{ROWS_A_SECOND} asked": rate >= ROWS_A_SECOND,
        f"rows that waited: {middle:.0f} in the middle of the run, {end:.0f} at its end":
            end <= middle + rate / 2,
        f"{result['requests']} verified replies, {written} rows in the file":
            written == result["requests"],
        f"audit, in {took:.1f} s: {said[-1] if said else 'nothing said'}": audit.returncode == 0,
    }
    lines = [f"- {what}: {'**holds**' if holds else '**DOES NOT HOLD**'}\n"
             for what, holds in verdicts.items()]
    lines.append(f"- a second's rows: {min(each):.0f} at the least, {statistics.median(each):.0f} "
                 f"in the median, {max(each):.0f} at the most; most rows that waited at once: "
                 f"{max(waiting):.0f}; {size / max(written, 1):.0f} bytes of file a row\n")
    return all(verdicts.values()), "".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", required=True, help="folder of the record")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--gproxy", default=str(ROOT / "target" / "release" / "gproxy"))
    options = parser.parse_args()
    options.gproxy = str(pathlib.Path(options.gproxy).resolve())
    begun = datetime.datetime.now(datetime.timezone.utc)
    text = (
        f"# Rows of one writer, {begun:%Y-%m-%d %H:%M} UTC\n\n"
        f"- commit: {commit()}\n"
        f"- machine: {machine()}; load before: {os.getloadavg()[0]:.2f}\n"
        f"- command: `bench/rows.py {arguments()}`\n"
        f"- 2 workers, 32 connections, prices, a limit and a quota; load generator and upstream "
        f"share the machine\n\n"
    )
    with tempfile.TemporaryDirectory(prefix="gproxy-rows-") as folder:
        bench = Bench(options, pathlib.Path(folder))
        try:
            good, part = measure(bench, options)
        finally:
            bench.upstream.kill()
    keep_record(options.machine, begun, "-rows", text + part)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
