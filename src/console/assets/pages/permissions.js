// Who may call what, and a tester that says which rule decides.

import { get } from "../api.js";
import { h, replace } from "../dom.js";
import { form } from "../form.js";
import { filePermissions, permissions } from "../holdings.js";
import { badge, facts, pageHead, panel } from "../parts.js";
import { names } from "../section.js";

export async function show(context) {
  const { signal } = context;
  const [users, providers] = await Promise.all([
    names("users", "name", signal), names("providers", "name", signal),
  ]);
  return [
    pageHead("Permissions"),
    tester(signal, users),
    permissions(context, null, users, providers),
    filePermissions(context, null, users, providers),
  ];
}

function tester(signal, users) {
  const answer = h("div", { "aria-live": "polite" });
  return panel("May somebody call a model?", form({
    fields: [
      { name: "user_name", label: "User", options: users, required: true },
      {
        name: "model", label: "Model", required: true, help: "As it would be sent, or an alias.",
      },
    ],
    submit: "Ask",
    send: async (values) => {
      replace(answer);
      const told = await get("/admin/api/explain", values, signal);
      replace(answer, told.served
        ? facts([
          ["Answer", badge("yes", "good")], ["By the rule", h("code", null, told.permission)],
          ["Provider", told.provider], ["Model there", told.model_served],
        ])
        : facts([["Answer", badge(`no, ${told.status}`, "bad")], ["Why", told.message]]));
    },
  }), answer);
}
