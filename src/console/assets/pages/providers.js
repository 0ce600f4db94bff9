// Providers: how they do, where they are reached, and what they present there; and whether usage
// rows are written.

import { get, path, post } from "../api.js";
import { h, replace } from "../dom.js";
import { form } from "../form.js";
import { count, percent, time } from "../format.js";
import { onOff } from "../holdings.js";
import { badge, button, dialog, facts, nothing, pageHead, panel, say, to } from "../parts.js";
import { names, section } from "../section.js";
import { table } from "../table.js";

const DAY_MS = 86_400_000;
const CHANNELS = [
  "custom", "openai", "anthropic", "aistudio", "vertexexpress", "vertex", "azure", "deepseek",
  "groq", "openrouter", "nvidia", "echo",
];
/** What may pass through a credential: field, title. */
const CEILINGS = [
  ["rpm", "Requests in a minute"], ["tpm", "Tokens in a minute"], ["in_flight", "Side by side"],
];
const STATES = { ok: "good", resting: "warn", disabled: "bad", paused: "warn" };

export async function show(context) {
  const { signal } = context;
  const sums = { by: "provider", from: Date.now() - DAY_MS };
  const [{ items }, providers, standing] = await Promise.all([
    get("/admin/api/usage/sums", sums, signal), names("providers", "name", signal),
    get("/admin/api/health", {}, signal),
  ]);
  const lately = new Map(items.map((sum) => [sum.provider, sum]));
  return [
    pageHead("Providers"), providersOf(context, lately), standingOf(context, standing),
    credentials(context, providers),
  ];
}

function providersOf(context, lately) {
  return section({
    context, at: "/admin/api/providers", title: "All providers", one: "provider",
    columns: [
      { title: "Name", value: (provider) => provider.name },
      { title: "Channel", value: (provider) => provider.channel },
      { title: "On", value: (provider) => provider.enabled, cell: (row) => onOff(row.enabled) },
      {
        title: "Last 24 hours", value: ({ name }) => lately.get(name)?.requests ?? 0,
        cell: ({ name }) => health(name, lately.get(name)),
      },
      {
        title: "Reached at", value: ({ urls }) => Object.values(urls ?? {})[0] ?? "",
        cell: ({ urls }) => h("ul", { class: "plain" }, Object.entries(urls ?? {})
          .map(([dialect, url]) => h("li", null, `${dialect}: `, h("code", null, url)))),
      },
    ],
    fields: [
      {
        name: "name", label: "Name", required: true, settled: true,
        help: "Prefix of its models: name/model.",
      },
      { name: "channel", label: "Channel", required: true, options: CHANNELS },
      { name: "label", label: "Label" },
      {
        name: "settings", label: "Settings", kind: "json",
        help: "As in the file, such as base_url and dialects of a custom one.",
      },
      {
        name: "credentials", label: "Credentials", kind: "json", once: true,
        help: 'Its first ones, kept and never shown: [{ "api_key": "...", "in_flight": 4 }]',
      },
      { name: "enabled", label: "May be called", kind: "flag", value: true },
    ],
    acts: ({ name }) => [
      button("Test call", () => test(name), "quiet"),
      button("Pull list", () => pull(name), "quiet"),
    ],
  });
}

function health(name, sum) {
  if (!sum) return h("span", { class: "faint" }, "no requests");
  const rate = sum.failed / sum.requests;
  const kind = rate > 0.05 ? "bad" : rate > 0 ? "warn" : "good";
  return h("a", { href: to("requests", { provider_name: name, status_min: 400 }) },
    badge(`${percent(rate)} of ${count(sum.requests)} failed`, kind));
}

/** How each credential stands now and what is done about it, and how the books stand. */
function standingOf({ signal }, standing) {
  const [body, books] = [h("div"), h("div")];
  const draw = ({ items, ledger }) => {
    replace(books, booksOf(ledger));
    replace(body, table({
      caption: "How credentials stand", items, empty: "No credential is in use.",
      columns: [...standingColumns, { title: "", value: (one) => one.id, cell: acts }],
    }));
  };
  const tried = async (work) => {
    try {
      await work();
      draw(await get("/admin/api/health", {}, signal));
    } catch (error) {
      if (error.name !== "AbortError") say(error.message, "bad");
    }
  };
  const hold = (one, verb) => tried(() => post(path("/admin/api/credentials", one.id, verb)));
  const acts = (one) => [
    button("Clear", () => hold(one, "reset"), "quiet"),
    one.state !== "paused" && button("Pause", () => hold(one, "pause"), "quiet"),
    button("Test call", () => test(one.provider_name, one.id), "quiet"),
  ];
  draw(standing);
  return [
    panel("How credentials stand", body,
      h("div", null, button("Look again", () => tried(async () => {})))),
    panel("Are the books written?", books),
  ];
}

/** Whether usage rows reach the disk, and what happens to requests when they do not. */
function booksOf({ enable_usage: isOn, healthy: isWell, unbilled, rows }) {
  const well = isWell ? badge("they reach the disk", "good") : badge("cannot be written", "bad");
  return facts([
    ["Usage rows", isOn ? well : badge("none: usage is not recorded", "warn")],
    ["Not yet written", count(rows)],
    ["When they cannot be written", unbilled === "serve"
      ? badge("requests are served, and charged to nobody", "warn")
      : "requests are refused once there is no place for more rows"],
  ]);
}

const standingColumns = [
  {
    title: "Credential", value: (one) => one.id,
    cell: (one) => [one.id, one.hint && [" ", h("code", null, one.hint)]],
  },
  {
    title: "State", value: (one) => one.state,
    cell: (one) => badge(one.state, STATES[one.state]),
  },
  {
    title: "Rests", value: (one) => one.circuits.length,
    cell: (one) => h("ul", { class: "plain" },
      one.circuits.map((circuit) => h("li", null, restOf(circuit)))),
  },
  { title: "In flight", number: true, value: (one) => one.in_flight },
  {
    title: "Ceilings", value: (one) => fillOf(one).join(", "),
    cell: (one) => h("ul", { class: "plain" }, fillOf(one).map((text) => h("li", null, text))),
  },
];

function restOf({ model, why, until }) {
  const end = until === null ? "until it is cleared" : `until ${time(until)}`;
  return `${model || "all models"}: ${why}, ${end}`;
}

/** Those of the ceilings that are set. */
function fillOf({ fill }) {
  return Object.entries(fill ?? {}).filter(([, { of }]) => of !== null)
    .map(([name, { used, of }]) => `${name} ${count(used)} of ${count(of)}`);
}

/** Calls the upstream once, and shows what was called and what it said. */
function test(provider, credential) {
  const result = h("div", { role: "status" });
  const send = async ({ model }) => {
    replace(result);
    const asked = Object.entries({ model, credential }).filter(([, value]) => value);
    const target = path("/admin/api/providers", provider, "test");
    const said = await post(target, Object.fromEntries(asked));
    replace(result, facts([
      ["Result", badge(said.says, said.ok ? "good" : "bad")],
      ["Called", said.url ? h("code", null, `${said.method} ${said.url}`) : null],
      ["Took", `${count(said.ms)} ms`],
      ["Answer", said.text ? h("code", null, said.text) : null],
    ]));
  };
  dialog(`Test call of ${credential ?? provider}`, () => h("div", null, form({
    fields: [{
      name: "model", label: "Model",
      help: "A few of its tokens are asked for. Empty: its list of models, which costs nothing.",
    }],
    submit: "Call it",
    send,
  }), result));
}

/** What the upstream lists now. */
async function pull(provider) {
  let list;
  try {
    list = await post(path("/admin/api/providers", provider, "pull"));
  } catch (error) {
    say(error.message, "bad");
    return;
  }
  const state = (model) => (model.declared ? "declared" : "new");
  const size = (tokens) => (tokens ? count(tokens) : "");
  dialog(`${provider} lists`, () => h("div", null,
    nothing(`Models: ${count(list.items.length)}, of them new: ${count(list.new)}.`),
    table({
      caption: `Models of ${provider}`, items: list.items,
      columns: [
        { title: "Model", value: (model) => model.id },
        { title: "State", value: state, cell: (model) => badge(state(model)) },
        {
          title: "Input at most", number: true, value: (model) => model.max_input_tokens ?? 0,
          cell: (model) => size(model.max_input_tokens),
        },
      ],
    })));
}

function credentials(context, providers) {
  return section({
    context, at: "/admin/api/credentials", title: "Credentials", one: "credential",
    columns: [
      { title: "Provider", value: (one) => one.provider_name },
      {
        title: "Ends in", value: (one) => one.hint ?? "",
        cell: (one) => h("code", null, one.hint),
      },
      { title: "Weight", number: true, value: (one) => one.weight ?? 1 },
      ...CEILINGS.map(([name, title]) => ({
        title, number: true, value: (one) => one[name] ?? -1,
        cell: (one) => (one[name] === undefined ? "" : count(one[name])),
      })),
    ],
    fields: [
      {
        name: "provider_name", label: "Provider", required: true, settled: true,
        options: providers,
      },
      { name: "api_key", label: "Key", kind: "password", help: "Never shown." },
      {
        name: "service_account", label: "Service account", kind: "json",
        help: "The file that Google gives, in the place of a key, for the channel vertex. "
          + "Never shown.",
      },
      { name: "weight", label: "Weight", kind: "number", help: "Its share of the requests; 1." },
      ...CEILINGS.map(([name, label]) => ({
        name, label, kind: "number", help: "Past it the next credential is taken. Empty: no bound.",
      })),
    ],
  });
}
