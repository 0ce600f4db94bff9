// One request: what was decided, how long it took, what it used and cost, and what was kept of it.

import { get, path } from "../api.js";
import { waterfall } from "../charts.js";
import { h } from "../dom.js";
import { bytes, count, duration, time, usd } from "../format.js";
import { badge, copyable, facts, nothing, pageHead, panel, statusBadge, to } from "../parts.js";
import { table } from "../table.js";

/** Counters of a row and the prices they are billed by: name, field, price, per how many. */
const CLASSES = [
  ["Input", "input_tokens", "price_input_tokens", 1e6],
  ["Read from a cache", "cache_read_input_tokens", "price_cache_read_input_tokens", 1e6],
  [
    "Written to a cache, 5 min", "cache_creation_input_tokens_5min",
    "price_cache_creation_input_tokens_5min", 1e6,
  ],
  [
    "Written to a cache, 1 h", "cache_creation_input_tokens_1h",
    "price_cache_creation_input_tokens_1h", 1e6,
  ],
  ["Output", "output_tokens", "price_output_tokens", 1e6],
  ["of it reasoning", "reasoning_tokens", null, 0],
  ["of input audio", "input_audio_tokens", "price_input_audio_tokens", 1e6],
  ["of output audio", "output_audio_tokens", "price_output_audio_tokens", 1e6],
  ["of input images", "input_image_tokens", "price_input_image_tokens", 1e6],
  ["of output images", "output_image_tokens", "price_output_image_tokens", 1e6],
  ["Calls of tools", "tool_calls", "price_each_tool_call", 1],
  ["Images made", "images", "price_each_image", 1],
];

/** Where each dialect is called, and how it is told who calls. */
const CALLS = {
  openai_chat: ["/v1/chat/completions", "Authorization: Bearer"],
  openai_responses: ["/v1/responses", "Authorization: Bearer"],
  openai_embeddings: ["/v1/embeddings", "Authorization: Bearer"],
  anthropic: ["/v1/messages", "x-api-key:"],
  gemini: ["/v1beta/models", "x-goog-api-key:"],
};

/** The page of the request of this id. */
export async function showRequest(context, id) {
  const { area, signal } = context;
  const isAdmin = area === "/admin/api";
  const list = (what) => get(`${area}/${what}`, { request_id: id }, signal);
  const [rows, refusals, recording] = await Promise.all([
    list("usage"), list("refusals"), isAdmin ? recordingOf(id, signal) : null,
  ]);
  const [row, refused] = [rows.items[0], refusals.items[0]];
  const known = row ?? refused;
  const back = h("a", { href: to("requests") }, "All requests");
  if (!known) {
    return [
      pageHead(`Request ${id}`, back),
      panel(null, nothing("It is not in the books, or not yet, and was not refused lately.")),
    ];
  }
  return [
    pageHead(`Request ${id}`, back),
    h("div", { class: "grid" },
      panel("What happened", whatHappened(known, refused)),
      isAdmin && panel("Who may, and who serves", await decision(known, signal))),
    row && panel("Timings", timings(row)),
    row && panel("Tokens and cost", bill(row)),
    recording && panel("The last bytes of its stream", recorded(recording)),
    panel("Again, with curl", copyable(curl(known), "A command that calls again")),
  ];
}

/** The recording of a stream that broke off; `null`: there is none. */
async function recordingOf(id, signal) {
  const { items } = await get("/admin/api/recordings", {}, signal);
  const isThere = items.some((item) => item.request_id === id);
  return isThere ? get(path("/admin/api/recordings", id), {}, signal) : null;
}

function whatHappened(known, refused) {
  const filter = (field, value) => {
    return value ? h("a", { href: to("requests", { [field]: value }) }, value) : null;
  };
  return facts([
    ["Status", statusBadge(known.status, known.outcome ?? "refused")],
    ["Why", refused && h("strong", null, refused.message)],
    ["At", time(known.at)],
    ["User", filter("user_name", known.user)],
    ["Key", filter("user_key", known.user_key)],
    ["Call", known.operation || null],
    ["Model asked for", known.model || null],
    ["Served by", filter("provider_name", known.provider)],
    ["Credential", known.credential_id ?? null],
    ["Model served", known.model_served || null],
    ["Attempts", known.attempts ?? null],
    ["In, out", known.bytes_in === undefined ? null
      : `${bytes(known.bytes_in)}, ${bytes(known.bytes_out)}`],
  ]);
}

/** What would be decided now, which may not be what was decided then. */
async function decision({ user, model }, signal) {
  if (!user || !model) return nothing("It named no model.");
  let told;
  try {
    told = await get("/admin/api/explain", { user_name: user, model }, signal);
  } catch (error) {
    return nothing(`Now: ${error.message}`);
  }
  if (!told.served) {
    return facts([
      ["If it came now", badge(`refused with ${told.status}`, "bad")], ["Why", told.message],
    ]);
  }
  return facts([
    ["If it came now", badge("would be served", "good")],
    ["By", told.provider],
    ["As", told.model_served],
    ["Permission", h("code", null, told.permission)],
  ]);
}

function timings(row) {
  const first = Math.max(row.first_byte_ms, 0);
  const rest = Math.max(row.total_ms - first, 0);
  const parts = row.first_byte_ms < 0
    ? [["No answer came", 0, row.total_ms]]
    : [["Until the upstream's head", 0, first], ["Until the end", first, rest]];
  return waterfall(parts, row.total_ms, duration);
}

/** What a row used, by classes, and what that cost. */
export function bill(row) {
  const price = row.price ? JSON.parse(row.price) : null;
  const used = CLASSES.filter(([, field]) => row[field] > 0);
  const cost = ([, field, name, per]) => {
    return price?.[name] ? (row[field] * Number(price[name])) / per : null;
  };
  const columns = [
    { title: "What", value: ([title]) => title },
    {
      title: "Count", number: true, value: ([, field]) => row[field],
      cell: ([, field]) => count(row[field]),
    },
    {
      title: "Price, USD", number: true, value: ([, , name]) => Number(price?.[name] ?? 0),
      cell: ([, , name, per]) => (price?.[name] ? `${price[name]}${per === 1 ? "" : " / M"}` : ""),
    },
    {
      title: "Cost", number: true, value: (one) => cost(one) ?? 0,
      cell: (one) => (cost(one) === null ? "" : usd(cost(one))),
    },
  ];
  const each = price?.price_each_call;
  return [
    used.length ? table({ caption: "Tokens and cost", columns, items: used }) : nothing("Nothing."),
    facts([
      ["Each call", each ? usd(each) : null],
      ["Cost", h("strong", null, `${usd(row.cost)} `, h("small", null, `${row.cost} USD`))],
      ["Prices", price ? null : badge("the model has no price", "warn")],
      ["Counted by", row.usage_source],
      ["Served as", row.service_tier],
    ]),
  ];
}

function recorded({ why, truncated, total_ms: total, pieces }) {
  return [
    facts([["It ended", why], ["After", duration(total)]]),
    truncated && h("p", { class: "faint" }, "More came before."),
    h("ol", { class: "pieces" }, pieces.map((piece) => h("li", null,
      h("span", { class: "faint" }, `${duration(piece.at_ms)}, ${bytes(piece.bytes)}`),
      h("pre", { class: "raw" }, piece.text)))),
  ];
}

/** The same call, without its key and its words. */
function curl({ protocol, model }) {
  const [base, key] = CALLS[protocol] ?? CALLS.openai_chat;
  const isGemini = protocol === "gemini";
  const target = isGemini ? `${base}/${encodeURIComponent(model)}:generateContent` : base;
  const words = "Say hello.";
  const bodies = {
    openai_responses: { model, input: words },
    openai_embeddings: { model, input: words },
    anthropic: { model, max_tokens: 100, messages: [{ role: "user", content: words }] },
    gemini: { contents: [{ parts: [{ text: words }] }] },
  };
  const body = bodies[protocol] ?? { model, messages: [{ role: "user", content: words }] };
  return [
    `curl ${quoted(location.origin + target)} \\`, `  -H "${key} $GPROXY_KEY" \\`,
    '  -H "Content-Type: application/json" \\', `  -d ${quoted(JSON.stringify(body))}`,
  ].join("\n");
}

/** As one word of a shell, whatever stands in it: callers name models as they like. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

