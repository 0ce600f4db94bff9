// The official Anthropic client in Node.

import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";

import {
  ADMIN_KEY, ALICE_KEY, GATEWAY, checkUpstreamRequest, collect, forget, hungUpAt, onlyOne,
  quickestOfThree, seen, thrown,
} from "./common.mjs";

const CLAUDE = "claude-3-5-sonnet-latest";
const messages = [{ role: "user", content: "Hello" }];

// base URL, model asked, model served, model in the reply
const ROWS = [
  ["", `anthropic-main/${CLAUDE}`, CLAUDE, `anthropic-main/${CLAUDE}`],
  ["/anthropic-main", CLAUDE, CLAUDE, `${CLAUDE}-2025-04-14`],
  ["", "claude-default", CLAUDE, "claude-default"],
  ["/v1", "claude-default", CLAUDE, "claude-default"],
  ["", "router/vendor/model:free", "vendor/model:free", "router/vendor/model:free"],
];

const client = (base = "", apiKey = ADMIN_KEY) =>
  new Anthropic({ baseURL: GATEWAY + base, apiKey, maxRetries: 0, timeout: 20_000 });
const ask = (one, model, more = {}) =>
  one.messages.create({ model, max_tokens: 256, messages, ...more });

describe("anthropic", () => {
  beforeEach(() => forget());

  for (const [base, asked, served, replied] of ROWS) {
    test(`messages ${base} ${asked}`, async () => {
      const reply = await ask(client(base), asked);
      assert.equal(reply.model, replied);
      assert.equal(reply.content[0].text, "Hello wörld");
      const request = await onlyOne();
      assert.equal(request.path, "/v1/messages");
      assert.equal(request.body.model, served);
      assert.ok(request.headers["anthropic-version"]);
      checkUpstreamRequest(request, "x-api-key");
    });

    test(`messages streamed ${base} ${asked}`, async () => {
      const events = await collect(await ask(client(base), asked, { stream: true }));
      assert.equal(events[0].message.model, replied);
      assert.equal(events.at(-1).type, "message_stop");
      const final = await client(base).messages
        .stream({ model: asked, max_tokens: 256, messages })
        .finalMessage();
      assert.equal(final.model, replied);
      assert.equal(final.content[0].text, "Hello wörld");
    });

    test(`count_tokens ${base} ${asked}`, async () => {
      const reply = await client(base).messages.countTokens({ model: asked, messages });
      assert.equal(reply.input_tokens, 3);
      assert.equal((await onlyOne()).body.model, served);
    });
  }

  for (const [status, kind, words, key, model] of [
    [401, "AuthenticationError", "unauthorized", "sk-wrong", "claude-default"],
    [400, "BadRequestError", "prefix", ADMIN_KEY, CLAUDE],
    [403, "PermissionDeniedError", "forbidden: model", ALICE_KEY, "claude-default"],
  ]) {
    test(`own ${status} is a ${kind}`, async () => {
      for (const stream of [false, true]) {
        const error = await thrown(() => ask(client("", key), model, { stream }));
        assert.ok(error instanceof Anthropic[kind], String(error));
        assert.ok(error.message.includes(words), error.message);
        assert.equal(error.headers.get("x-gproxy-source"), "gateway");
        assert.equal(error.requestID, error.headers.get("x-gproxy-request-id"));
      }
      assert.deepEqual(await seen(), []);
    });
  }

  for (const status of [400, 401, 404, 429, 500, 529]) {
    test(`the upstream's ${status} passes unchanged`, async () => {
      const error = await thrown(() => ask(client(), `anthropic-main/status-${status}`));
      assert.ok(error instanceof Anthropic.APIError, String(error));
      assert.equal(error.status, status);
      assert.ok(error.message.includes(`the upstream says ${status}`), error.message);
      assert.equal(error.headers.get("retry-after"), "7");
      await onlyOne();
    });
  }

  test("a stream that dies throws", async () => {
    const error = await thrown(async () =>
      collect(await ask(client(), "anthropic-main/dies", { stream: true })));
    assert.ok(error instanceof Error && error.code !== "ERR_ASSERTION", String(error));
  });

  test("leaving a stream is seen by the upstream within a second", async () => {
    const quickest = await quickestOfThree(async () => {
      await forget();
      const stream = await ask(client(), "anthropic-main/hangs", { stream: true });
      for await (const _ of stream) break;
      const left = Date.now();
      stream.controller.abort();
      return (await hungUpAt()) - left;
    });
    assert.ok(quickest < 1000, `${quickest} ms`);
  });

  test("models are listed page by page and retrieved", async () => {
    const ids = (await collect(client().models.list({ limit: 2 }))).map((model) => model.id);
    assert.deepEqual(ids, [
      "openai-main/gpt-4.1-mini", `anthropic-main/${CLAUDE}`,
      "vertex-main/gemini-1.5-flash", "router/meta-llama/llama-3-70b:free",
      "chat-default", "claude-default", "gemini-default",
    ]);
    const alices = await collect(client("", ALICE_KEY).models.list());
    assert.deepEqual(alices.map((model) => model.id), ["openai-main/gpt-4.1-mini"]);
    const odd = "router/meta-llama/llama-3-70b:free";
    for (const id of ["claude-default", `anthropic-main/${CLAUDE}`, odd]) {
      assert.equal((await client().models.retrieve(id)).id, id);
    }
    const error = await thrown(() => client().models.retrieve("none"));
    assert.ok(error instanceof Anthropic.NotFoundError);
    assert.equal((await seen()).length, 0);
  });
});
