// What is the reader's own: keys and how to use them, quotas, limits, and what may be called.

import { get } from "../api.js";
import { h } from "../dom.js";
import {
  keyFields, keyTerms, lastUsed, limitColumns, paces, quotaColumns, showKey,
} from "../holdings.js";
import { pageHead, panel, to } from "../parts.js";
import { section } from "../section.js";
import { snippets } from "../snippets.js";
import { table } from "../table.js";

export async function show(context) {
  const { session, signal } = context;
  const [pace, { items: callable }] = await Promise.all([
    paces("/user/api", signal), get("/user/api/models", {}, signal),
  ]);
  const ids = callable.map(({ id }) => id);
  const list = (title, what, columns, empty) => panel(title, table({
    caption: title, columns, empty, load: (cursor) => get(`/user/api/${what}`, { cursor }, signal),
  }));
  return [
    pageHead(`Yours, ${session.user_name}`),
    section({
      context, at: "/user/api/keys", title: "Your keys", one: "key", fields: keyFields,
      made: (key) => showKey(key, ids),
      columns: [
        { title: "Label", value: (key) => key.label || "" },
        { title: "Ends in", value: (key) => key.hint, cell: (key) => h("code", null, key.hint) },
        ...keyTerms,
        lastUsed,
      ],
    }),
    panel("How to call", snippets("$GPROXY_KEY", ids)),
    list("Your quotas", "quotas", quotaColumns(pace), "No quota: nothing bounds what you spend."),
    list("Your limits", "rate_limits", limitColumns, "No limits."),
    list("What you may call", "permissions", [
      {
        title: "Models", value: (rule) => rule.model_pattern,
        cell: (rule) => h("code", null, rule.model_pattern),
      },
      { title: "Only at", value: (rule) => rule.provider_name ?? "" },
    ], "Nothing yet: ask an administrator."),
    panel("Models", table({
      caption: "Models", items: callable, empty: "None.",
      columns: [{
        title: "Name", value: (model) => model.id,
        cell: (model) => h("a", { href: to("playground", { model: model.id }) }, model.id),
      }],
    })),
  ];
}
