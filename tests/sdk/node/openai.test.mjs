// The official OpenAI client in Node, in its current and its previous major version.

import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";

import Current from "openai";
import Previous from "openai-previous";

import {
  ADMIN_KEY, ALICE_KEY, GATEWAY, checkUpstreamRequest, collect, forget, hungUpAt, onlyOne,
  quickestOfThree, seen, thrown,
} from "./common.mjs";

const MINI = "gpt-4.1-mini";
const LLAMA = "meta-llama/llama-3-70b:free";
const messages = [{ role: "user", content: "Say hello in one short sentence." }];

// base URL, model asked, model served, model in the reply
const ROWS = [
  ["/v1", `openai-main/${MINI}`, MINI, `openai-main/${MINI}`],
  ["/v1", `router/${LLAMA}`, LLAMA, `router/${LLAMA}`],
  ["/openai-main/v1", MINI, MINI, `${MINI}-2025-04-14`],
  ["/v1", "chat-default", MINI, "chat-default"],
  ["/openai-main/v1", "chat-default", MINI, "chat-default"],
  ["", `openai-main/${MINI}`, MINI, `openai-main/${MINI}`],
];

for (const [name, OpenAI] of [["current", Current], ["previous", Previous]]) {
  const client = (base = "/v1", apiKey = ADMIN_KEY) =>
    new OpenAI({ baseURL: GATEWAY + base, apiKey, maxRetries: 0, timeout: 20_000 });

  describe(`openai ${name}`, () => {
    beforeEach(() => forget());

    for (const [base, asked, served, replied] of ROWS) {
      test(`chat ${base} ${asked}`, async () => {
        const reply = await client(base).chat.completions.create({ model: asked, messages });
        assert.equal(reply.model, replied);
        assert.ok(reply.choices[0].message.content.includes(`${served}-2025-04-14`));
        const request = await onlyOne();
        assert.equal(request.path, "/v1/chat/completions");
        assert.equal(request.body.model, served);
        checkUpstreamRequest(request, "authorization");
      });

      test(`chat streamed ${base} ${asked}`, async () => {
        const chunks = await collect(
          await client(base).chat.completions.create({ model: asked, messages, stream: true }),
        );
        const models = new Set(chunks.map((chunk) => chunk.model));
        assert.deepEqual([...models], [replied]);
        assert.ok(chunks.every((chunk) => chunk.choices.length === 1 && !("usage" in chunk)));
        const text = chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join("");
        assert.equal(text, "Hello wörld 😀");
        assert.deepEqual((await onlyOne()).body.stream_options, { include_usage: true });
      });

      test(`responses ${base} ${asked}`, async () => {
        const one = client(base);
        const reply = await one.responses.create({ model: asked, input: "Hello" });
        assert.equal(reply.model, replied);
        assert.equal(reply.output_text, "Hello wörld");
        const events = await collect(
          await one.responses.create({ model: asked, input: "Hello", stream: true }),
        );
        const models = events.filter((event) => event.response).map((event) => event.response.model);
        assert.deepEqual(models, [replied, replied, replied]);
        assert.ok((await seen()).every((request) => request.body.model === served));
      });

      test(`completions and embeddings ${base} ${asked}`, async () => {
        const one = client(base);
        const reply = await one.completions.create({ model: asked, prompt: "Hello" });
        assert.equal(reply.model, replied);
        const chunks = await collect(
          await one.completions.create({ model: asked, prompt: "Hello", stream: true }),
        );
        assert.ok(chunks.every((chunk) => chunk.model === replied));
        const vectors = await one.embeddings.create({ model: asked, input: "Hello" });
        assert.equal(vectors.model, replied);
        assert.deepEqual([...vectors.data[0].embedding], [0.5, -0.25]);
      });
    }

    test("usage is there for a client that asks", async () => {
      const stream = await client().chat.completions.create({
        model: "chat-default", messages, stream: true, stream_options: { include_usage: true },
      });
      const last = (await collect(stream)).at(-1);
      assert.equal(last.usage.total_tokens, 5);
      assert.equal(last.model, "chat-default");
    });

    for (const [status, kind, words, key, model] of [
      [401, "AuthenticationError", "unauthorized", "sk-wrong", "chat-default"],
      [400, "BadRequestError", "prefix", ADMIN_KEY, MINI],
      [403, "PermissionDeniedError", "forbidden: model", ALICE_KEY, "chat-default"],
    ]) {
      test(`own ${status} is a ${kind}`, async () => {
        for (const stream of [false, true]) {
          const error = await thrown(() =>
            client("/v1", key).chat.completions.create({ model, messages, stream }));
          assert.ok(error instanceof OpenAI[kind], String(error));
          assert.equal(error.status, status);
          assert.ok(error.message.includes(words), error.message);
          assert.equal(error.headers.get("x-gproxy-source"), "gateway");
          assert.equal(error.requestID, error.headers.get("x-gproxy-request-id"));
        }
        assert.deepEqual(await seen(), []);
      });
    }

    test("an unknown path is a NotFoundError that names the base URL", async () => {
      const error = await thrown(() =>
        client("/nowhere/v1").chat.completions.create({ model: "chat-default", messages }));
      assert.ok(error instanceof OpenAI.NotFoundError, String(error));
      assert.ok(error.message.includes("/v1"), error.message);
    });

    for (const [status, kind] of [
      [400, "BadRequestError"], [401, "AuthenticationError"], [404, "NotFoundError"],
      [409, "ConflictError"], [429, "RateLimitError"], [500, "InternalServerError"],
      [529, "InternalServerError"],
    ]) {
      test(`the upstream's ${status} passes unchanged as a ${kind}`, async () => {
        const model = `openai-main/status-${status}`;
        const error = await thrown(() => client().chat.completions.create({ model, messages }));
        assert.ok(error instanceof OpenAI[kind], String(error));
        assert.ok(error.message.includes(`the upstream says ${status}`), error.message);
        assert.equal(error.code, "some_code");
        assert.equal(error.headers.get("retry-after"), "7");
        assert.equal(error.headers.get("x-gproxy-source"), "upstream");
        await onlyOne();
      });
    }

    test("a stream that dies throws", async () => {
      const error = await thrown(async () =>
        collect(await client().chat.completions.create({
          model: "openai-main/dies", messages, stream: true,
        })));
      assert.ok(error instanceof Error && error.code !== "ERR_ASSERTION", String(error));
    });

    test("leaving a stream is seen by the upstream within a second", async () => {
      const quickest = await quickestOfThree(async () => {
        await forget();
        const stream = await client().chat.completions.create({
          model: "openai-main/hangs", messages, stream: true,
        });
        for await (const _ of stream) break;
        const left = Date.now();
        stream.controller.abort();
        return (await hungUpAt()) - left;
      });
      assert.ok(quickest < 1000, `${quickest} ms`);
    });

    test("models are listed and retrieved", async () => {
      const ids = (await collect(client().models.list())).map((model) => model.id);
      assert.deepEqual(ids, [
        `openai-main/${MINI}`, "anthropic-main/claude-3-5-sonnet-latest",
        "vertex-main/gemini-1.5-flash", `router/${LLAMA}`,
        "chat-default", "claude-default", "gemini-default",
      ]);
      const alices = await collect(client("/v1", ALICE_KEY).models.list());
      assert.deepEqual(alices.map((model) => model.id), [`openai-main/${MINI}`]);
      for (const id of ["chat-default", `openai-main/${MINI}`, `router/${LLAMA}`]) {
        assert.equal((await client().models.retrieve(id)).id, id);
      }
      const error = await thrown(() => client("/v1", ALICE_KEY).models.retrieve("chat-default"));
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.equal((await seen()).length, 0);
    });
  });
}
