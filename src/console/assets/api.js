// Calls of the administration interface, and who is signed in.

/** What the interface refuses: `code`, `message`, and the `field` that it is about. */
export class ApiError extends Error {
  constructor(status, { code, message, field }) {
    super(message);
    Object.assign(this, { status, code, field });
  }
}

let csrf = "";
let whenSignedOut = () => {};

/** Has `listener` called when a call finds that nobody is signed in any more. */
export function onSignedOut(listener) {
  whenSignedOut = listener;
}

/** A query's text, without what is empty. */
export function query(values) {
  const told = Object.entries(values ?? {}).filter(([, value]) => (value ?? "") !== "");
  return new URLSearchParams(told).toString();
}

/** A path of names, each spelled so that it stays one: `path("/admin/api/users", "a/b")`. */
export function path(base, ...names) {
  return [base, ...names.map(encodeURIComponent)].join("/");
}

/**
 * A call; gives what its answer holds.
 * @param {string} method
 * @param {string} target A path below `/admin/api` or `/user/api`.
 * @param {{query?: Object, body?: Object, signal?: AbortSignal}} [more]
 */
export async function call(method, target, more = {}) {
  const asked = query(more.query);
  const headers = { accept: "application/json" };
  if (method !== "GET") headers["x-gproxy-csrf"] = csrf;
  if (more.body) headers["content-type"] = "application/json";
  let reply;
  try {
    reply = await fetch(asked ? `${target}?${asked}` : target, {
      method,
      headers,
      body: more.body && JSON.stringify(more.body),
      signal: more.signal,
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { code: "unreachable", message: "the gateway does not answer" });
  }
  if (reply.status === 204) return null;
  const answer = await reply.json().catch(() => ({}));
  if (reply.ok) return answer;
  const told = { code: "internal", message: `status ${reply.status}`, ...answer.error };
  if (reply.status === 401 && !target.endsWith("/session")) whenSignedOut();
  throw new ApiError(reply.status, told);
}

/** `GET`. */
export function get(target, values, signal) {
  return call("GET", target, { query: values, signal });
}

/** `POST`. */
export function post(target, body) {
  return call("POST", target, { body });
}

/** `PATCH`: only what changes; `null` takes a field back to its default. */
export function patch(target, body) {
  return call("PATCH", target, { body });
}

/** `DELETE`. */
export function remove(target) {
  return call("DELETE", target);
}

/** Every item of a list, page after page. */
export async function all(target, values, signal) {
  const items = [];
  let cursor = null;
  do {
    const page = await get(target, { limit: 500, ...values, cursor }, signal);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor !== null && cursor !== undefined);
  return items;
}

/** Who is signed in; `null`: nobody. */
export async function whoIsHere() {
  try {
    return keep(await get("/user/api/session"));
  } catch (error) {
    if (error.status === 401) return null;
    throw error;
  }
}

/** Opens a session, by `{ user_name, password }` or `{ api_key }`. */
export async function signIn(credentials) {
  return keep(await post("/user/api/session", credentials));
}

/** Ends this session, or every one of this user. */
export async function signOut(everywhere) {
  await remove(everywhere ? "/user/api/sessions" : "/user/api/session");
  csrf = "";
}

/**
 * Does `work` now and then every so many seconds, while the page is looked at, until `signal`.
 * What goes wrong once is tried again at the next turn.
 */
export async function every(seconds, signal, work) {
  const pause = () => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  while (!signal.aborted) {
    if (!document.hidden) await work().catch(() => {});
    await pause();
  }
}

function keep(session) {
  csrf = session.csrf ?? "";
  return session;
}
