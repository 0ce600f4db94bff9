// The shell of the console: who is signed in, which page is open, and what stands around it.
//
// How to add a page: write `pages/NAME.js` with `export async function show(context)`, which gives
// a node or a list of them; add it to PAGES below and to FILES in `src/console/mod.rs`. A context:
//   session  `{ user_name, is_admin }`;
//   area     "/admin/api", or "/user/api" for those who are no administrators;
//   rest     what stands behind the page's name in the address, decoded: `#/users/alice` ["alice"];
//   query    what stands behind its question mark, as URLSearchParams;
//   signal   aborts when the page is left: give it to `get`, `all` and `every` of api.js;
//   again()  opens the page once more, after a write.
// Elements come from `h` (dom.js) and are put together from parts.js, table.js and form.js, numbers
// and times from format.js. Links between pages: `to(name, query)` of parts.js. Dialogs are for
// what is made or changed: `dialog("New user", (close) => form({ ... }))`.

import { onSignedOut, signIn, signOut, whoIsHere } from "./api.js";
import { h, replace } from "./dom.js";
import { form } from "./form.js";
import { button, liveRegion, panel, say, to, trouble } from "./parts.js";

/** Name, title, group in the menu; `who`: for `admin` or `user` only. The first is the start. */
const PAGES = [
  { name: "overview", title: "Overview", group: "Traffic" },
  { name: "requests", title: "Requests", group: "Traffic" },
  { name: "playground", title: "Playground", group: "Traffic" },
  { name: "users", title: "Users", group: "Access", who: "admin" },
  { name: "permissions", title: "Permissions", group: "Access", who: "admin" },
  { name: "limits", title: "Rate limits", group: "Access", who: "admin" },
  { name: "quotas", title: "Quotas", group: "Access", who: "admin" },
  { name: "providers", title: "Providers", group: "Gateway", who: "admin" },
  { name: "models", title: "Models", group: "Gateway", who: "admin" },
  { name: "settings", title: "Settings", group: "Gateway", who: "admin" },
  { name: "me", title: "Yours", group: "Mine" },
];

const THEME = "gproxy-theme";
/** It holds the name until scripts have come, so that something is seen at once. */
const app = document.getElementById("app");
let session = null;
let leave = new AbortController();

start();

async function start() {
  setTheme(localStorage.getItem(THEME));
  document.body.append(liveRegion());
  window.addEventListener("hashchange", open);
  onSignedOut(() => {
    session = null;
    askWho();
  });
  try {
    session = await whoIsHere();
  } catch (error) {
    replace(app, trouble(error, () => location.reload()));
    return;
  }
  if (session) welcome();
  else askWho();
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

function turnTheme() {
  const isDark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim();
  const theme = isDark === "1" ? "light" : "dark";
  localStorage.setItem(THEME, theme);
  setTheme(theme);
}

/** The sign-in. By password, or by a key. */
function askWho() {
  leave.abort();
  document.title = "Sign in · GPROXY";
  const enter = async (credentials) => {
    session = await signIn(credentials);
    welcome();
  };
  const byPassword = () => form({
    fields: [
      { name: "user_name", label: "User name", autocomplete: "username", required: true },
      {
        name: "password", label: "Password", kind: "password", autocomplete: "current-password",
        required: true,
      },
    ],
    submit: "Sign in",
    send: enter,
  });
  const byKey = () => form({
    fields: [{
      name: "api_key", label: "Key", kind: "password", required: true,
      help: "Any key of yours, as your programs send it.",
    }],
    submit: "Sign in",
    send: enter,
  });
  const body = h("div");
  const choose = (make, other, text) => {
    replace(body, make(), button(text, () => other(), "quiet"));
    body.querySelector("input").focus();
  };
  const password = () => choose(byPassword, key, "Use a key in place of a password");
  const key = () => choose(byKey, password, "Use a password");
  replace(app, h("main", { class: "sign-in" }, h("h1", null, "GPROXY"), panel(null, body)));
  password();
}

function welcome() {
  replace(app, shell());
  open();
}

function mine() {
  const who = session.is_admin ? "admin" : "user";
  return PAGES.filter((page) => !page.who || page.who === who);
}

function shell() {
  const groups = Map.groupBy(mine(), (page) => page.group);
  const item = (page) => h("li", null,
    h("a", { href: to(page.name), "data-page": page.name }, page.title));
  const links = [...groups].map(([group, pages]) => h("div", null,
    h("p", null, group), h("ul", null, pages.map(item))));
  const nav = h("nav", { id: "menu", "aria-label": "Pages" }, links);
  const toggle = (event) => {
    const isOpen = nav.classList.toggle("open");
    event.currentTarget.setAttribute("aria-expanded", isOpen);
  };
  return [
    h("button", { type: "button", class: "skip", onclick: () => place().focus() },
      "Skip to the content"),
    h("header", null,
      h("a", { class: "brand", href: to(PAGES[0].name) }, "GPROXY"),
      h("button", {
        type: "button", class: "menu", "aria-expanded": "false", "aria-controls": "menu",
        onclick: toggle,
      }, "Menu"),
      nav,
      h("div", { class: "who" },
        h("span", null, session.user_name),
        button("Light or dark", turnTheme, "quiet"),
        button("Sign out", () => depart(false), "quiet"),
        button("Sign out everywhere", () => depart(true), "quiet"))),
    h("main", { id: "main", tabindex: "-1" }),
  ];
}

const place = () => document.getElementById("main");

async function depart(everywhere) {
  try {
    await signOut(everywhere);
    session = null;
    askWho();
  } catch (error) {
    say(error.message, "bad");
  }
}

/** Opens the page that the address names. */
async function open() {
  if (!session) return;
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const { name, rest, query } = address();
  const pages = mine();
  const page = pages.find((known) => known.name === name) ?? pages[0];
  mark(page);
  const area = session.is_admin ? "/admin/api" : "/user/api";
  const context = { session, area, rest, query, signal, again: open };
  let content;
  try {
    const { show } = await import(`./pages/${page.name}.js`);
    content = await show(context);
  } catch (error) {
    content = trouble(error, open);
  }
  if (signal.aborted) return;
  replace(place(), content);
}

/** What stands behind the address's `#/`. One that is broken is the start's. */
function address() {
  const [route, asked] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const query = new URLSearchParams(asked ?? "");
  try {
    const [name, ...rest] = route.split("/").map(decodeURIComponent);
    return { name, rest, query };
  } catch {
    return { name: "", rest: [], query };
  }
}

function mark(page) {
  document.title = `${page.title} · GPROXY`;
  document.getElementById("menu").classList.remove("open");
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.dataset.page === page.name;
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}
