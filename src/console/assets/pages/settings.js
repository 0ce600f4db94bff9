// The settings in force and who says so, reading the file again, whether the books add up, and who
// changed what.

import { every, get, patch, post } from "../api.js";
import { h, replace } from "../dom.js";
import { form } from "../form.js";
import { bytes, count, duration, since, time, usd } from "../format.js";
import { ask, badge, button, facts, pageHead, panel, say, trouble } from "../parts.js";
import { table } from "../table.js";

/** What may be set here: key in the file, label, kind, help. */
const LOGGING = [
  ["global.enable_downstream_log", "Log the requests of callers", "flag"],
  ["global.enable_downstream_log_body", "With the bodies of requests", "flag"],
  ["global.enable_upstream_log", "Log the attempts at upstreams", "flag"],
  ["global.enable_upstream_log_body", "With the bodies of attempts", "flag"],
];
const KEEPING = [
  ["ledger.usage_days", "Rows of the books, days", "number", "0: no bound. Their sums stay."],
  ["ledger.usage_bytes", "Size of the books, bytes", "number", "0: no bound."],
  ["ledger.log_days", "Logged requests, days", "number", "0: no bound."],
  ["ledger.log_bytes", "Size of the logs, bytes", "number", "0: no bound."],
];
/** The audit under way is looked at so often, in seconds. */
const AUDIT_S = 1;

export async function show(context) {
  const { signal } = context;
  const [settings, version] = await Promise.all([
    get("/admin/api/settings", {}, signal), get("/admin/api/version", {}, signal),
  ]);
  const items = new Map(settings.items.map((item) => [item.name, item]));
  return [
    pageHead("Settings"),
    h("div", { class: "grid" },
      panel("This program", facts([
        ["Version", version.version],
        ["Started", `${time(version.started_at)}, ${since(version.started_at)}`],
        ["Secrets in the database", settings.seals_secrets
          ? badge("sealed", "good") : badge("in clear: no master key", "warn")],
      ])),
      await books(signal)),
    reloading(context),
    h("div", { class: "grid" },
      writable(context, items, "Request logs", LOGGING),
      writable(context, items, "How long what is kept", KEEPING)),
    inForce(settings.items),
    changes(signal),
  ];
}

/** Who says what a setting is. */
function source({ from, line, by }) {
  if (from === "file") return badge(`file, line ${line}`);
  if (from === "flag") return badge(by);
  return from === "database" ? badge("set here", "good") : "default";
}

/** Settings that may be set here. Those of the file are shown, and cannot be changed. */
function writable(context, items, title, rows) {
  const fields = rows.filter(([name]) => items.has(name)).map(([name, label, kind, help]) => {
    const item = items.get(name);
    const isNumber = kind === "number";
    const file = item.writable ? null : `The file says so on line ${item.line}; change it there.`;
    const size = isNumber && name.endsWith("bytes") && item.value ? `${bytes(item.value)}.` : null;
    const set = item.from === "database" && isNumber ? "Emptied: the default again." : null;
    return {
      name: name.split(".")[1], label, kind, value: item.value, fixed: !item.writable,
      help: [size, help, file, set].filter(Boolean).join(" "),
    };
  });
  const first = new Map(fields.map(({ name, value }) => [name, value]));
  return panel(title, form({
    fields,
    submit: "Set",
    send: async (_, changed) => {
      const goes = Object.entries(changed).some(([name, value]) => isLess(value, first.get(name)));
      const text = "What is older or larger than that is deleted, and does not come back.";
      if (goes && !await ask("Keep less?", text, "Keep less")) return;
      await patch("/admin/api/settings", changed);
      say("It counts from the next request on", "good");
      context.again();
    },
  }));
}

/** Whether a bound lets less stay than another; 0 is none. */
function isLess(value, before) {
  const size = (bound) => (bound === 0 ? Infinity : bound);
  return typeof value === "number" && value >= 0 && size(value) < size(before);
}

/** Every setting with who says so. */
function inForce(items) {
  const told = ({ value }) => {
    if (typeof value === "boolean") return badge(value ? "on" : "off", value ? "good" : "");
    return [value].flat().map((one) => one ?? "").join(", ") || "none";
  };
  const title = "Settings in force";
  return panel(title,
    h("p", { class: "faint" }, "What the file declares changes in the file."),
    table({
      caption: title, items, empty: "None.",
      columns: [
        {
          title: "Name", value: (item) => item.name, cell: (item) => h("code", null, item.name),
        },
        { title: "Value", value: (item) => String(item.value), cell: told },
        { title: "Who says so", value: (item) => item.from, cell: source },
        {
          title: "A change counts", value: (item) => item.needs_restart,
          cell: (item) => (item.needs_restart ? "after a restart" : "at once"),
        },
      ],
    }));
}

/** Reads the file twice: first to see what would change, then to have it change. */
function reloading(context) {
  const said = h("div", { role: "status" });
  const read = async (isDry) => {
    try {
      const told = await post(`/admin/api/reload?dry_run=${isDry}`);
      replace(said, difference(told), isDry
        ? h("div", { class: "row" }, button("Read it and let it count", () => read(false), "main"))
        : button("Close", context.again));
      if (!isDry) say("The file counts", "good");
    } catch (error) {
      replace(said, trouble(error));
    }
  };
  return panel("The file",
    h("div", null, button("What would reading it again change?", () => read(true))), said);
}

/** What a file says otherwise than the one before. */
function difference(told) {
  const more = told.changes_count - told.changes.length;
  const kinds = { added: "good", removed: "bad", changed: "warn" };
  const columns = [
    {
      title: "What", value: (change) => change.action,
      cell: (change) => badge(change.action, kinds[change.action]),
    },
    { title: "Where", value: (change) => change.section },
    { title: "Which", value: (change) => change.id, cell: ({ id }) => h("code", null, id) },
    {
      title: "How", value: (change) => change.says,
      cell: ({ fields }) => h("ul", { class: "plain" }, fields.map(fieldOf)),
    },
    { title: "Line", number: true, value: (change) => change.line },
  ];
  const title = told.dry_run ? "What would change" : "What changed";
  return [
    h("p", null, told.changes_count
      ? `${title}: ${count(told.changes_count)}.` : "The file says nothing otherwise than before.",
    ` ${count(told.providers)} providers, ${count(told.users)} users.`),
    told.changes.length > 0 && table({ caption: title, columns, items: told.changes }),
    more > 0 && h("p", { class: "faint" }, `And ${count(more)} more.`),
    told.warnings.map((warning) => h("p", { class: "warn" }, warning)),
  ];
}

function fieldOf(field) {
  const value = (of) => {
    return of === null || of === undefined ? "unset" : h("code", null, JSON.stringify(of));
  };
  if (!("before" in field)) return h("li", null, `${field.field}: changed; it is not shown`);
  return h("li", null, `${field.field}: `, value(field.before), " → ", value(field.after));
}

/** Whether the books add up; looked at again while that is found out. */
async function books(signal) {
  const said = h("div", { role: "status" });
  const begin = button("Check the books", async () => {
    try {
      draw(await post("/admin/api/audit"));
    } catch (error) {
      replace(said, trouble(error));
    }
  });
  let isRunning = false;
  const draw = (told) => {
    isRunning = told.running;
    begin.disabled = told.running;
    replace(said, told.running && h("p", null, `Under way, begun ${since(told.since)}.`),
      told.last ? found(told.last) : h("p", { class: "faint" }, "Not since this program began."));
  };
  draw(await get("/admin/api/audit", {}, signal));
  every(AUDIT_S, signal, async () => {
    if (isRunning) draw(await get("/admin/api/audit", {}, signal));
  });
  return panel("Do the books add up?", said, h("div", null, begin));
}

/** What an audit found. */
function found(last) {
  const when = `${time(last.ended_at)}, in ${duration(last.ended_at - last.began_at)}`;
  if (last.error) return facts([["Result", badge("not read", "bad")], ["Why", last.error]]);
  return [
    facts([
      ["Result", last.well ? badge("they add up", "good")
        : badge(`faults: ${count(last.faults_count)}`, "bad")],
      ["When", when],
      ["Rows", count(last.rows)],
      ["Older, as sums", last.pruned ? count(last.pruned) : null],
      ["Cost", usd(last.cost)],
    ]),
    last.faults.length > 0 && h("ul", null, last.faults.map((fault) => h("li", null, fault))),
  ];
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
