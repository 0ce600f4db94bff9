// What the file says about the whole, reading it again, and who changed what.

import { get, post } from "../api.js";
import { h, replace } from "../dom.js";
import { since, time } from "../format.js";
import { badge, button, facts, pageHead, panel, trouble } from "../parts.js";
import { table } from "../table.js";

export async function show({ signal }) {
  const [settings, version] = await Promise.all([
    get("/admin/api/settings", {}, signal), get("/admin/api/version", {}, signal),
  ]);
  return [
    pageHead("Settings"),
    h("div", { class: "grid" },
      panel("This program", facts([
        ["Version", version.version],
        ["Started", `${time(version.started_at)}, ${since(version.started_at)}`],
      ]), reloading()),
      panel("As the file says", h("p", { class: "faint" }, "These change in the file alone."),
        facts(flat(settings)))),
    changes(signal),
  ];
}

/** Names and values; those of an object within with its name before them. */
function flat(settings, before = "") {
  return Object.entries(settings).flatMap(([name, value]) => {
    if (value && typeof value === "object" && !Array.isArray(value)) {
      return flat(value, `${before}${name}.`);
    }
    const shown = typeof value === "boolean"
      ? badge(value ? "on" : "off") : [value].flat().join(", ") || "none";
    return [[before + name, shown]];
  });
}

function reloading() {
  const said = h("div", { role: "status" });
  const reload = async () => {
    try {
      const { providers, users, warnings } = await post("/admin/api/reload");
      replace(said, badge(`${providers} providers, ${users} users`, "good"),
        warnings.map((warning) => h("p", { class: "warn" }, warning)));
    } catch (error) {
      replace(said, trouble(error));
    }
  };
  return h("div", null, button("Read the file again", reload), said);
}

function changes(signal) {
  const columns = [
    { title: "At", value: (change) => change.at, cell: (change) => time(change.at) },
    { title: "By", value: (change) => change.made_by },
    { title: "What", value: ({ action, section }) => `${action} in ${section}` },
    { title: "Which", value: (change) => change.entity },
    {
      title: "Before and after", value: (change) => change.number,
      cell: ({ before, after }) => h("details", null, h("summary", null, "Show"),
        h("pre", { class: "raw" }, JSON.stringify({ before, after }, null, 2))),
    },
  ];
  const load = (cursor) => get("/admin/api/changes", { cursor, limit: 25 }, signal);
  const title = "Who changed what";
  return panel(title, table({ caption: title, columns, load, empty: "Nothing was changed here." }));
}
