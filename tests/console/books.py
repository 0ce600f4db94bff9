"""Fills the books of a stopped gateway with rows of the past, as many as wanted.

What a team of a few users spends over some weeks: busy by day, quiet by night and at weekends, a
provider that fails for an afternoon. The rows are no chain: `gproxy audit` would object, and
nothing else does. The same seed gives the same rows.
"""

import itertools
import json
import random
import sqlite3

HOUR_MS = 3_600_000
# Provider, model, its name as asked, USD per million in and out, milliseconds to the first byte.
MODELS = [
    ("openai-main", "gpt-4.1", "openai-main/gpt-4.1", 2.0, 8.0, 700),
    ("openai-main", "gpt-4.1-mini", "chat-default", 0.4, 1.6, 350),
    ("anthropic-main", "claude-sonnet-4-5", "claude-default", 3.0, 15.0, 900),
    ("anthropic-main", "claude-haiku-4-5", "anthropic-main/claude-haiku-4-5", 1.0, 5.0, 400),
    ("vertex-main", "gemini-2.5-flash", "gemini-default", 0.3, 2.5, 450),
]
DIALECTS = {
    "openai-main": ("chat.completions", "openai_chat"),
    "anthropic-main": ("messages", "anthropic"),
    "vertex-main": ("generate_content", "gemini"),
}
USERS = ["alice", "bob", "carol", "support-bot", "nightly-eval", "research"]
ENDS = [(200, "ok", 0.955), (429, "ok", 0.02), (502, "refused", 0.015), (200, "cut", 0.01)]

KIND = "INSERT INTO kinds (id, digest, user, user_key, provider, operation, protocol, model, " \
    "limit_name, model_served, usage_source, service_tier, outcome, price, status) " \
    "VALUES (?, randomblob(16), ?, ?, ?, ?, ?, ?, ?, ?, 'upstream', 'default', ?, ?, ?)"
ROW = "INSERT INTO usage_rows VALUES (?, ?, ?, ?, ?, 0, 0, ?, 0, 0, 0, 0, ?, ?, ?, ?, ?, ?, ?, " \
    "zeroblob(16), 0, 0, 0)"
ROLLUPS = """
    INSERT INTO rollups SELECT at / 3600000, kind, count(*), sum(input_tokens),
        sum(cache_read_input_tokens), 0, 0, sum(output_tokens), 0, 0, 0, 0, sum(cost), max(cost),
        sum(first_byte_ms >= 0), sum(max(first_byte_ms, 0)), sum(total_ms), min(id), max(id), 0, 0,
        0, 0, 0
    FROM usage_rows GROUP BY 1, 2
"""


def fill(path, rows, days, now_ms, seed=7):
    """Writes `rows` rows of the last `days` days."""
    chance = random.Random(seed)
    books = sqlite3.connect(path)
    books.execute("PRAGMA synchronous = OFF")
    process = books.execute("SELECT coalesce(max(id), 0) + 1 FROM processes").fetchone()[0]
    books.execute("INSERT INTO processes VALUES (?, ?)", (process, 0xABCDEF))
    last = books.execute("SELECT last FROM chain").fetchone()[0]
    assert last == 0, "the books have rows already"
    summed = books.execute("SELECT count(*) FROM daily_rollups").fetchone()[0]
    assert summed == 0, "days are summed up already"
    kinds = Kinds(books)
    times = times_of(chance, rows, days, now_ms)
    for batch in batches(times, 50_000):
        numbered = [(number, row_of(chance, at, kinds)) for number, at in batch]
        books.executemany(ROW, [
            (number, process << 40 | number, *row) for number, row in numbered
        ])
    books.execute(ROLLUPS)
    books.execute("UPDATE chain SET last = ?", (rows,))
    books.commit()
    books.close()


def batches(times, size):
    numbered = enumerate(times, start=1)
    while batch := list(itertools.islice(numbered, size)):
        yield batch


def times_of(chance, rows, days, now_ms):
    """Instants in their order, more of them where people work."""
    begin = now_ms // HOUR_MS - days * 24 + 1
    hours = range(begin, now_ms // HOUR_MS + 1)
    weights = []
    for hour in hours:
        of_day, of_week = hour % 24, (hour // 24 + 3) % 7
        busy = 1.0 if 8 <= of_day < 18 else 0.25
        weights.append(busy * (0.3 if of_week >= 5 else 1.0) * chance.uniform(0.7, 1.3))
    total = sum(weights)
    due = 0.0
    made = 0
    for hour, weight in zip(hours, weights):
        due += rows * weight / total
        last = hour == hours[-1]
        count = rows - made if last else int(due) - made
        made += count
        most = min(HOUR_MS, now_ms - hour * HOUR_MS)
        yield from sorted(hour * HOUR_MS + int(chance.random() * most) for _ in range(count))


def row_of(chance, at, kinds):
    user = chance.choices(USERS, weights=[30, 14, 8, 25, 9, 14])[0]
    model = chance.choices(MODELS, weights=[15, 35, 22, 12, 16])[0]
    is_afternoon = at // HOUR_MS % 24 in (13, 14)
    if model[0] == "vertex-main" and is_afternoon and chance.random() < 0.4:
        status, outcome = 503, "ok"
    else:
        status, outcome = chance.choices([end[:2] for end in ENDS], [end[2] for end in ENDS])[0]
    kind = kinds.of(user, model, status, outcome)
    prompt = int(chance.lognormvariate(6.5, 1.1))
    cached = int(prompt * 0.6) if chance.random() < 0.3 else 0
    output = int(chance.lognormvariate(5.3, 0.9)) if status == 200 else 0
    billed = status == 200
    # Dollars a million tokens are a million picodollars a token.
    cost = int(((prompt - cached) * model[3] + cached * model[3] / 10 + output * model[4]) * 1e6)
    first = int(chance.lognormvariate(0, 0.4) * model[5]) if status < 500 else -1
    total = max(first, 5) + output * 12
    return (
        at, (prompt - cached) * billed, cached * billed, output, cost * billed,
        1 + (chance.random() < 0.03), first, total, prompt * 4, output * 5 + 400, kind,
    )


class Kinds:
    """What rows have in common, written once."""

    def __init__(self, books):
        self.books = books
        self.known = {}
        self.first = books.execute("SELECT coalesce(max(id), 0) + 1 FROM kinds").fetchone()[0]

    def of(self, user, model, status, outcome):
        key = (user, model[1], status, outcome)
        if key not in self.known:
            number = self.first + len(self.known)
            self.known[key] = number
            provider, served, asked, price_in, price_out, _ = model
            price = json.dumps({
                "price_input_tokens": f"{price_in}", "price_output_tokens": f"{price_out}",
                "price_cache_read_input_tokens": f"{price_in / 10:g}",
            })
            self.books.execute(KIND, (
                number, user, f"{user}-laptop", provider, *DIALECTS[provider], asked, asked, served,
                outcome, price, status,
            ))
        return self.known[key]
