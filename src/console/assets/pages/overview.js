// Who spends what, and what fails, over a time that is chosen; and what comes in now.

import { every, get } from "../api.js";
import { chart, share, weightiest } from "../charts.js";
import { h, replace } from "../dom.js";
import {
  clock, count, day, duration, hour, hourMark, midnightMark, percent, short, usd,
} from "../format.js";
import { button, nothing, pageHead, panel, statusBadge, to } from "../parts.js";
import { table } from "../table.js";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const TOP_ROWS = 7;
const TAIL_ROWS = 12;
const TAIL_S = 3;

/** Times to choose from: name, length, by what it is cut, and how that is marked. */
const SPANS = {
  "24h": ["24 hours", 24 * HOUR_MS, "hour", hourMark],
  "7d": ["7 days", 7 * DAY_MS, "hour", midnightMark],
  "30d": ["30 days", 30 * DAY_MS, "day", day],
  "90d": ["90 days", 90 * DAY_MS, "day", day],
};

/** By what it is stacked: the interface's word, and people's. */
const GROUPS = {
  user: "User", provider: "Provider", model_served: "Model", model: "Name asked for",
};

const tokensOf = (sum) => sum.input_tokens + sum.cache_read_input_tokens + sum.output_tokens +
  sum.cache_creation_input_tokens_5min + sum.cache_creation_input_tokens_1h;
const mean = (sum, count) => (count ? sum / count : null);

/** What is measured: a sum, or the mean of a time. */
const MEASURES = {
  requests: { title: "Requests", of: (sum) => sum.requests, format: short, full: count },
  failed: { title: "Errors", of: (sum) => sum.failed, format: short, full: count, isBad: true },
  cost: { title: "Cost", of: (sum) => Number(sum.cost), format: usd, full: usd },
  tokens: { title: "Tokens", of: tokensOf, format: short, full: count },
  first_byte: {
    title: "First byte", of: (sum) => mean(sum.first_byte_ms, sum.first_bytes),
    format: duration, full: duration, isMean: true, isBad: true,
  },
  total: {
    title: "Total time", of: (sum) => mean(sum.total_ms, sum.requests),
    format: duration, full: duration, isMean: true, isBad: true,
  },
};

export async function show(context) {
  const { query, area } = context;
  const wanted = {
    span: query.get("span") in SPANS ? query.get("span") : "24h",
    by: query.get("by") in GROUPS ? query.get("by") : area === "/admin/api" ? "user" : "model",
    measure: query.get("measure"),
  };
  const found = await read(context, wanted);
  if (!(wanted.measure in MEASURES)) {
    wanted.measure = Number(found.whole.cost) > 0 ? "cost" : "requests";
  }
  const link = (change) => to("overview", { ...wanted, ...change });
  return [
    pageHead("Overview",
      choice("Time", Object.entries(SPANS).map(([span, [title]]) => {
        return [title, link({ span }), span === wanted.span];
      })),
      choice("By", groupsFor(area).map(([by, title]) => [title, link({ by }), by === wanted.by]))),
    tiles(found, wanted, link),
    history(found, wanted),
    h("div", { class: "grid" },
      spenders(found, wanted), failures(found)),
    tail(context),
  ];
}

function groupsFor(area) {
  return Object.entries(GROUPS).filter(([by]) => by !== "user" || area === "/admin/api");
}

/** Reads the time that is asked for, and the one before. */
async function read({ area, signal }, { span, by }) {
  const [, length, cut] = SPANS[span];
  const step = cut === "hour" ? HOUR_MS : DAY_MS;
  const end = (Math.floor(Date.now() / step) + 1) * step;
  const begin = end - length;
  const sums = (values) => get(`${area}/usage/sums`, values, signal).then(({ items }) => items);
  const now = { from: begin, to: end };
  const [parts, [whole], past, groups, causes] = await Promise.all([
    sums({ ...now, by: `${cut},${by}` }),
    sums(now),
    sums({ from: begin - length, to: begin, by }),
    sums({ ...now, by }),
    sums({ ...now, by: "provider,model,status,outcome" }),
  ]);
  const at = Array.from({ length: length / step }, (_, place) => begin + place * step);
  return { at, cut, step, parts, whole, before: together(past), past, groups, causes };
}

/** Sums of sums. */
function together(groups) {
  const names = ["requests", "failed", "cost", "first_bytes", "first_byte_ms", "total_ms",
    "input_tokens", "cache_read_input_tokens", "output_tokens",
    "cache_creation_input_tokens_5min", "cache_creation_input_tokens_1h"];
  const sum = (name) => groups.reduce((all, group) => all + Number(group[name]), 0);
  return Object.fromEntries(names.map((name) => [name, sum(name)]));
}

/** Links of which one is where we are. */
function choice(label, links) {
  return h("div", { class: "choice", role: "group", "aria-label": label },
    links.map(([title, href, isHere]) => {
      return h("a", { href, "aria-current": isHere ? "true" : null }, title);
    }));
}

function tiles({ whole, before }, wanted, link) {
  return h("div", { class: "tiles" }, Object.entries(MEASURES).map(([name, measure]) => {
    const [value, past] = [measure.of(whole), measure.of(before)];
    return h("a", {
      class: "tile", href: link({ measure: name }),
      "aria-current": name === wanted.measure ? "true" : null,
    },
    h("span", null, measure.title),
    h("strong", null, value === null ? "none" : measure.format(value)),
    name === "failed" && whole.requests > 0
      ? h("small", null, `${percent(whole.failed / whole.requests)} of all · `,
        change(value, past, measure))
      : h("small", null, change(value, past, measure)));
  }));
}

/** The change against the time before. */
function change(value, past, { isBad }) {
  if (value === null || !past) return "nothing before";
  const by = value / past - 1;
  if (Math.abs(by) < 0.005) return "as before";
  const kind = isBad ? (by > 0 ? "bad" : "good") : "";
  return h("span", { class: kind }, `${by > 0 ? "▲" : "▼"} ${percent(Math.abs(by))}`);
}

function history({ at, cut, step, parts }, wanted) {
  const measure = MEASURES[wanted.measure];
  const all = new Map();
  for (const sum of parts) {
    const name = nameOf(sum[wanted.by]);
    if (!all.has(name)) all.set(name, at.map(() => (measure.isMean ? null : 0)));
    const place = Math.floor((sum[cut] - at[0]) / step);
    if (place in at) all.get(name)[place] = measure.of(sum);
  }
  const title = `${measure.title} by ${GROUPS[wanted.by].toLowerCase()}, each ${cut}`;
  if (!all.size) return panel(title, nothing("No requests in this time."));
  return panel(title, chart({
    label: title,
    kind: measure.isMean ? "lines" : "bars",
    at,
    series: measure.isMean ? weightiest(all).slice(0, 6) : weightiest(all),
    format: measure.format,
    when: cut === "hour" ? hour : day,
    mark: SPANS[wanted.span][3],
  }));
}

const nameOf = (name) => (name === null || name === "" ? "(none)" : String(name));

function spenders({ groups, past }, { by }) {
  const cost = MEASURES.cost.of;
  const before = new Map(past.map((sum) => [sum[by], cost(sum)]));
  const grown = (sum) => cost(sum) - (before.get(sum[by]) ?? 0);
  const most = Math.max(...groups.map(cost), 0) || 1;
  const title = `Who spends: by ${GROUPS[by].toLowerCase()}`;
  const filter = { user: "user_name", provider: "provider_name" }[by] ?? by;
  const columns = [
    {
      title: GROUPS[by],
      value: (sum) => nameOf(sum[by]),
      cell: (sum) => h("a", { href: to("requests", { [filter]: sum[by] }) }, nameOf(sum[by])),
    },
    {
      title: "Cost", number: true, value: cost,
      cell: (sum) => [usd(sum.cost), share(cost(sum) / most)],
    },
    {
      title: "Change", number: true, value: grown,
      cell: (sum) => change(cost(sum), before.get(sum[by]), MEASURES.cost),
    },
    {
      title: "Requests", number: true, value: (sum) => sum.requests,
      cell: (sum) => count(sum.requests),
    },
    { title: "Tokens", number: true, value: tokensOf, cell: (sum) => short(tokensOf(sum)) },
  ];
  const items = groups.toSorted((one, other) => cost(other) - cost(one));
  return panel(title, table({ caption: title, columns, load: some(items), empty: "Nobody." }));
}

function failures({ causes }) {
  const totals = new Map();
  const key = (sum) => `${sum.provider} ${sum.model}`;
  for (const sum of causes) totals.set(key(sum), (totals.get(key(sum)) ?? 0) + sum.requests);
  const items = causes.filter((sum) => sum.failed > 0)
    .toSorted((one, other) => other.failed - one.failed);
  const rate = (sum) => sum.failed / totals.get(key(sum));
  const link = (sum) => to("requests", {
    provider_name: sum.provider, model: sum.model, status_min: sum.status, status_max: sum.status,
    outcome: sum.outcome,
  });
  const columns = [
    {
      title: "Model",
      value: (sum) => `${sum.provider} ${sum.model}`,
      cell: (sum) => h("a", { href: link(sum) }, `${nameOf(sum.model)} at ${nameOf(sum.provider)}`),
    },
    {
      title: "How", value: (sum) => sum.status,
      cell: (sum) => statusBadge(sum.status, sum.outcome),
    },
    {
      title: "Errors", number: true, value: (sum) => sum.failed,
      cell: (sum) => [`${count(sum.failed)} (${percent(rate(sum))})`, share(rate(sum), "bad")],
    },
  ];
  const title = "What fails";
  return panel(title, table({ caption: title, columns, load: some(items), empty: "Nothing." }));
}

/** Of many rows the first ones, and the next ones when asked for more. */
function some(items) {
  return async (from) => {
    const next = (from ?? 0) + TOP_ROWS;
    return {
      items: items.slice(from ?? 0, next), next_cursor: next < items.length ? next : null,
    };
  };
}

/** The newest rows, asked for again and again. */
function tail({ area, signal }) {
  const body = h("div");
  let isHalted = false;
  const toggle = (event) => {
    isHalted = !isHalted;
    replace(event.currentTarget, isHalted ? "Go on" : "Halt");
  };
  let newest = "";
  every(TAIL_S, signal, async () => {
    if (isHalted) return;
    const { items } = await get(`${area}/usage`, { limit: TAIL_ROWS }, signal);
    const first = items[0]?.request_id ?? "none";
    if (first === newest) return;
    newest = first;
    replace(body, table({
      caption: "The newest requests", columns: tailColumns(area), items, isDense: true,
      empty: "No requests yet.",
    }));
  });
  return panel(null,
    h("div", { class: "page-head" }, h("h2", null, "Now"), button("Halt", toggle, "quiet")), body);
}

function tailColumns(area) {
  const isAdmin = area === "/admin/api";
  return [
    {
      title: "Time", value: (row) => row.at,
      cell: (row) => h("a", { href: to("requests", {}, row.request_id) }, clock(row.at)),
    },
    ...(isAdmin ? [{ title: "User", value: (row) => row.user }] : []),
    { title: "Model", value: (row) => row.model },
    { title: "Provider", value: (row) => row.provider },
    {
      title: "Status", value: (row) => row.status,
      cell: (row) => statusBadge(row.status, row.outcome),
    },
    {
      title: "Tokens", number: true, value: (row) => row.input_tokens + row.output_tokens,
      cell: (row) => `${short(row.input_tokens)} → ${short(row.output_tokens)}`,
    },
    { title: "Cost", number: true, value: (row) => Number(row.cost), cell: (row) => usd(row.cost) },
    {
      title: "Time taken", number: true, value: (row) => row.total_ms,
      cell: (row) => duration(row.total_ms),
    },
  ];
}
