// Methods of the official clients do through the gateway what they do against the vendor: what
// test_surface.py says, for Node.

import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";
import * as genai from "@google/genai";
import * as genaiPrevious from "genai-previous";
import OpenAI from "openai";
import OpenAIPrevious from "openai-previous";

import {
  ADMIN_KEY, GATEWAY, UPSTREAM, UPSTREAM_KEY, checkUpstreamRequest, collect, forget, seen, thrown,
} from "./common.mjs";

const CALLS = JSON.parse(readFileSync(new URL("../calls.json", import.meta.url)));
const MODEL = "m-1";
const FILE = Buffer.concat([
  Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)),
  Buffer.from("\r\n--b\r\nname=\"model\"\r\n\r\n".repeat(50)),
]);
const DOWNLOAD = join(mkdtempSync(join(tmpdir(), "gproxy-sdk-")), "download");
const IGNORED = new Set([
  "host", "connection", "accept-encoding", "content-length", "transfer-encoding", "authorization",
  "x-api-key", "x-goog-api-key", "idempotency-key",
]);

const stainless = (Client, suffix) => (base, apiKey, defaultHeaders) =>
  new Client({ baseURL: base + suffix, apiKey, defaultHeaders, maxRetries: 0, timeout: 20_000 });
const google = (library) => (base, apiKey, headers) => Object.assign(
  new library.GoogleGenAI({ apiKey, httpOptions: { baseUrl: base, headers } }), { library });

// family, provider, header of the credential, clients by name
const FAMILIES = [
  ["openai", "openai-main", "authorization", {
    current: stainless(OpenAI, "/v1"), previous: stainless(OpenAIPrevious, "/v1"),
  }],
  ["anthropic", "anthropic-main", "x-api-key", { current: stainless(Anthropic, "") }],
  ["gemini", "vertex-main", "x-goog-api-key", {
    current: google(genai), previous: google(genaiPrevious),
  }],
];

const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());

/** The arguments of a row; Google's have other names in Node. */
function filled(value, model, client, rename) {
  if (value === "$model") return model;
  if (value === "$path") return DOWNLOAD;
  if (Array.isArray(value)) return value.map((item) => filled(item, model, client, rename));
  if (value === null || typeof value !== "object") return value;
  if (value.$operation) {
    const operation = new client.library.GenerateVideosOperation();
    return Object.assign(operation, { name: value.$operation });
  }
  if (value.$file) return new File([FILE], value.$file, { type: "application/octet-stream" });
  return Object.fromEntries(Object.entries(value).map(([key, item]) =>
    [rename ? camel(key) : key, filled(item, model, client, rename)]));
}

async function perform(family, client, row, model) {
  const path = row.call.split(".").map(camel);
  const name = path.pop();
  const owner = path.reduce((owner, part) => owner?.[part], client);
  if (typeof owner?.[name] !== "function") return undefined;
  const isGoogles = family === "gemini";
  const options = filled(row.node ?? row.with ?? {}, model, client, isGoogles);
  const more = row.with || isGoogles ? [options] : [];
  const args = row.node ? [] : filled(row.args ?? [], model, client, false);
  const result = await owner[name](...args, ...more);
  // What Python returns, Node writes to a file.
  if (options.downloadPath && existsSync(DOWNLOAD)) {
    const bytes = readFileSync(DOWNLOAD);
    rmSync(DOWNLOAD);
    return plain(bytes);
  }
  return row.pages || row.events || row.lines || row.all
    ? (await collect(result)).map(plain)
    : plain(result instanceof Response ? Buffer.from(await result.arrayBuffer()) : result);
}

function plain(value) {
  if (Buffer.isBuffer(value)) return value.toString("base64");
  const { sdkHttpResponse, _request_id, ...rest } = JSON.parse(JSON.stringify({ value }), (key, item) =>
    ["sdkHttpResponse", "_request_id"].includes(key) ? undefined : item);
  return rest.value ?? null;
}

function plainRequest({ method, path, query, headers, base64 }) {
  let body = Buffer.from(base64, "base64").toString("latin1");
  const kept = Object.fromEntries(Object.entries(headers).filter(([name]) => !IGNORED.has(name)));
  const boundary = /boundary=([^;]+)/.exec(kept["content-type"] ?? "")?.[1];
  if (boundary) {
    body = body.replaceAll(boundary, "BOUNDARY");
    kept["content-type"] = "multipart/form-data";
  }
  return { method, path, query, headers: kept, body };
}

for (const [family, provider, credential, clients] of FAMILIES) {
  for (const [version, make] of Object.entries(clients)) {
    describe(`${family} ${version}`, () => {
      CALLS[family].forEach((row, number) => {
        test(`${number} ${row.call}`, async (context) => {
          const call = async (base, key, model, headers = {}) => {
            await forget(`${family}-${number}`);
            const client = make(base, key, headers);
            const result = await perform(family, client, row, model);
            if (result === undefined) return [undefined, []];
            let told = JSON.stringify(result);
            for (const address of [`${GATEWAY}/${provider}`, GATEWAY, UPSTREAM]) {
              told = told.replaceAll(address, "");
            }
            // As test_surface.py says.
            if (model !== MODEL) {
              const dated = `${MODEL}-2025-04-14`;
              told = told.replaceAll(`${provider}/${dated}`, dated).replaceAll(model, dated);
              told = told.replaceAll(`?x-gproxy-provider=${provider}`, "");
            }
            return [JSON.parse(told), await seen()];
          };
          let expected;
          let direct;
          try {
            [expected, direct] = await call(UPSTREAM, UPSTREAM_KEY, MODEL);
          } catch (error) {
            if (!/only supported/.test(error.message)) throw error;
          }
          if (expected === undefined) return context.skip("this client has no such method");
          const [method, path] = row.asks.replace("$model", MODEL).split(" ");
          assert.equal(direct.at(-1).method, method);
          assert.ok(direct.at(-1).path.endsWith(path), direct.at(-1).path);
          for (const [base, model, headers] of [
            [`${GATEWAY}/${provider}`, MODEL, {}],
            [GATEWAY, `${provider}/${MODEL}`, { "x-gproxy-provider": provider }],
          ]) {
            const [result, requests] = await call(base, ADMIN_KEY, model, headers);
            assert.deepEqual(result, expected);
            for (const request of requests) checkUpstreamRequest(request, credential);
            assert.deepEqual(requests.map(plainRequest), direct.map(plainRequest));
          }
        });
      });
    });
  }
}
