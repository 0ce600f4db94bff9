// Who may call what, and a tester that says which rule decides.

import { get } from "../api.js";
import { h, replace } from "../dom.js";
import { form } from "../form.js";
import { filePermissions, permissions } from "../holdings.js";
import { badge, facts, pageHead, panel } from "../parts.js";
import { names } from "../section.js";
import { table } from "../table.js";

export async function show(context) {
  const { signal } = context;
  const [users, providers] = await Promise.all([
    names("users", "name", signal), names("providers", "name", signal),
  ]);
  return [
    pageHead("Permissions"),
    h("div", { class: "grid" },
      tester("May somebody call a model?", "/admin/api/explain", signal, [
        { name: "user_name", label: "User", options: users, required: true },
        {
          name: "model", label: "Model", required: true, help: "As it would be sent, or an alias.",
        },
        {
          name: "provider_name", label: "In the scope of a provider", options: providers,
          help: "As in /NAME/v1/...; empty: in none.",
        },
      ]),
      tester("May somebody use files and batches?", "/admin/api/explain/files", signal, [
        { name: "user_name", label: "User", options: users, required: true },
        { name: "provider_name", label: "Provider", options: providers, required: true },
      ])),
    permissions(context, null, users, providers),
    filePermissions(context, null, users, providers),
  ];
}

function tester(title, at, signal, fields) {
  const answer = h("div", { "aria-live": "polite" });
  return panel(title, form({
    fields,
    submit: "Ask",
    send: async (values) => {
      replace(answer);
      const told = await get(at, values, signal);
      replace(answer, facts([
        ["Answer", told.served ? badge("yes", "good") : badge(`no, ${told.status}`, "bad")],
        ["Why", told.message],
        ["By the rule", told.served || told.rule ? ruleOf(told.rule) : noRule(told)],
        ["Provider", told.provider],
        ["Model there", told.model_served],
        ["Headers that go up too", told.forward_headers?.join(", ") || null],
      ]), told.targets && targetsOf(told.targets));
    },
  }), answer);
}

/** A rule: what it says, its name, and where it stands. */
function ruleOf(rule) {
  if (!rule) return "none";
  const place = rule.declared ? `the file, line ${rule.line}` : "made here";
  return [h("span", null, rule.text), " (", h("code", null, rule.id), `, ${place})`];
}

/** That no rule lets it pass; `null`: it was not for want of a rule. */
function noRule({ rule, rules_count: all }) {
  if (rule !== null) return null;
  return all ? `none of the user's ${all}` : "none: the user has no such rule";
}

/** What an alias with several targets comes to. */
function targetsOf(items) {
  const columns = [
    { title: "Provider", value: (target) => target.provider },
    { title: "Model there", value: (target) => target.model_served },
    {
      title: "Is asked", value: (target) => target.served,
      cell: (target) => (target.served ? badge("yes", "good") : badge("no", "warn")),
    },
    {
      title: "By the rule", value: (target) => target.rule?.id ?? "",
      cell: (target) => ruleOf(target.rule),
    },
  ];
  return table({ caption: "Targets of the alias, in their order", columns, items });
}
