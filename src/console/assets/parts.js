// What pages are made of: heads, panels, badges, dialogs, and what is said aloud.

import { h, replace } from "./dom.js";
import { query } from "./api.js";

const TOASTS_MAX = 2;
const live = h("div", { class: "toasts", role: "status", "aria-live": "polite" });

/** The place where [say] speaks; the shell puts it in the document once. */
export const liveRegion = () => live;

/** Tells something in passing. `kind`: `good`, `bad` or nothing. */
export function say(text, kind) {
  const toast = h("p", { class: `toast ${kind ?? ""}` }, text);
  live.append(toast);
  if (live.children.length > TOASTS_MAX) live.firstChild.remove();
  setTimeout(() => toast.remove(), 5_000);
}

/** The address of a page: `to("requests", { status_min: 400 })`, `to("requests", {}, id)`. */
export function to(name, values, ...rest) {
  const asked = query(values);
  return `#/${[name, ...rest.map(encodeURIComponent)].join("/")}${asked ? `?${asked}` : ""}`;
}

/** A page's heading, with buttons at its end. */
export function pageHead(title, ...actions) {
  return h("div", { class: "page-head" }, h("h1", null, title), h("div", null, actions));
}

/** A part of a page under a heading. */
export function panel(title, ...children) {
  return h("section", { class: "panel" }, title && h("h2", null, title), children);
}

/** A button. `kind`: `main`, `danger`, `quiet` or nothing. */
export function button(text, onclick, kind) {
  return h("button", { type: "button", class: kind ?? "", onclick }, text);
}

/** A word with a colour: `good`, `bad`, `warn` or nothing. */
export const badge = (text, kind) => h("span", { class: `badge ${kind ?? ""}` }, text);

/** A status of HTTP, coloured by what it means. */
export function statusBadge(status, outcome) {
  const isBad = status >= 400 || (outcome && outcome !== "ok");
  const text = isBad && outcome && outcome !== "ok" ? `${status} ${outcome}` : String(status);
  return badge(text, isBad ? "bad" : "good");
}

/** Marks what the file declares and only the file changes. */
export function declaredBadge(item) {
  if (!item.declared) return null;
  return h("span", { class: "badge", title: "Declared in the configuration's file" },
    item.line ? `file, line ${item.line}` : "file");
}

/** Names and values, one under the other. Values that are `null` are left out with their names. */
export function facts(pairs) {
  const told = pairs.filter(([, value]) => value !== null && value !== undefined);
  return h("dl", { class: "facts" },
    told.map(([name, value]) => [h("dt", null, name), h("dd", null, value)]));
}

/** What stands where nothing is. */
export const nothing = (text) => h("p", { class: "nothing" }, text);

/** What went wrong, said at once. */
export function trouble(error, again) {
  return h("div", { class: "trouble", role: "alert" },
    h("p", null, error.message || String(error)),
    again && button("Try again", again));
}

/** Text to be copied, with a button that does it. */
export function copyable(text, label) {
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    say("Copied", "good");
  };
  return h("div", { class: "copyable" },
    h("pre", { tabindex: "0", role: "region", "aria-label": label }, text),
    navigator.clipboard && button("Copy", copy, "quiet"));
}

/**
 * Several contents of which one is shown.
 * @param {string} label
 * @param {Array<[string, function(): Node]>} tabs Title, and what makes the content.
 */
export function tabs(label, tabs) {
  const body = h("div", { role: "tabpanel", tabindex: "0" });
  const heads = tabs.map(([title, make], at) => {
    const choose = () => {
      heads.forEach((head, other) => {
        head.setAttribute("aria-selected", other === at);
        head.tabIndex = other === at ? 0 : -1;
      });
      body.setAttribute("aria-label", title);
      replace(body, make());
    };
    const step = (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      const next = heads[(at + by + heads.length) % heads.length];
      next.focus();
      next.click();
    };
    return h("button", { type: "button", role: "tab", onclick: choose, onkeydown: step }, title);
  });
  heads[0].click();
  return h("div", { class: "tabs" },
    h("div", { role: "tablist", "aria-label": label }, heads), body);
}

/**
 * A dialog over the page. `make` is given what closes it, and gives its content.
 * @param {string} title
 * @param {function(function(): void): Node} make
 */
export function dialog(title, make) {
  const heading = h("h2", null, title);
  const box = h("dialog", { "aria-label": title });
  const close = () => box.close();
  box.append(
    h("div", { class: "dialog-head" }, heading,
      h("button", {
        type: "button", class: "quiet", "aria-label": "Close", onclick: close,
      }, "✕")),
    make(close),
  );
  box.addEventListener("close", () => box.remove());
  window.addEventListener("hashchange", close, { once: true });
  document.body.append(box);
  box.showModal();
  return box;
}

/** Asks before something that cannot be undone; `true`: go on. */
export function ask(title, text, verb) {
  return new Promise((resolve) => {
    let answer = false;
    const box = dialog(title, (close) => {
      const yes = () => {
        answer = true;
        close();
      };
      return h("div", null, h("p", null, text),
        h("div", { class: "actions" }, button("Cancel", close), button(verb, yes, "danger")));
    });
    box.addEventListener("close", () => resolve(answer));
  });
}
