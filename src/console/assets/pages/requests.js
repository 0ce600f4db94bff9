// Requests, the newest first: those that the books have, and those that were refused lately.

import { all, get } from "../api.js";
import { h } from "../dom.js";
import { clock, count, day, duration, short, usd } from "../format.js";
import { button, pageHead, panel, statusBadge, to } from "../parts.js";
import { table } from "../table.js";
import { showRequest } from "./request.js";

const PAGE_ROWS = 50;
const REFUSALS = 1_000;

/** Statuses to choose from: from the first to the last of each. */
const STATUSES = [
  ["", "any"], ["0-399", "below 400"], ["400-999", "400 and above"],
  ["402-402", "402, quota spent"], ["429-429", "429, limited"],
  ["400-499", "4xx"], ["500-599", "5xx"],
];
const OUTCOMES = ["", "ok", "refused", "cut", "gone", "quota", "panic"];
const TEXTS = ["user_name", "user_key", "provider_name", "model", "outcome", "cost_min"];

export async function show(context) {
  if (context.rest[0]) return showRequest(context, context.rest[0]);
  const { area, query, signal } = context;
  const filter = filterOf(query);
  let source = null;
  const load = async (cursor) => {
    const asked = { ...filter, limit: PAGE_ROWS, cursor };
    source ??= refusedOf(context, filter);
    const [page, refused] = await Promise.all([get(`${area}/usage`, asked, signal), source]);
    return { ...page, items: merge(page, refused) };
  };
  return [
    pageHead("Requests"),
    panel(null, h("details", { open: !matchMedia("(max-width: 47rem)").matches },
      h("summary", null, "Search"), await filters(context, filter))),
    panel(null, table({
      caption: "Requests, the newest first", columns: columns(area), load, isDense: true,
      empty: "No requests like these.",
    })),
  ];
}

function filterOf(query) {
  const names = [...TEXTS, "from", "to", "status_min", "status_max", "model_served"];
  return Object.fromEntries(names.map((name) => [name, query.get(name) ?? ""]));
}

/** What was refused lately and passes the filter. A refusal has no key and no cost. */
async function refusedOf({ area, signal }, filter) {
  if (filter.user_key || filter.cost_min || filter.model_served) return [];
  const asked = area === "/admin/api" ? { user_name: filter.user_name } : {};
  const { items } = await get(`${area}/refusals`, { ...asked, limit: REFUSALS }, signal);
  const fits = (name, wanted) => !wanted || pattern(wanted).test(name);
  return items.filter((item) => {
    return item.at >= (filter.from || 0) && item.at < (filter.to || Infinity) &&
      item.status >= (filter.status_min || 0) && item.status <= (filter.status_max || 999) &&
      fits(item.provider, filter.provider_name) && fits(item.model, filter.model) &&
      fits("refused", filter.outcome);
  }).map((item) => ({ ...item, outcome: "refused" }));
}

/** `*` stands for any text and `?` for any character, as the interface has it. */
function pattern(text) {
  const source = text.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*")
    .replaceAll("?", ".");
  return new RegExp(`^${source}$`, "s");
}

/** A page with the refusals that fell into its time; those are taken out of `refused`. */
function merge({ items, next_cursor: next }, refused) {
  const known = new Set(items.map((item) => item.request_id));
  const oldest = next === null || !items.length ? -Infinity : items[items.length - 1].at;
  const here = refused.filter((item) => item.at >= oldest);
  refused.splice(0, here.length);
  const others = here.filter((item) => !known.has(item.request_id));
  return [...items, ...others].sort((one, other) => {
    return other.at - one.at || (other.request_id < one.request_id ? -1 : 1);
  });
}

function columns(area) {
  return [
    {
      title: "Time", value: (row) => row.at,
      cell: (row) => h("a", { href: to("requests", {}, row.request_id) },
        h("time", null, `${day(row.at)}, ${clock(row.at)}`)),
    },
    ...(area === "/admin/api" ? [{ title: "User", value: (row) => row.user }] : []),
    { title: "Model", value: (row) => row.model },
    { title: "Provider", value: (row) => row.provider },
    {
      title: "Status", value: (row) => row.status,
      cell: (row) => statusBadge(row.status, row.outcome),
    },
    {
      title: "In", number: true, value: (row) => row.input_tokens ?? -1,
      cell: (row) => (row.input_tokens === undefined ? "" : short(row.input_tokens)),
    },
    {
      title: "Out", number: true, value: (row) => row.output_tokens ?? -1,
      cell: (row) => (row.output_tokens === undefined ? "" : count(row.output_tokens)),
    },
    {
      title: "Cost", number: true, value: (row) => Number(row.cost ?? -1),
      cell: (row) => (row.cost === undefined ? "" : usd(row.cost)),
    },
    {
      title: "Time taken", number: true, value: (row) => row.total_ms ?? -1,
      cell: (row) => (row.total_ms === undefined ? "" : duration(row.total_ms)),
    },
  ];
}

async function filters({ area, signal }, filter) {
  const isAdmin = area === "/admin/api";
  const names = async (section, field) => {
    const items = isAdmin ? await all(`/admin/api/${section}`, {}, signal) : [];
    return items.map((item) => item[field]);
  };
  const [users, providers] = await Promise.all([
    names("users", "name"), names("providers", "name"),
  ]);
  const status = filter.status_min || filter.status_max
    ? `${filter.status_min || 0}-${filter.status_max || 999}` : "";
  const statuses = STATUSES.some(([value]) => value === status)
    ? STATUSES : [...STATUSES, [status, status]];
  const onsubmit = (event) => {
    event.preventDefault();
    location.hash = to("requests", told(new FormData(event.currentTarget)));
  };
  return h("form", { class: "filters", onsubmit, autocomplete: "off" },
    isAdmin && text("user_name", "User", filter, users),
    text("user_key", "Key", filter),
    text("provider_name", "Provider", filter, providers),
    text("model", "Model, * for any text", filter),
    choice("status", "Status", statuses, status),
    choice("outcome", "End", OUTCOMES.map((word) => [word, word || "any"]), filter.outcome),
    text("cost_min", "Cost at least, USD", filter),
    when("from", "From", filter), when("to", "Until", filter),
    h("div", { class: "row" }, h("button", { type: "submit", class: "main" }, "Search"),
      button("Clear", () => { location.hash = to("requests"); }, "quiet")));
}

/** What the form says, by the names of the interface. */
function told(data) {
  const [least, most] = String(data.get("status")).split("-");
  const ms = (name) => (data.get(name) ? new Date(data.get(name)).getTime() : "");
  const texts = TEXTS.map((name) => [name, (data.get(name) ?? "").trim()]);
  return {
    ...Object.fromEntries(texts), status_min: least, status_max: most, from: ms("from"),
    to: ms("to"),
  };
}

function labelled(name, label, control) {
  return h("div", { class: "field" }, h("label", { for: `filter-${name}` }, label), control);
}

function text(name, label, filter, proposals) {
  const id = `filter-${name}`;
  return labelled(name, label, [
    h("input", { id, name, value: filter[name], list: proposals && `${id}-list` }),
    proposals && h("datalist", { id: `${id}-list` },
      proposals.map((value) => h("option", { value }))),
  ]);
}

function choice(name, label, options, chosen) {
  return labelled(name, label, h("select", { id: `filter-${name}`, name },
    options.map(([value, title]) => h("option", { value, selected: value === chosen }, title))));
}

function when(name, label, filter) {
  return labelled(name, label, h("input", {
    id: `filter-${name}`, name, type: "datetime-local", value: localTime(Number(filter[name])),
  }));
}

/** 2026-11-25T13:05 in the reader's time zone. */
function localTime(ms) {
  if (!ms) return "";
  const shifted = new Date(ms - new Date(ms).getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 16);
}
