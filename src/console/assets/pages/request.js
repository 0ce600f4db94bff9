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
export async function showRequest({ area, signal }, id) {
  const back = h("a", { href: to("requests") }, "All requests");
  const head = pageHead(`Request ${id}`, back);
  let story;
  try {
    story = await get(path(`${area}/requests`, id), {}, signal);
  } catch (error) {
    if (error.status !== 404) throw error;
    const text = "It is not in the books, or not yet, and was not refused or logged lately.";
    return [head, panel(null, nothing(text))];
  }
  const { usage: row, refusal, decision, attempts = [], recording } = story;
  const log = story.log ?? {};
  const known = { ...fromLog(log.request), ...refusal, ...row };
  return [
    head,
    h("div", { class: "grid" },
      panel("What happened", whatHappened(known, refusal, log.request)),
      decision && panel("What would be decided now", decided(decision))),
    known.total_ms !== undefined && panel("Timings", timings(known, attempts)),
    attempts.length > 0 && panel("Attempts", attemptTable(known, attempts)),
    row && panel("Tokens and cost", bill(row)),
    log.request && panel("Its log", logged(log.request)),
    (log.attempts ?? []).map((attempt) => {
      return panel(`The log of attempt ${attempt.attempt}`, logged(attempt));
    }),
    recording && panel("The last bytes of its stream", recorded(recording)),
    panel("Again, with curl", copyable(curl(known, log.request), "A command that calls again")),
  ];
}

/** What a log tells where the books and the refusals tell nothing. */
function fromLog(request) {
  if (!request) return {};
  const { at, status, outcome, user, user_key: key, total_ms: total } = request;
  return { at, status: status ?? 0, outcome, user, user_key: key, total_ms: total };
}

/** The value of a logged field; `null`: there is none, or nothing is logged. */
function field(request, name) {
  const pair = request?.request_headers?.find(([other]) => other.toLowerCase() === name);
  return pair ? pair[1] : null;
}

function whatHappened(known, refused, request) {
  const filter = (name, value) => {
    return value ? h("a", { href: to("requests", { [name]: value }) }, value) : null;
  };
  return facts([
    ["Status", statusBadge(known.status, known.outcome ?? "refused")],
    ["Why", refused && h("strong", null, refused.message)],
    ["At", time(known.at)],
    ["User", filter("user_name", known.user)],
    ["Key", filter("user_key", known.user_key)],
    ["User agent", field(request, "user-agent")],
    ["Path", request ? `${request.method} ${request.path}` : null],
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

/** Gate by gate, as the configuration is now: it may have been another one then. */
function decided({ served, status, message, steps }) {
  return [
    facts(steps.map(({ step, says }) => [step, says])),
    facts([
      ["Verdict", served ? badge("would be served", "good") : badge(`refused: ${status}`, "bad")],
      ["Why", message ?? null],
    ]),
  ];
}

/** Attempts whose times are known, and how the last of them went on. */
function timings(known, attempts) {
  const whole = known.total_ms;
  if (known.first_byte_ms === undefined && !attempts.length) {
    return waterfall([["All of it", 0, whole]], whole, duration);
  }
  const timed = attempts.filter((attempt) => attempt.at !== null && attempt.total_ms !== null);
  const last = timed.at(-1);
  const parts = timed.filter((attempt) => attempt !== last || attempt.initial_ms === null)
    .map((attempt) => [
      `Attempt ${attempt.attempt}, ${attempt.provider}: ${attempt.status ?? attempt.end_reason}`,
      Math.max(attempt.at - known.at, 0), attempt.total_ms,
    ]);
  const end = last && Math.max(last.at - known.at, 0) + last.total_ms;
  if (last && last === attempts.at(-1) && last.status === null) {
    const rest = Math.max(whole - end, 0);
    return waterfall([...parts, ["Until the end", end, rest]], whole, duration);
  }
  if ((known.first_byte_ms ?? -1) < 0) {
    return parts.length || whole === 0 ? waterfall(parts, whole, duration)
      : waterfall([["No answer came", 0, whole]], whole, duration);
  }
  const isTold = last && last.initial_ms !== null;
  const begun = isTold ? Math.max(last.at - known.at, 0) : 0;
  const first = isTold ? last.initial_ms : known.first_byte_ms;
  const name = isTold && attempts.length > 1 ? `Attempt ${last.attempt}, ${last.provider}: ` : "";
  const rest = begun + first;
  return waterfall([
    ...parts,
    [`${name}${name ? "until its head" : "Until the upstream's head"}`, begun, first],
    ["Until the end", rest, Math.max(whole - rest, 0)],
  ], whole, duration);
}

function attemptTable(known, attempts) {
  const columns = [
    { title: "Attempt", number: true, value: (attempt) => attempt.attempt },
    { title: "Provider", value: (attempt) => attempt.provider },
    { title: "Credential", number: true, value: (attempt) => attempt.credential_id ?? "none" },
    {
      title: "Status", value: (attempt) => attempt.status ?? 0,
      cell: (attempt) => (attempt.status ? statusBadge(attempt.status) : badge("none", "bad")),
    },
    { title: "Why it ended", value: (attempt) => attempt.end_reason },
    {
      title: "Began after", number: true, value: (attempt) => attempt.at ?? -1,
      cell: (attempt) => after(attempt.at, known.at),
    },
    {
      title: "Took", number: true, value: (attempt) => attempt.total_ms ?? -1,
      cell: (attempt) => (attempt.total_ms === null ? "" : duration(attempt.total_ms)),
    },
  ];
  return table({ caption: "Attempts", columns, items: attempts });
}

const after = (at, begun) => (at === null ? "" : duration(Math.max(at - begun, 0)));

/** Fields and bodies of a request or an attempt, both ways, as they were kept. */
function logged(one) {
  const part = (title, text) => h("details", null, h("summary", null, title),
    h("pre", { class: "raw", tabindex: "0", role: "region", "aria-label": title }, text));
  const way = (title, fields, body, isCut) => [
    fields && part(`Fields of the ${title}`,
      fields.map(([name, value]) => `${name}: ${value}`).join("\n")),
    body !== null && part(`Body of the ${title}${isCut ? ", its beginning" : ""}`, body),
  ];
  const target = one.url ?? (one.query ? `${one.path}?${one.query}` : one.path);
  return [
    facts([
      ["Call", `${one.method} ${target}`],
      ["Status", one.status ? statusBadge(one.status) : badge("none", "bad")],
      ["How it ended", one.end_reason ?? one.outcome],
      ["Until the head", one.initial_ms === null ? null : duration(one.initial_ms)],
      ["Until the end", duration(one.total_ms)],
    ]),
    way("request", one.request_headers, one.request_body, one.request_body_truncated),
    way("answer", one.response_headers, one.response_body, one.response_body_truncated),
  ];
}

/** What a row used, by classes, and what that cost. */
export function bill(row) {
  const price = typeof row.price === "string" ? JSON.parse(row.price) : row.price;
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

/** The same call without its key: with its words where they were kept, else with others. */
function curl({ protocol, model }, request) {
  const [base, key] = CALLS[protocol] ?? CALLS.openai_chat;
  const isJson = field(request, "content-type")?.includes("json");
  const isKept = isJson && request.request_body !== null && !request.request_body_truncated;
  if (isKept || (request && request.method !== "POST")) {
    const query = request.query ? `?${request.query}` : "";
    return command(request.method, request.path + query, key, isKept ? request.request_body : "");
  }
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
  return command("POST", request?.path ?? target, key, JSON.stringify(body));
}

function command(method, target, key, body) {
  return [
    `curl ${method === "POST" ? "" : `-X ${quoted(method)} `}${quoted(location.origin + target)}`,
    `  -H "${key} $GPROXY_KEY"`,
    ...(body ? ['  -H "Content-Type: application/json"', `  -d ${quoted(body)}`] : []),
  ].join(" \\\n");
}

/** As one word of a shell, whatever stands in it: callers name models as they like. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

