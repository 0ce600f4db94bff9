// What hangs on a user: keys, permissions, limits and quotas, of one of them or of all.

import { all, get, path, post } from "./api.js";
import { share } from "./charts.js";
import { h } from "./dom.js";
import { form } from "./form.js";
import { count, percent, since, time, usd } from "./format.js";
import { badge, button, copyable, dialog, say, to } from "./parts.js";
import { section } from "./section.js";
import { snippets } from "./snippets.js";
import { table } from "./table.js";

const DAY_MS = 86_400_000;
/** Over how many days the pace of spending is taken. */
const PACE_DAYS = 7;
/** So many models are asked about for a new key. */
const MODELS_ASKED = 30;
const WINDOWS = ["total", "day", "week", "month"];

const userColumn = {
  title: "User",
  value: (item) => item.user_name,
  cell: (item) => h("a", { href: to("users", {}, item.user_name) }, item.user_name),
};

const userField = (users) => {
  return { name: "user_name", label: "User", required: true, settled: true, options: users };
};

/** What a section of one user, or of all (`user` is not given), needs to be told. */
function whose(user, columns) {
  return {
    filter: user ? { user_name: user } : undefined,
    columns: user ? columns : [userColumn, ...columns],
  };
}

/** Keys. A new one is shown once. */
export function keys(context, user, users) {
  const columns = [
    { title: "Label", value: (key) => key.label || "" },
    { title: "Ends in", value: (key) => key.hint, cell: (key) => h("code", null, key.hint) },
    ...keyTerms,
    {
      title: "Made", value: (key) => key.made_at ?? 0,
      cell: (key) => (key.made_at ? since(key.made_at) : ""),
    },
    lastUsed,
  ];
  return section({
    context, at: "/admin/api/user_keys", title: "Keys", one: "key", ...whose(user, columns),
    fields: [userField(users), ...keyFields],
    // A key is never lost because models cannot be asked for.
    made: async (key) => showKey(key, await modelsOf(key.user_name).catch(() => [])),
  });
}

/** Columns of when, and where from, a key opens. */
export const keyTerms = [
  { title: "On", value: (key) => key.enabled, cell: (key) => onOff(key.enabled) },
  { title: "Until", value: (key) => key.expires_at ?? "", cell: until },
  { title: "From", value: (key) => (key.networks ?? []).join(", ") || "anywhere" },
];

function until({ expires_at: at }) {
  if (!at) return "any time";
  const isOver = Date.parse(at) <= Date.now();
  return isOver ? badge(`ended ${since(Date.parse(at))}`, "warn") : time(Date.parse(at));
}

/** When a key was last used, as a column. */
export const lastUsed = {
  title: "Last used", value: (key) => key.last_used_at ?? 0,
  cell: (key) => (key.last_used_at ? since(key.last_used_at) : "never"),
};

/** What may be said of a key. */
export const keyFields = [
  { name: "label", label: "Label", help: "For people: which program or machine has it." },
  { name: "expires_at", label: "It opens until", kind: "instant", help: "Empty: at any time." },
  {
    name: "networks", label: "It opens from", kind: "lines",
    help: "Addresses or networks such as 10.0.0.0/8, one a line. Empty: from anywhere.",
  },
  { name: "enabled", label: "It opens", kind: "flag", value: true },
  {
    name: "in_flight", label: "Side by side", kind: "number",
    help: "Requests under way with this key at most; empty: as many as its user may.",
  },
];

/** A new key, and how programs are told it. `models`: that may be called with it. */
export function showKey({ api_key: key }, models) {
  dialog("A new key", () => h("div", { class: "new-key" },
    h("p", null, "It is shown this once and kept nowhere: copy it now."),
    copyable(key, "The new key"),
    snippets(key, models)));
}

/** Names of models that a user may call, of the first ones that are known. */
async function modelsOf(user) {
  const [aliases, models] = await Promise.all([
    all("/admin/api/model_aliases", { enabled: true }),
    all("/admin/api/models", { enabled: true }),
  ]);
  const names = aliases.map(({ alias }) => alias)
    .concat(models.map(({ provider_name: name, model_id: id }) => `${name}/${id}`))
    .slice(0, MODELS_ASKED);
  const may = await Promise.all(names.map((model) => {
    return get("/admin/api/explain", { user_name: user, model }).then(({ rule }) => Boolean(rule));
  }));
  return names.filter((_, at) => may[at]);
}

/** A word for what is on or off. */
export const onOff = (isOn) => (isOn ? badge("on", "good") : badge("off", "warn"));

/** The models that a rule is about, as a column and as a field. */
const modelsColumn = {
  title: "Models", value: (rule) => rule.model_pattern,
  cell: (rule) => h("code", null, rule.model_pattern),
};
const modelsField = (help) => ({
  name: "model_pattern", label: "Models", required: true, settled: true, value: "*", help,
});

/** Models that may be called. */
export function permissions(context, user, users, providers) {
  const columns = [
    modelsColumn,
    { title: "Only at", value: (rule) => rule.provider_name ?? "" },
  ];
  return section({
    context, at: "/admin/api/permissions", title: "Permissions", one: "permission",
    ...whose(user, columns),
    fields: [
      userField(users),
      modelsField("Without the provider's prefix; * is any text, ? any character."),
      { name: "provider_name", label: "Only at this provider", options: providers, settled: true },
    ],
  });
}

/** Providers whose files and batches may be used. */
export function filePermissions(context, user, users, providers) {
  const columns = [{ title: "Provider", value: (rule) => rule.provider_name }];
  return section({
    context, at: "/admin/api/file_permissions", title: "Files and batches",
    one: "file permission", ...whose(user, columns),
    fields: [userField(users), {
      name: "provider_name", label: "Provider", required: true, settled: true, options: providers,
    }],
  });
}

/** Counters of a limit: field, title. */
const COUNTERS = [
  ["rpm", "Requests in a minute"], ["rpd", "Requests in 24 hours"],
  ["total_tokens", "Tokens in the window"], ["in_flight", "Side by side"],
];

/** Columns that show how full a limit is. */
export const limitColumns = [
  modelsColumn,
  ...COUNTERS.map(([name, title]) => ({
    title,
    number: true,
    value: (limit) => limit[name] ?? -1,
    cell: (limit) => (limit[name] === undefined ? "" : fill(limit.fill?.[name] ?? 0, limit[name])),
  })),
];

function fill(now, most) {
  const part = most ? now / most : 1;
  return [`${count(now)} of ${count(most)}`, share(part, part > 0.9 ? "bad" : "")];
}

/** Rate limits, and how full they are. */
export function limits(context, user, users) {
  return section({
    context, at: "/admin/api/rate_limits", title: "Rate limits", one: "rate limit",
    ...whose(user, limitColumns),
    fields: [
      userField(users),
      modelsField("Calls of all models that match count together."),
      ...COUNTERS.map(([name, label]) => ({ name, label, kind: "number" })),
      { name: "window_s", label: "Window of the tokens, seconds", kind: "number" },
    ],
  });
}

/** Dollars a day that each user has spent lately. */
export async function paces(area, signal) {
  const from = Date.now() - PACE_DAYS * DAY_MS;
  const { items } = await get(`${area}/usage/sums`, { by: "user", from }, signal);
  return new Map(items.map((sum) => [sum.user, Number(sum.cost) / PACE_DAYS]));
}

/** Columns that show how a quota stands. */
export const quotaColumns = (pace) => [
  { title: "Over", value: (quota) => quota.window },
  {
    title: "Spent", number: true, value: (quota) => spentPart(quota),
    cell: (quota) => [
      `${usd(quota.used)} of ${usd(quota.ceiling)} (${percent(spentPart(quota))})`,
      share(spentPart(quota), spentPart(quota) >= 0.9 ? "bad" : ""),
    ],
  },
  {
    title: "Held", number: true, value: (quota) => Number(quota.reserved),
    cell: (quota) => usd(quota.reserved),
  },
  { title: "At this pace", value: (quota) => forecast(quota, pace) },
];

const spentPart = ({ used, ceiling }) => (Number(ceiling) ? Number(used) / Number(ceiling) : 1);

/** When a quota is spent, if spending goes on as it did. */
function forecast(quota, pace) {
  const left = Number(quota.ceiling) - Number(quota.used);
  if (left <= 0) return "spent";
  const days = left / (pace.get(quota.user_name) || 0);
  const window = { day: 1, week: 7, month: 30 }[quota.window];
  if (!Number.isFinite(days)) return "nothing is spent";
  if (window && days > window) return "lasts its window";
  return days > 365 ? "lasts more than a year" : `spent in ${Math.max(1, Math.round(days))} d`;
}

/** Quotas: how they stand, how long they last, and what is added to them. */
export function quotas(context, user, users, pace) {
  return section({
    context, at: "/admin/api/quotas", title: "Quotas", one: "quota",
    ...whose(user, quotaColumns(pace)),
    acts: (quota) => [
      button("Top up", () => topUp(context, quota), "quiet"),
      Number(quota.topped_up) !== 0 && button("Top-ups", () => topUps(context, quota), "quiet"),
    ],
    fields: [
      userField(users),
      { name: "quota", label: "USD", kind: "money", required: true },
      {
        name: "window", label: "Over", kind: "choice", options: WINDOWS, value: "total",
        settled: true,
      },
      {
        name: "cost_used", label: "Spent elsewhere before", kind: "money", settled: true,
        help: "In dollars; counts once, with a user's first quota.",
      },
    ],
  });
}

function topUp(context, quota) {
  const target = `${path("/admin/api/quotas", quota.id)}/top_ups`;
  dialog(`Top up ${quota.id}`, (close) => form({
    fields: [
      {
        name: "amount", label: "USD", kind: "money", required: true,
        help: "Is added to the ceiling and counts at once; a minus takes back.",
      },
      { name: "why", label: "Why", help: "For the books." },
    ],
    submit: "Top up",
    cancel: close,
    send: async (values) => {
      const { ceiling } = await post(target, values);
      close();
      say(`The ceiling is now ${usd(ceiling)}`, "good");
      context.again();
    },
  }));
}

/** What was added to a quota's ceiling, and by whom. */
function topUps(context, quota) {
  const target = `${path("/admin/api/quotas", quota.id)}/top_ups`;
  const title = `Top-ups of ${quota.id}`;
  const columns = [
    { title: "At", value: (row) => row.at, cell: (row) => time(row.at) },
    { title: "USD", number: true, value: (row) => Number(row.amount), cell: (row) => row.amount },
    { title: "By", value: (row) => row.made_by },
    { title: "Why", value: (row) => row.why },
  ];
  const load = async () => ({ ...await get(target, {}, context.signal), next_cursor: null });
  dialog(title, () => table({ caption: title, columns, load, empty: "Nothing was added." }));
}
