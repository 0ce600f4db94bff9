#!/usr/bin/env python3
"""Compares ways to the same upstream: direct, through nginx, and through GPROXY.

    bench/compare.py --machine NAME [--rounds 7] [--seconds 4] [--gproxy target/release/gproxy]

The method is fixed: nginx as a plain reverse proxy and GPROXY with two workers each, upstream
keep-alive, 32 connections, no logs; the subjects take turns within each round, and the median of the
rounds counts. GPROXY restores the model's name in every reply and event, which nginx does not.
It runs in four ways, each with more than the one before: without its books, which nginx does not
keep either; with them, where each request is priced, told its cost and written down; with a limit
and a quota for the user; and with a log of requests and attempts.
Everything runs on this machine over loopback. The record is written to
bench/record/NAME/DATE.md. Needs nginx (Debian: nginx-light), and strace for the syscall counts.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
TICKS = os.sysconf("SC_CLK_TCK")
MODEL = "gpt-4.1-mini"

NGINX = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/nginx.err crit;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream whole {{ server 127.0.0.1:{whole}; keepalive 64; keepalive_requests 100000000; }}
    upstream stream {{ server 127.0.0.1:{stream}; keepalive 64; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        location /whole/ {{ proxy_pass http://whole/; }}
        location /stream/ {{ proxy_pass http://stream/; proxy_buffering off; }}
    }}
}}
"""

GPROXY = """
[global]
{switches}
host = "127.0.0.1"
port = {port}
workers = 2
data_dir = "{folder}/data"
[[providers]]
name = "whole"
channel = "custom"
credentials = [{{ api_key = "upstream-credential" }}]
[providers.settings]
base_url = "http://127.0.0.1:{whole}"
dialects = ["openai_chat"]
[[providers]]
name = "stream"
channel = "custom"
credentials = [{{ api_key = "upstream-credential" }}]
[providers.settings]
base_url = "http://127.0.0.1:{stream}"
dialects = ["openai_chat"]
[[users]]
name = "admin"
is_admin = true
[[users.keys]]
api_key = "sk-admin-1"
[[permissions]]
user_name = "admin"
model_pattern = "*"
"""

# What requests cost, and what their user may do.
PRICES = """
[[models]]
provider_name = "whole"
model_id = "gpt-4.1-mini"
price_tiers = [{ price_input_tokens = 0.4, price_output_tokens = 1.6 }]
[[models]]
provider_name = "stream"
model_id = "gpt-4.1-mini"
price_tiers = [{ price_input_tokens = 0.4, price_output_tokens = 1.6 }]
"""
LIMITS = """
[[rate_limits]]
user_name = "admin"
model_pattern = "*"
rpm = 1000000000
[[quotas]]
user_name = "admin"
quota = 1000000
"""

# The ways in which GPROXY runs: switches, and tables behind the others. Each adds to the one before.
LOGS = "enable_downstream_log = true\nenable_upstream_log = true"
WAYS = {
    "gproxy": ("enable_usage = false", ""),
    "with books": ("", PRICES),
    "with limits": ("", PRICES + LIMITS),
    "with logs": (LOGS, PRICES + LIMITS),
}


class Subject:
    """A way to the upstream: a port, paths and models for each kind of call, and processes."""

    def __init__(self, name, port, process, paths, models):
        self.name, self.port, self.process = name, port, process
        self.paths, self.models = paths, models

    def pids(self):
        """The process and its children (nginx works in its children)."""
        if self.process is None:
            return []
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *map(int, children.read_text().split())]

    def cpu_us(self):
        total = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total * 1_000_000 / TICKS

    def resident_kib(self):
        total = 0
        for pid in self.pids():
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            total += int(re.search(r"VmRSS:\s+(\d+)", status).group(1))
        return total

    def stop(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=40)


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target"))
        build = ["cargo", "build", "--release", "--quiet", "--locked", "--target-dir", target]
        subprocess.run([str(word) for word in build], cwd=HERE, check=True)
        self.load_binary = target / "release" / "load"
        self.whole, self.stream = free_port(), free_port()
        command = [target / "release" / "mock-upstream", str(self.whole), str(self.stream)]
        self.upstream = subprocess.Popen(command)
        wait_for_port(self.whole)
        wait_for_port(self.stream)

    def direct(self):
        paths = {"whole": "/v1/chat/completions", "stream": "/v1/chat/completions"}
        return Subject("direct", None, None, paths, {"whole": MODEL, "stream": MODEL})

    def nginx(self):
        port = free_port()
        path = self.folder / "nginx.conf"
        path.write_text(NGINX.format(
            folder=self.folder, whole=self.whole, stream=self.stream, port=port))
        process = subprocess.Popen([self.options.nginx, "-c", path, "-p", self.folder, "-q"])
        wait_for_port(port)
        paths = {kind: f"/{kind}/v1/chat/completions" for kind in ["whole", "stream"]}
        return Subject("nginx", port, process, paths, {"whole": MODEL, "stream": MODEL})

    def gproxy(self, name="gproxy"):
        port = free_port()
        switches, tables = WAYS[name]
        folder = self.folder / name.replace(" ", "-")
        folder.mkdir(exist_ok=True)
        path = folder / "config.toml"
        text = GPROXY.format(folder=folder, whole=self.whole, stream=self.stream, port=port,
                             switches=switches)
        path.write_text(text + tables)
        command = [self.options.gproxy, "--config", path, "--log-level", "off"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=self.folder)
        wait_for_port(port)
        paths = {kind: "/v1/chat/completions" for kind in ["whole", "stream"]}
        models = {kind: f"{kind}/{MODEL}" for kind in ["whole", "stream"]}
        return Subject(name, port, process, paths, models)

    def command(self, subject, kind, *more):
        port = subject.port or {"whole": self.whole, "stream": self.stream}[kind]
        command = [self.load_binary, port, "--path", subject.paths[kind]]
        command += ["--model", subject.models[kind], *more]
        if kind == "stream":
            command.append("--stream")
        return [str(word) for word in command]

    def load(self, subject, kind, *more):
        """One run; errors end the benchmark, for figures with errors compare nothing."""
        before = subject.cpu_us()
        run = subprocess.run(self.command(subject, kind, *more), capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(run.stderr)
        result = json.loads(run.stdout)
        if result["errors"]:
            sys.exit(f"{subject.name} {kind}: {result}")
        result["cpu_us"] = (subject.cpu_us() - before) / max(result["requests"], 1)
        return result

    def rounds(self, kind, *more):
        """Medians by subject of interleaved rounds."""
        subjects = [self.direct(), self.nginx(), *map(self.gproxy, WAYS)]
        figures = {subject.name: [] for subject in subjects}
        try:
            for subject in subjects:
                self.load(subject, kind, "--seconds", 1, *more)
            for number in range(self.options.rounds):
                for subject in subjects:
                    seconds = ["--seconds", self.options.seconds]
                    figures[subject.name].append(self.load(subject, kind, *seconds, *more))
                print(f"{kind}: round {number + 1} of {self.options.rounds}", file=sys.stderr)
        finally:
            for subject in subjects:
                subject.stop()
        keys = ["rps", "cpu_us", "first_p50_us", "first_p99_us", "p50_us", "p99_us"]
        return {
            name: {key: statistics.median(run[key] for run in runs) for key in keys}
            for name, runs in figures.items()
        }

    def memory(self, make, kind, connections, wait):
        """KiB of resident memory that so many held connections add."""
        subject = make()
        try:
            # The first requests pay for what is there once, such as pools and lazy tables.
            self.load(subject, kind, "--requests", 200, "--seconds", 10)
            time.sleep(wait)
            before = subject.resident_kib()
            gap = ["--gap-us", 1_000_000] if kind == "stream" else []
            command = self.command(subject, kind, "--hold", "--connections", connections, *gap)
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            load = subprocess.Popen(command, **pipes)
            if load.stdout.readline().strip() != "held":
                sys.exit(f"{subject.name}: {connections} connections were not held")
            time.sleep(wait)
            after = subject.resident_kib()
            result = json.loads(load.communicate()[0])
            if result["errors"]:
                sys.exit(f"{subject.name} {kind}: {result}")
            return after - before
        finally:
            subject.stop()

    def syscalls(self, make, kind, requests):
        """System calls for each request, most frequent first; None without strace."""
        if shutil.which("strace") is None:
            return None
        subject = make()
        try:
            pace = ["--gap-us", 1000] if kind == "stream" else []
            self.load(subject, kind, "--requests", 200, "--seconds", 10, *pace)
            counts = self.folder / "strace.txt"
            pids = [word for pid in subject.pids() for word in ["-p", str(pid)]]
            command = ["strace", "-f", "-c", "-U", "calls,name", "-S", "calls", "-o", str(counts)]
            tracer = subprocess.Popen([*command, *pids], stderr=subprocess.PIPE, text=True)
            tracer.stderr.readline()
            time.sleep(0.5)
            result = self.load(subject, kind, "--requests", requests, "--seconds", 60, *pace)
            tracer.send_signal(signal.SIGINT)
            tracer.wait(timeout=20)
            return parse_strace(counts.read_text(), result["requests"])
        finally:
            subject.stop()


def parse_strace(text, requests):
    calls = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0].isdigit() and words[1] != "total":
            calls[words[1]] = int(words[0]) / requests
    return dict(sorted(calls.items(), key=lambda item: -item[1]))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_for_port(port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nothing listens on port {port}")


def output_of(*command):
    try:
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        return (run.stdout + run.stderr).strip().splitlines()[0]
    except (OSError, IndexError):
        return "unknown"


def commit():
    changes = output_of("git", "status", "--porcelain") != "unknown"
    return output_of("git", "rev-parse", "HEAD") + (" and uncommitted changes" if changes else "")


def arguments():
    """The words of the command, less the paths of this machine."""
    return " ".join(word for word in sys.argv[1:] if not word.startswith("/"))


def machine():
    cpu = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())
    name = cpu.group(1) if cpu else platform.machine()
    return (f"{os.cpu_count()} cores, {name}, {int(memory.group(1)) // 1048576} GiB, "
            f"Linux {platform.release()}")


def table(figures):
    rows = ["| | requests/s | CPU µs/request | added p50 µs | added p99 µs | "
            "first event p50 µs | p99 µs |", "|---|---|---|---|---|---|---|"]
    direct = figures["direct"]
    for name, run in figures.items():
        cpu = "" if name == "direct" else f"{run['cpu_us']:.1f}"
        added = ["", ""] if name == "direct" else [
            f"{run[key] - direct[key]:.0f}" for key in ["p50_us", "p99_us"]]
        rows.append(f"| {name} | {run['rps']:.0f} | {cpu} | {added[0]} | {added[1]} | "
                    f"{run['first_p50_us']:.0f} | {run['first_p99_us']:.0f} |")
    nginx, bare, books, limits, logs = (figures[name]["cpu_us"] for name in ["nginx", *WAYS])
    return "\n".join(rows) + (
        f"\n\nCPU of gproxy over nginx: **{bare / nginx:.2f}**, with books {books / nginx:.2f}; "
        f"with books over without: **{books / bare:.2f}**, with limits as well {limits / bare:.2f}; "
        f"with logs over without: **{logs / limits:.2f}**\n")


def syscall_lines(name, calls):
    if calls is None:
        return f"- {name}: strace is not there\n"
    parts = ", ".join(f"{call} {count:.2f}" for call, count in calls.items() if count >= 0.05)
    return f"- {name}: **{sum(calls.values()):.1f}** ({parts})\n"


def metrics(port):
    """Figures of the gateway that have no labels, by their names."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as page:
        found = re.findall(r"^(gproxy_\w+) (\S+)$", page.read().decode(), re.M)
    return {name: float(value) for name, value in found}


def keep_record(name, begun, kind, text):
    """Writes and prints the record of a run on the machine of that name."""
    path = HERE / "record" / name / f"{begun:%Y-%m-%d}{kind}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(text)


def measure(bench, options):
    subjects = {"nginx": bench.nginx, "gproxy": bench.gproxy}
    parts = ["\n## Whole replies, 32 connections\n\n" + table(bench.rounds("whole"))]
    text = table(bench.rounds("stream", "--gap-us", 1000))
    parts.append("\n## Streams of 20 events, one each millisecond, 32 connections\n\n" + text)
    parts.append("\n## System calls a request (strace -c)\n\n")
    for name, make in subjects.items():
        parts.append(syscall_lines(f"{name}, whole", bench.syscalls(make, "whole", 5000)))
        parts.append(syscall_lines(f"{name}, stream", bench.syscalls(make, "stream", 1000)))
    count = options.connections
    parts.append(
        f"\n## Resident memory, KiB a connection\n\n"
        f"The first figure is what {count} connections add, pools that stay included, the second "
        f"what each further one adds, up to {2 * count}.\n\n"
        "| | idle after a request | each further | open stream | each further |\n"
        "|---|---|---|---|---|\n")
    for name, make in subjects.items():
        cells = []
        # Ten seconds: idle connections are parked by then.
        for kind, wait in [("whole", 10), ("stream", 3)]:
            once, twice = (bench.memory(make, kind, count * times, wait) for times in [1, 2])
            cells += [f"{once / count:.2f}", f"{(twice - once) / count:.2f}"]
        parts.append(f"| {name} | {' | '.join(cells)} |\n")
    parts.append(f"\n## {count} streams at once\n\n")
    for name, make in subjects.items():
        subject = make()
        more = ["--connections", count, "--requests", count, "--seconds", 60, "--gap-us", 100_000]
        run = bench.load(subject, "stream", *more)
        subject.stop()
        parts.append(f"- {name}: {run['requests']} streams, {run['errors']} errors, first event "
                     f"p50 {run['first_p50_us']} µs, p99 {run['first_p99_us']} µs\n")
    return "".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", required=True, help="folder of the record")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=2000, help="for memory and streams")
    parser.add_argument("--nginx", default=shutil.which("nginx") or "/usr/sbin/nginx")
    parser.add_argument("--gproxy", default=str(ROOT / "target" / "release" / "gproxy"))
    options = parser.parse_args()
    options.gproxy = str(pathlib.Path(options.gproxy).resolve())
    begun = datetime.datetime.now(datetime.timezone.utc)
    text = (
        f"# Comparison of {begun:%Y-%m-%d %H:%M} UTC\n\n"
        f"- commit: {commit()}\n"
        f"- machine: {machine()}; load before: {os.getloadavg()[0]:.2f}\n"
        f"- versions: {output_of(options.nginx, '-v')}; {output_of('rustc', '--version')}\n"
        f"- command: `bench/compare.py {arguments()}`\n"
        f"- method: 2 workers each, median of {options.rounds} interleaved rounds of "
        f"{options.seconds} s; load generator and upstream share the machine\n"
    )
    with tempfile.TemporaryDirectory(prefix="gproxy-bench-") as folder:
        os.chmod(folder, 0o755)
        bench = Bench(options, pathlib.Path(folder))
        try:
            text += measure(bench, options)
        finally:
            bench.upstream.kill()
    keep_record(options.machine, begun, "", text)


if __name__ == "__main__":
    main()
