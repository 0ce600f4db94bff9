// The official Google Gen AI client in Node, in its current and its previous major version.

import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";

import * as current from "@google/genai";
import * as previous from "genai-previous";

import {
  ADMIN_KEY, ALICE_KEY, GATEWAY, checkUpstreamRequest, collect, forget, hungUpAt, onlyOne,
  quickestOfThree, seen, thrown,
} from "./common.mjs";

const FLASH = "gemini-1.5-flash";
const PREFIXED = `vertex-main/${FLASH}`;
const contents = "Hello";

// base URL, model asked, model served, model in the reply
const ROWS = [
  ["", PREFIXED, FLASH, PREFIXED],
  ["", `models/${PREFIXED}`, FLASH, PREFIXED],
  ["/vertex-main", FLASH, FLASH, `${FLASH}-2025-04-14`],
  ["", "gemini-default", FLASH, "gemini-default"],
  ["/vertex-main", "gemini-default", FLASH, "gemini-default"],
  ["", "router/vendor/model:free", "vendor/model:free", "router/vendor/model:free"],
];

for (const [name, genai] of [["current", current], ["previous", previous]]) {
  const client = (base = "", apiKey = ADMIN_KEY, more = {}) =>
    new genai.GoogleGenAI({ apiKey, httpOptions: { baseUrl: GATEWAY + base }, ...more });
  // Newer clients say v1 where older ones said v1beta; what the client said goes up.
  const endsWith = (path, model, verb) =>
    [`/v1/models/${model}:${verb}`, `/v1beta/models/${model}:${verb}`].includes(path);

  describe(`genai ${name}`, () => {
    beforeEach(() => forget());

    for (const [base, model, served, replied] of ROWS) {
      test(`generate ${base} ${model}`, async () => {
        const reply = await client(base).models.generateContent({ model, contents });
        assert.equal(reply.modelVersion, replied);
        assert.equal(reply.text, "Hello wörld");
        const request = await onlyOne();
        assert.ok(endsWith(request.path, served, "generateContent"), request.path);
        checkUpstreamRequest(request, "x-goog-api-key");
      });

      test(`generate streamed ${base} ${model}`, async () => {
        const chunks = await collect(
          await client(base).models.generateContentStream({ model, contents }),
        );
        assert.ok(chunks.every((chunk) => chunk.modelVersion === replied));
        assert.equal(chunks.map((chunk) => chunk.text).join(""), "Hello wörld\u2028");
        const request = await onlyOne();
        assert.equal(request.query, "alt=sse");
        assert.ok(endsWith(request.path, served, "streamGenerateContent"), request.path);
      });

      test(`count and embed ${base} ${model}`, async () => {
        const one = client(base);
        assert.equal((await one.models.countTokens({ model, contents })).totalTokens, 3);
        const reply = await one.models.embedContent({ model, contents });
        assert.deepEqual(reply.embeddings[0].values, [0.5, -0.25]);
        for (const request of (await seen()).at(-1).body.requests ?? []) {
          assert.equal(request.model, `models/${served}`);
        }
      });
    }

    test("vertex mode puts the provider among the publishers", async () => {
      const one = client("", ADMIN_KEY, { vertexai: true });
      const reply = await one.models.generateContent({ model: PREFIXED, contents });
      assert.equal(reply.modelVersion, PREFIXED);
    });

    for (const [status, words, key, base, model] of [
      [401, "unauthorized", "sk-wrong", "", PREFIXED],
      [400, "prefix", ADMIN_KEY, "", FLASH],
      [403, "forbidden: model", ALICE_KEY, "", PREFIXED],
      [404, "", ADMIN_KEY, "/nowhere", FLASH],
    ]) {
      test(`own ${status} is an ApiError`, async () => {
        const one = client(base, key);
        for (const call of ["generateContent", "generateContentStream"]) {
          const error = await thrown(() => one.models[call]({ model, contents }));
          assert.ok(error instanceof genai.ApiError, String(error));
          assert.equal(error.status, status);
          assert.ok(error.message.includes(words), error.message);
        }
        assert.deepEqual(await seen(), []);
      });
    }

    for (const status of [400, 401, 404, 429, 500, 503]) {
      test(`the upstream's ${status} passes unchanged`, async () => {
        const model = `vertex-main/status-${status}`;
        const error = await thrown(() => client().models.generateContent({ model, contents }));
        assert.ok(error instanceof genai.ApiError, String(error));
        assert.equal(error.status, status);
        assert.ok(error.message.includes(`the upstream says ${status}`), error.message);
      });
    }

    test("a stream that dies throws", async () => {
      const error = await thrown(async () =>
        collect(await client().models.generateContentStream({
          model: "vertex-main/dies", contents,
        })));
      assert.ok(error instanceof Error && error.code !== "ERR_ASSERTION", String(error));
    });

    test("leaving a stream is seen by the upstream within a second", async () => {
      const quickest = await quickestOfThree(async () => {
        await forget();
        const controller = new AbortController();
        const stream = await client().models.generateContentStream({
          model: "vertex-main/hangs", contents, config: { abortSignal: controller.signal },
        });
        await stream.next();
        const left = Date.now();
        controller.abort();
        return (await hungUpAt()) - left;
      });
      assert.ok(quickest < 1000, `${quickest} ms`);
    });

    test("models are listed page by page and got", async () => {
      const pager = await client().models.list({ config: { pageSize: 2 } });
      const names = (await collect(pager)).map((model) => model.name);
      assert.deepEqual(names, [
        "models/openai-main/gpt-4.1-mini", "models/anthropic-main/claude-3-5-sonnet-latest",
        `models/${PREFIXED}`, "models/router/meta-llama/llama-3-70b:free",
        "models/chat-default", "models/claude-default", "models/gemini-default",
      ]);
      const alices = await collect(await client("", ALICE_KEY).models.list());
      assert.deepEqual(alices.map((model) => model.name), ["models/openai-main/gpt-4.1-mini"]);
      for (const model of ["gemini-default", PREFIXED, "router/meta-llama/llama-3-70b:free"]) {
        assert.equal((await client().models.get({ model })).name, `models/${model}`);
      }
      const error = await thrown(() => client().models.get({ model: "none" }));
      assert.equal(error.status, 404);
      assert.equal((await seen()).length, 0);
    });
  });
}
