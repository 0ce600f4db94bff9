// Lists of what can be made: users, quotas, models. Each is described by data, and whatever is
// made, changed or deleted is asked of the server, which says what is wrong with it.

import { all, get, patch, path, post, remove } from "./api.js";
import { h } from "./dom.js";
import { form } from "./form.js";
import { ask, button, declaredBadge, dialog, panel, say } from "./parts.js";
import { table } from "./table.js";

/**
 * A list of a section's rows.
 * @param {Object} is
 * @param {Object} is.context Of the page.
 * @param {string} is.at Where the section is, such as `/admin/api/users`.
 * @param {string} is.title
 * @param {string} is.one What one of it is called.
 * @param {import("./table.js").Column[]} is.columns
 * @param {Array<import("./form.js").Field & {settled?: boolean, once?: boolean}>} is.fields
 *   `settled`: never changes once it is made. `once`: as well, and is not shown afterwards.
 * @param {Object} [is.filter] Of the list; a row that is made has these values too.
 * @param {function(Object): Node[]} [is.acts] More to do with a row.
 * @param {function(Object): void} [is.made] Is given what was made.
 * @returns {HTMLElement} With `reload()`.
 */
export function section(is) {
  const { context, at, title, one, columns, fields } = is;
  const load = (cursor) => get(at, { ...is.filter, cursor, limit: 50 }, context.signal);
  const rows = table({
    caption: title, columns: [...columns, actsColumn(is, () => rows.reload())], load,
    empty: `No ${one} yet.`,
  });
  const fixed = is.filter ?? {};
  const open = () => dialog(`New ${one}`, (close) => form({
    fields: fields.filter(({ name }) => !(name in fixed)),
    submit: "Make it",
    cancel: close,
    send: async (values) => {
      const item = await post(at, { ...values, ...fixed });
      close();
      say(`The ${one} was made`, "good");
      rows.reload();
      is.made?.(item);
    },
  }));
  const element = panel(title, rows, h("div", null, button(`New ${one}`, open)));
  return Object.assign(element, { reload: rows.reload });
}

/** The names of a section's rows, to propose them in a form. */
export async function names(sectionName, field, signal) {
  const items = await all(`/admin/api/${sectionName}`, {}, signal);
  return items.map((item) => item[field]);
}

function actsColumn(is, reload) {
  return {
    title: "",
    value: (item) => item.id,
    cell: (item) => [
      is.acts?.(item),
      item.declared ? declaredBadge(item) : ownActs(is, item, reload),
    ],
  };
}

function ownActs({ at, one, fields }, item, reload) {
  const open = fields.filter((field) => !field.settled && !field.once);
  const target = path(at, item.id);
  const change = () => dialog(`Change ${one}`, (close) => form({
    fields: open.map((field) => ({ ...field, value: item[field.name] ?? null })),
    submit: "Change it",
    cancel: close,
    send: async (values, changed) => {
      await patch(target, changed);
      close();
      say(`The ${one} was changed`, "good");
      reload();
    },
  }));
  const drop = async () => {
    const text = `${item.id} goes, with all that hangs on it. This cannot be undone.`;
    if (!await ask(`Delete this ${one}?`, text, "Delete")) return;
    try {
      await remove(target);
      say(`The ${one} was deleted`, "good");
    } catch (error) {
      say(error.message, "bad");
    }
    reload();
  };
  return [open.length > 0 && button("Change", change, "quiet"), button("Delete", drop, "quiet")];
}
