// A call of the gateway from the browser: the answer as it streams, its events, and its receipt.
//
// A key stays in this tab's memory and goes nowhere but to the gateway.

import { get, post } from "../api.js";
import { h, replace } from "../dom.js";
import { form } from "../form.js";
import { duration } from "../format.js";
import { button, facts, nothing, pageHead, panel, say, tabs, to, trouble } from "../parts.js";
import { bill } from "./request.js";

const EVENTS_MAX = 2_000;
/** A row is in the books within a tenth of a second, or some more when the disk is slow. */
const ROW_TRIES = 15;
const ROW_PAUSE_MS = 200;
const NO_ROW = "No row of it was found. A call that is refused before it is admitted has none, and "
  + "costs nothing; there is none while usage is not recorded; a slow disk writes it later; and "
  + "the rows of another user's key are shown to him and to administrators.";

/** How each dialect is asked for a stream, and what of an event is text. */
const DIALECTS = {
  openai_chat: {
    title: "OpenAI chat completions",
    target: () => "/v1/chat/completions",
    headers: (key) => ({ authorization: `Bearer ${key}` }),
    body: ({ model, words, most }) => ({
      model, stream: true, max_completion_tokens: most,
      messages: [{ role: "user", content: words }],
    }),
    text: (event) => event.choices?.[0]?.delta?.content,
  },
  openai_responses: {
    title: "OpenAI responses",
    target: () => "/v1/responses",
    headers: (key) => ({ authorization: `Bearer ${key}` }),
    body: ({ model, words, most }) => ({
      model, stream: true, max_output_tokens: most, input: words,
    }),
    text: (event) => (event.type === "response.output_text.delta" ? event.delta : ""),
  },
  anthropic: {
    title: "Anthropic messages",
    target: () => "/v1/messages",
    headers: (key) => ({ "x-api-key": key, "anthropic-version": "2023-06-01" }),
    body: ({ model, words, most }) => ({
      model, stream: true, max_tokens: most ?? 1024,
      messages: [{ role: "user", content: words }],
    }),
    text: (event) => event.delta?.text,
  },
  gemini: {
    title: "Gemini generateContent",
    target: ({ model }) => {
      return `/v1beta/models/${encodeURIComponent(model)}:streamGenerateContent?alt=sse`;
    },
    headers: (key) => ({ "x-goog-api-key": key }),
    body: ({ words, most }) => ({
      contents: [{ role: "user", parts: [{ text: words }] }],
      generationConfig: { maxOutputTokens: most },
    }),
    text: (event) => event.candidates?.[0]?.content?.parts?.map((part) => part.text ?? "").join(""),
  },
};

let kept = { key: "", dialect: "openai_chat", model: "", words: "Say hello." };

export async function show(context) {
  const { area, query, signal } = context;
  if (query.get("model")) kept.model = query.get("model");
  const { items: models } = await get("/user/api/models", {}, signal);
  const result = h("div", { class: "result" });
  const ask = form({
    fields: fields(models),
    submit: "Send",
    send: async (values) => {
      kept = { ...kept, ...values };
      await run({ area, signal, values, result });
    },
  });
  const make = async () => {
    try {
      const made = await post("/user/api/keys", { label: "playground" });
      kept.key = made.api_key;
      ask.elements.key.value = made.api_key;
      say("A key of yours, labelled “playground”, was made", "good");
    } catch (error) {
      say(error.message, "bad");
    }
  };
  return [
    pageHead("Playground", button("Make a key for this", make)),
    h("div", { class: "grid" }, panel("Call", ask), panel("Answer", result)),
  ];
}

function fields(models) {
  return [
    {
      name: "key", label: "Key", kind: "password", value: kept.key, required: true,
      help: "Paste any user's key, or make one of yours. It stays in this tab.",
    },
    {
      name: "dialect", label: "Dialect", kind: "choice", value: kept.dialect,
      options: Object.entries(DIALECTS).map(([name, { title }]) => [name, title]),
    },
    {
      name: "model", label: "Model or alias", value: kept.model, required: true,
      options: models.map(({ id }) => id),
    },
    { name: "words", label: "What you say", kind: "area", value: kept.words, required: true },
    { name: "most", label: "Tokens at most", kind: "number", value: kept.most ?? 256 },
  ];
}

async function run({ area, signal, values, result }) {
  for (const name of ["key", "model", "words"]) {
    if (!values[name]) throw Object.assign(new Error("is missing"), { field: name });
  }
  const stop = new AbortController();
  signal.addEventListener("abort", () => stop.abort());
  const view = viewOf(result, () => stop.abort());
  const begun = performance.now();
  let reply;
  try {
    reply = await call(values, stop.signal);
    view.head(reply, performance.now() - begun);
    if (!reply.ok) {
      view.failed(await reply.text());
    } else {
      await readEvents(reply.body, (data) => view.event(data, DIALECTS[values.dialect].text));
    }
  } catch (error) {
    view.failed(error.name === "AbortError" ? "Stopped." : error.message);
  }
  view.end(performance.now() - begun);
  if (reply && !signal.aborted) await view.receipt(area, idOf(reply), signal);
}

function call(values, signal) {
  const { target, headers, body } = DIALECTS[values.dialect];
  return fetch(target(values), {
    method: "POST",
    headers: { "content-type": "application/json", ...headers(values.key) },
    body: JSON.stringify(body(values)),
    credentials: "omit",
    signal,
  });
}

/** Ours. Under the other names an upstream's own id passes, of which the books know nothing. */
const idOf = ({ headers }) => headers.get("x-gproxy-request-id");

/** Calls `event` with the data of each event of a stream, and with comments as they stand. */
async function readEvents(stream, event) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) event(line.slice(5).trim());
      else if (line.startsWith(":")) event(line);
    }
  }
}

/** What is shown of a call, while it runs and afterwards. */
function viewOf(result, stop) {
  const text = h("div", { class: "answer", "aria-live": "polite", tabindex: "0" });
  const events = h("ol", { class: "events" });
  const receipt = h("div", null, nothing("It comes when the call has ended."));
  const headers = h("div");
  const state = h("p", { class: "faint", role: "status" }, "Under way…");
  const halt = button("Stop", stop);
  let count = 0;
  replace(result, h("div", { class: "page-head" }, state, halt),
    tabs("The answer", [
      ["Text", () => text], ["Events", () => events], ["Head", () => headers],
      ["Receipt", () => receipt],
    ]));
  return {
    head(reply, ms) {
      replace(state, `Status ${reply.status}, head after ${duration(ms)}`);
      replace(headers, facts([...reply.headers].map(([name, value]) => [name, value])));
    },
    event(data, textOf) {
      count += 1;
      if (count <= EVENTS_MAX) events.append(h("li", null, h("code", null, data)));
      try {
        text.append(textOf(JSON.parse(data)) ?? "");
      } catch {
        // `[DONE]` and comments hold no text.
      }
    },
    failed(words) {
      text.append(trouble({ message: words }));
    },
    end(ms) {
      halt.remove();
      replace(state, `${state.textContent}, end after ${duration(ms)}`);
    },
    async receipt(area, id, signal) {
      replace(receipt, await receiptOf(area, id, signal));
    },
  };
}

async function receiptOf(area, id, signal) {
  if (!id) return nothing("The answer has no id.");
  const link = h("a", { href: to("requests", {}, id) }, `Request ${id}`);
  for (let tries = 0; tries < ROW_TRIES; tries += 1) {
    const { items } = await get(`${area}/usage`, { request_id: id }, signal);
    if (items.length) return [bill(items[0]), h("p", null, link)];
    await new Promise((resolve) => setTimeout(resolve, ROW_PAUSE_MS));
  }
  return [nothing(NO_ROW), h("p", null, link)];
}
