// Sessions over WebSocket, and Gemini's uploads, through the official clients in Node.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import net from "node:net";
import { after, before, beforeEach, describe, test } from "node:test";
import tls from "node:tls";

import { GoogleGenAI } from "@google/genai";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";
import { ResponsesWS } from "openai/resources/responses/ws";

import { ADMIN_KEY, GATEWAY, UPSTREAM_KEY, forget, onlyOne, seen } from "./common.mjs";

// The clients of OpenAI dial wss only, which a proxy in front of the gateway ends.
const file = (name) => readFileSync(new URL(`../../support/tls/${name}`, import.meta.url));
const terminator = tls.createServer({ cert: file("leaf.pem"), key: file("leaf.key") }, (outside) => {
  const inside = net.connect(new URL(GATEWAY).port, "127.0.0.1");
  outside.pipe(inside).pipe(outside);
  for (const end of [outside, inside]) end.on("error", () => { outside.destroy(); inside.destroy(); });
});
const options = { rejectUnauthorized: false };

before(() => new Promise((resolve) => terminator.listen(0, "127.0.0.1", resolve)));
after(() => terminator.close());
beforeEach(() => forget());

const openai = (base = "") => new OpenAI({
  apiKey: ADMIN_KEY,
  baseURL: `https://127.0.0.1:${terminator.address().port}${base}/v1`,
});

/** What `socket` tells, one event after the other. */
function events(socket) {
  const waiting = [], come = [];
  const take = (item) => (waiting.length > 0 ? waiting.shift()(item) : come.push(item));
  socket.on("event", take);
  socket.on("error", (error) => take({ type: "error", error }));
  return () => new Promise((resolve) => (come.length > 0 ? resolve(come.shift()) : waiting.push(resolve)));
}

const isOpen = (socket) => new Promise((resolve) => socket.socket.once("open", resolve));

describe("sessions over WebSocket", () => {
  for (const [base, model, replied] of [
    ["", "chat-default", "chat-default"],
    ["/openai-main", "gpt-4.1-mini", "gpt-4.1-mini-2025-04-14"],
  ]) {
    test(`realtime ${base} ${model}`, async () => {
      const socket = new OpenAIRealtimeWS({ model, options }, openai(base));
      const next = events(socket);
      const created = await next();
      assert.deepEqual([created.type, created.session.model], ["session.created", replied]);
      for (let turn = 0; turn < 2; turn += 1) {
        socket.send({ type: "response.create" });
        const done = await next();
        assert.deepEqual([done.type, done.response.usage.total_tokens], ["response.done", 5]);
      }
      socket.close();
      for (const request of await seen()) {
        assert.deepEqual([request.path, request.query], ["/v1/realtime", "model=gpt-4.1-mini"]);
        assert.equal(request.headers.authorization, `Bearer ${UPSTREAM_KEY}`);
      }
    });
  }

  test("responses", async () => {
    const socket = new ResponsesWS(openai(), options);
    const next = events(socket);
    await isOpen(socket);
    socket.send({ type: "response.create", model: "chat-default", input: "Hello" });
    const done = await next();
    assert.deepEqual([done.type, done.response.model], ["response.completed", "chat-default"]);
    socket.close();
    assert.equal((await onlyOne()).body.model, "gpt-4.1-mini");
  });

  test("gemini live", async () => {
    const client = new GoogleGenAI({ apiKey: ADMIN_KEY, httpOptions: { baseUrl: GATEWAY } });
    const messages = [];
    const turn = Promise.withResolvers?.() ?? deferred();
    const onmessage = (message) => {
      messages.push(message);
      if (message.usageMetadata) turn.resolve();
    };
    const callbacks = { onmessage, onerror: turn.reject, onclose: turn.reject };
    const session = await client.live.connect({ model: "gemini-default", callbacks });
    session.sendClientContent({ turns: "Hello" });
    await turn.promise;
    session.close();
    assert.equal(messages.at(-1).usageMetadata.totalTokenCount, 5);
    const [setup] = await seen();
    assert.equal(setup.body.setup.model, "models/gemini-1.5-flash");
    assert.equal(setup.headers["x-goog-api-key"], UPSTREAM_KEY);
    assert.ok(!setup.query.includes(ADMIN_KEY));
  });
});

test("gemini's files are uploaded through the gateway", async () => {
  const httpOptions = { baseUrl: `${GATEWAY}/vertex-main` };
  const client = new GoogleGenAI({ apiKey: ADMIN_KEY, httpOptions });
  const bytes = new Blob(["7".repeat(1_000)], { type: "text/plain" });
  const uploaded = await client.files.upload({ file: bytes });
  assert.deepEqual([uploaded.name, uploaded.sizeBytes], ["files/f1", "1000"]);
  const [start, sent] = await seen();
  assert.equal(start.path, sent.path);
  assert.equal(sent.query, "upload_id=s1&upload_protocol=x");
  assert.equal(sent.headers["x-goog-api-key"], UPSTREAM_KEY);
});

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}
