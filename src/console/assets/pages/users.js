// Users, and all that one of them has.

import { get, path, remove } from "../api.js";
import { h } from "../dom.js";
import { time } from "../format.js";
import {
  filePermissions, keys, limits, onOff, paces, permissions, quotas,
} from "../holdings.js";
import { badge, button, pageHead, say, to } from "../parts.js";
import { names, section } from "../section.js";

export function show(context) {
  return context.rest[0] ? showUser(context, context.rest[0]) : showUsers(context);
}

function showUsers(context) {
  const columns = [
    {
      title: "Name", value: (user) => user.name,
      cell: (user) => h("a", { href: to("users", {}, user.name) }, user.name),
    },
    {
      title: "Role", value: (user) => user.is_admin ?? false,
      cell: (user) => (user.is_admin ? badge("administrator") : ""),
    },
    { title: "On", value: (user) => user.enabled, cell: (user) => onOff(user.enabled) },
    {
      title: "Made", value: (user) => user.made_at ?? 0,
      cell: (user) => (user.made_at ? time(user.made_at) : ""),
    },
  ];
  return [pageHead("Users"), section({
    context, at: "/admin/api/users", title: "All users", one: "user", columns,
    fields: [
      { name: "name", label: "Name", required: true, settled: true },
      {
        name: "password", label: "Password", kind: "password", autocomplete: "new-password",
        help: "Opens this console. Without one, a key does.",
      },
      { name: "is_admin", label: "Administrator", kind: "flag" },
      { name: "enabled", label: "May call and sign in", kind: "flag", value: true },
    ],
    made: ({ name }) => { location.hash = to("users", {}, name); },
  })];
}

async function showUser(context, name) {
  const { signal } = context;
  const [user, providers, pace] = await Promise.all([
    get(path("/admin/api/users", name), {}, signal), names("providers", "name", signal),
    paces("/admin/api", signal),
  ]);
  const end = async () => {
    await remove(`${path("/admin/api/users", name)}/sessions`);
    say("Every session of this user has ended", "good");
  };
  return [
    pageHead(`User ${name}`, user.enabled ? null : onOff(false),
      h("a", { href: to("requests", { user_name: name }) }, "Requests"),
      button("End all sessions", end)),
    keys(context, name),
    quotas(context, name, [], pace),
    permissions(context, name, [], providers),
    limits(context, name),
    filePermissions(context, name, [], providers),
  ];
}
