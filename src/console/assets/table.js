// Tables: sorted by a click on a head, and read page after page. On a phone each row is a card.

import { h, replace } from "./dom.js";
import { nothing, trouble } from "./parts.js";

/**
 * @typedef {Object} Column
 * @property {string} title
 * @property {function(Object): *} value By which it is sorted, and what is shown.
 * @property {function(Object): *} [cell] What is shown in its place: a node or a text.
 * @property {boolean} [number] Stands to the right.
 */

/**
 * A table.
 * @param {Object} is
 * @param {string} is.caption Told to those who do not see it.
 * @param {Column[]} is.columns
 * @param {function(*): Promise<{items: Object[], next_cursor: *}>} [is.load] Gives a page, from the
 *   cursor of the one before.
 * @param {Object[]} [is.items] Or all rows there are.
 * @param {string} [is.empty] What is said when there are none.
 * @param {boolean} [is.isDense] On a phone the cells of a row flow, without their titles.
 * @returns {HTMLElement} With `reload()` and `prepend(items)`.
 */
export function table({ caption, columns, load, items, empty, isDense }) {
  const state = { items: items ?? [], cursor: null, sort: null, falls: false };
  const body = h("tbody");
  const foot = h("div", { class: "table-foot" });
  const heads = columns.map((column) => headOf(column, () => sortBy(column)));
  const draw = () => {
    replace(body, sorted(state).map((item) => rowOf(columns, item)));
    const more = state.cursor !== null && state.cursor !== undefined;
    const isEmpty = !state.items.length && state.isRead;
    replace(foot, isEmpty && nothing(empty ?? "Nothing here."),
      more && h("button", { type: "button", onclick: () => read() }, "More"));
  };
  const sortBy = (column) => {
    state.falls = state.sort === column ? !state.falls : Boolean(column.number);
    state.sort = column;
    heads.forEach((head, at) => {
      const order = state.falls ? "descending" : "ascending";
      head.setAttribute("aria-sort", columns[at] === column ? order : "none");
    });
    draw();
  };
  const read = async () => {
    try {
      const page = await load(state.cursor);
      state.items = state.items.concat(page.items);
      state.cursor = page.next_cursor;
      state.isRead = true;
      draw();
    } catch (error) {
      if (error.name !== "AbortError") replace(foot, trouble(error, read));
    }
  };
  const reload = () => {
    Object.assign(state, { items: [], cursor: null });
    return read();
  };
  const prepend = (rows) => {
    state.items = rows.concat(state.items);
    draw();
  };
  state.isRead = !load;
  if (load) read();
  else draw();
  const element = h("div", { class: isDense ? "table dense" : "table" },
    h("table", null, h("caption", { class: "unseen" }, caption),
      h("thead", null, h("tr", null, heads)), body), foot);
  return Object.assign(element, { reload, prepend });
}

function headOf(column, onclick) {
  const props = { scope: "col", class: column.number ? "number" : "", "aria-sort": "none" };
  if (!column.title) return h("td", null);
  return h("th", props, h("button", { type: "button", onclick }, column.title));
}

function rowOf(columns, item) {
  return h("tr", null, columns.map((column) => {
    const shown = column.cell ? column.cell(item) : column.value(item);
    return h("td", { class: column.number ? "number" : "", "data-title": column.title }, shown);
  }));
}

function sorted({ items, sort, falls }) {
  if (!sort) return items;
  const compare = (one, other) => {
    const [left, right] = [sort.value(one), sort.value(other)];
    if (typeof left === "number" && typeof right === "number") return left - right;
    return String(left ?? "").localeCompare(String(right ?? ""), "en", { numeric: true });
  };
  const order = [...items].sort(compare);
  return falls ? order.reverse() : order;
}
