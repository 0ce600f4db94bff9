// Providers: how they do, where they are reached, and what they present there.

import { get } from "../api.js";
import { h } from "../dom.js";
import { count, percent } from "../format.js";
import { onOff } from "../holdings.js";
import { badge, pageHead, to } from "../parts.js";
import { names, section } from "../section.js";

const DAY_MS = 86_400_000;
const CHANNELS = [
  "custom", "openai", "anthropic", "aistudio", "vertexexpress", "vertex", "azure", "deepseek",
  "groq", "openrouter", "nvidia", "echo",
];

export async function show(context) {
  const { signal } = context;
  const sums = { by: "provider", from: Date.now() - DAY_MS };
  const [{ items }, providers] = await Promise.all([
    get("/admin/api/usage/sums", sums, signal), names("providers", "name", signal),
  ]);
  const lately = new Map(items.map((sum) => [sum.provider, sum]));
  return [
    pageHead("Providers"), providersOf(context, lately), credentials(context, providers),
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
        help: 'Its first ones, kept and never shown: [{ "api_key": "..." }]',
      },
      { name: "enabled", label: "May be called", kind: "flag", value: true },
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
    ],
    fields: [
      {
        name: "provider_name", label: "Provider", required: true, settled: true,
        options: providers,
      },
      { name: "api_key", label: "Key", kind: "password", required: true, help: "Never shown." },
      { name: "weight", label: "Weight", kind: "number", help: "Its share of the requests; 1." },
    ],
  });
}
