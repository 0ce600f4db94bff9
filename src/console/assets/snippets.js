// How programs are told the gateway and a key.

import { copyable, tabs } from "./parts.js";

const MODEL = "chat-default";

/** Name, and the lines of each way to call, of an origin, a key and a model. */
const WAYS = {
  curl: (origin, key, model) => [
    `curl ${origin}/v1/chat/completions \\`,
    `  -H "Authorization: Bearer ${key}" \\`,
    '  -H "Content-Type: application/json" \\',
    `  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}]}'`,
  ],
  "OpenAI, Python": (origin, key, model) => [
    "from openai import OpenAI",
    `client = OpenAI(base_url="${origin}/v1", api_key="${key}")`,
    `reply = client.chat.completions.create(model="${model}",`,
    '    messages=[{"role": "user", "content": "Hello"}])',
    "print(reply.choices[0].message.content)",
  ],
  "OpenAI, JavaScript": (origin, key, model) => [
    'import OpenAI from "openai";',
    `const client = new OpenAI({ baseURL: "${origin}/v1", apiKey: "${key}" });`,
    `const reply = await client.chat.completions.create({ model: "${model}",`,
    '  messages: [{ role: "user", content: "Hello" }] });',
    "console.log(reply.choices[0].message.content);",
  ],
  "Anthropic, Python": (origin, key) => [
    "from anthropic import Anthropic",
    `client = Anthropic(base_url="${origin}", api_key="${key}")`,
    'reply = client.messages.create(model="claude-default", max_tokens=100,',
    '    messages=[{"role": "user", "content": "Hello"}])',
    "print(reply.content[0].text)",
  ],
  "Anthropic, JavaScript": (origin, key) => [
    'import Anthropic from "@anthropic-ai/sdk";',
    `const client = new Anthropic({ baseURL: "${origin}", apiKey: "${key}" });`,
    'const reply = await client.messages.create({ model: "claude-default", max_tokens: 100,',
    '  messages: [{ role: "user", content: "Hello" }] });',
    "console.log(reply.content[0].text);",
  ],
  "Gemini, Python": (origin, key) => [
    "from google import genai",
    `client = genai.Client(api_key="${key}",`,
    `    http_options={"base_url": "${origin}"})`,
    'reply = client.models.generate_content(model="gemini-default", contents="Hello")',
    "print(reply.text)",
  ],
  "Gemini, JavaScript": (origin, key) => [
    'import { GoogleGenAI } from "@google/genai";',
    `const client = new GoogleGenAI({ apiKey: "${key}",`,
    `  httpOptions: { baseUrl: "${origin}" } });`,
    'const reply = await client.models.generateContent({ model: "gemini-default",',
    '  contents: "Hello" });',
    "console.log(reply.text);",
  ],
  "Claude Code": (origin, key) => [
    `export ANTHROPIC_BASE_URL=${origin}`, `export ANTHROPIC_AUTH_TOKEN=${key}`,
    "claude --model claude-default",
  ],
  Codex: (origin, key, model) => [
    "# ~/.codex/config.toml", `model = "${model}"`, 'model_provider = "gproxy"',
    "[model_providers.gproxy]", 'name = "GPROXY"', `base_url = "${origin}/v1"`,
    'env_key = "GPROXY_KEY"', 'wire_api = "responses"', "",
    "# and in the shell", `export GPROXY_KEY=${key}`,
  ],
  "Open WebUI": (origin, key) => [
    `OPENAI_API_BASE_URL=${origin}/v1`, `OPENAI_API_KEY=${key}`,
  ],
};

/** Ways to call with a key, each to be copied. */
export function snippets(key) {
  return tabs("Ways to call", Object.entries(WAYS).map(([name, lines]) => {
    return [name, () => copyable(lines(location.origin, key, MODEL).join("\n"), name)];
  }));
}
