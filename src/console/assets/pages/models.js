// Models and aliases, and what each model costs by which row.

import { get } from "../api.js";
import { h } from "../dom.js";
import { onOff } from "../holdings.js";
import { badge, pageHead, panel, to } from "../parts.js";
import { names, section } from "../section.js";
import { table } from "../table.js";

export async function show(context) {
  const providers = await names("providers", "name", context.signal);
  const provider = {
    name: "provider_name", label: "Provider", options: providers, required: true,
  };
  return [
    pageHead("Models"), aliases(context, provider), models(context, provider), prices(context),
  ];
}

const enabled = { name: "enabled", label: "May be called", kind: "flag", value: true };
const onColumn = { title: "On", value: (row) => row.enabled, cell: (row) => onOff(row.enabled) };
const code = (title, of) => ({ title, value: of, cell: (row) => h("code", null, of(row)) });

function targetOf({ provider_name: provider, model_id: id, weight, tier }) {
  const more = [weight && `weight ${weight}`, tier && `tier ${tier}`].filter(Boolean).join(", ");
  return h("li", null, h("code", null, `${provider}/${id}`), more && ` (${more})`);
}

function aliases(context, provider) {
  return section({
    context, at: "/admin/api/model_aliases", title: "Aliases", one: "alias",
    columns: [
      code("Name", (alias) => alias.alias),
      {
        title: "Provider", value: (alias) => alias.provider_name ?? "",
        cell: (alias) => alias.provider_name ?? "several",
      },
      {
        title: "Model there", value: (alias) => alias.model_id ?? "",
        cell: ({ model_id: id, targets }) => (targets
          ? h("ul", { class: "plain" }, targets.map(targetOf)) : h("code", null, id)),
      },
      onColumn,
    ],
    fields: [
      { name: "alias", label: "Name", required: true, settled: true },
      { ...provider, required: false },
      { name: "model_id", label: "Model there" },
      {
        name: "targets", label: "Or several that serve it", kind: "json",
        help: 'In order: [{ "provider_name": "a", "model_id": "m" }, ...]; with weight and tier.',
      },
      enabled,
    ],
  });
}

function models(context, provider) {
  return section({
    context, at: "/admin/api/models", title: "Models", one: "model",
    columns: [
      { title: "Provider", value: (model) => model.provider_name },
      code("Model", (model) => model.model_id),
      { title: "Name in lists", value: (model) => model.display_name ?? "" },
      onColumn,
    ],
    acts: ({ provider_name: name, model_id: id }) => {
      return [h("a", { href: to("playground", { model: `${name}/${id}` }) }, "Try")];
    },
    fields: [
      { ...provider, settled: true },
      {
        name: "model_id", label: "Model", required: true, settled: true,
        help: "As the upstream knows it, or a pattern such as gpt-4*.",
      },
      { name: "display_name", label: "Name in lists" },
      { name: "max_input_tokens", label: "Longest prompt, tokens", kind: "number" },
      { name: "max_output_tokens", label: "Longest answer, tokens", kind: "number" },
      {
        name: "timeouts", label: "Timeouts", kind: "json",
        help: 'Milliseconds: { "between_bytes_ms": 900000 }. Absent: those of the provider.',
      },
      { name: "price_each_call", label: "Price of a call, USD", kind: "money" },
      { name: "price_each_image", label: "Price of an image made, USD", kind: "money" },
      {
        name: "price_each_tool_call", label: "Price of a vendor's tool, each run, USD",
        kind: "money",
      },
      {
        name: "price_tiers", label: "Prices by size of the prompt", kind: "json",
        help: 'USD per million: [{ "price_input_tokens": "2", "price_output_tokens": "8" }]',
      },
      enabled,
    ],
  });
}

function prices({ signal }) {
  const price = (name) => ({
    title: name.replace("price_", "").replaceAll("_", " "), number: true,
    value: (row) => Number(row.price?.[name] ?? -1), cell: (row) => row.price?.[name] ?? "",
  });
  const columns = [
    { title: "Provider", value: (row) => row.provider_name },
    code("Model", (row) => row.model_id),
    {
      title: "Price from", value: (row) => row.from ?? "",
      cell: (row) => (row.priced ? h("code", null, row.from) : badge("none", "warn")),
    },
    ...["price_each_call", "price_input_tokens", "price_output_tokens"].map(price),
  ];
  const load = (cursor) => get("/admin/api/prices", { cursor, limit: 50 }, signal);
  const title = "What models cost, USD; tokens by the million";
  return panel(title, table({ caption: title, columns, load, empty: "No models." }));
}
