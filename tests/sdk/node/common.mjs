// Addresses of the gateway and the upstream, and what the upstream saw.

import assert from "node:assert/strict";

export const GATEWAY = process.env.GATEWAY_URL;
export const UPSTREAM = process.env.UPSTREAM_URL;
export const ADMIN_KEY = "sk-admin-1";
export const ALICE_KEY = "sk-alice-0123456789abcdef0123456789abcdef";
export const UPSTREAM_KEY = "upstream-credential-5f2a";

async function control(method, path) {
  const reply = await fetch(UPSTREAM + path, { method });
  return reply.json();
}

/** From now on the upstream plays this row of calls.json. */
export const forget = (row = "") => control("DELETE", `/_seen?row=${row}`);

export async function seen() {
  const requests = await control("GET", "/_seen");
  return requests.map((request) => ({
    ...request,
    headers: Object.fromEntries(request.headers),
    body: /^[{[]/.test(request.body) ? JSON.parse(request.body) : null,
  }));
}

/** The single request since the last `forget`. */
export async function onlyOne() {
  const requests = await seen();
  assert.equal(requests.length, 1);
  return requests[0];
}

/** Our own credential and nothing of the client's; plain bytes asked for. */
export function checkUpstreamRequest(request, credentialHeader) {
  for (const name of ["authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie"]) {
    const value = request.headers[name]?.replace("Bearer ", "");
    assert.equal(value, name === credentialHeader ? UPSTREAM_KEY : undefined, name);
  }
  assert.equal(request.headers["accept-encoding"], "identity");
  assert.ok(!JSON.stringify(request.headers).includes(ADMIN_KEY));
}

/** When the upstream noticed that nobody listens any more, in milliseconds. */
export async function hungUpAt() {
  for (let round = 0; round < 1000; round += 1) {
    const hangups = await control("GET", "/_hangups");
    if (hangups.length > 0) return hangups.at(-1).at * 1000;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("waited twenty seconds in vain");
}

/** The least of three measurements: a machine under load proves nothing by one. */
export async function quickestOfThree(measure) {
  const times = [];
  for (let round = 0; round < 3; round += 1) times.push(await measure());
  return Math.min(...times);
}

export async function collect(stream) {
  const all = [];
  for await (const item of stream) all.push(item);
  return all;
}

/** What `call` throws. */
export async function thrown(call) {
  try {
    await call();
  } catch (error) {
    return error;
  }
  return assert.fail("nothing was thrown");
}
