// How programs are told the gateway and a key.

import { copyable, tabs } from "./parts.js";

/** What stands in the place of a model where none is known. */
const UNKNOWN = "PROVIDER/MODEL";

/** Name, and the lines of each way to call, of an origin, a key and models of each family. */
const WAYS = {
  curl: (origin, key, { chat }) => [
    `curl ${origin}/v1/chat/completions \\`,
    `  -H "Authorization: Bearer ${key}" \\`,
    '  -H "Content-Type: application/json" \\',
    `  -d '{"model": "${chat}", "messages": [{"role": "user", "content": "Hello"}]}'`,
  ],
  "OpenAI, Python": (origin, key, { chat }) => [
    "from openai import OpenAI",
    `client = OpenAI(base_url="${origin}/v1", api_key="${key}")`,
    `reply = client.chat.completions.create(model="${chat}",`,
    '    messages=[{"role": "user", "content": "Hello"}])',
    "print(reply.choices[0].message.content)",
  ],
  "OpenAI, JavaScript": (origin, key, { chat }) => [
    'import OpenAI from "openai";',
    `const client = new OpenAI({ baseURL: "${origin}/v1", apiKey: "${key}" });`,
    `const reply = await client.chat.completions.create({ model: "${chat}",`,
    '  messages: [{ role: "user", content: "Hello" }] });',
    "console.log(reply.choices[0].message.content);",
  ],
  "Anthropic, Python": (origin, key, { claude }) => [
    "from anthropic import Anthropic",
    `client = Anthropic(base_url="${origin}", api_key="${key}")`,
    `reply = client.messages.create(model="${claude}", max_tokens=100,`,
    '    messages=[{"role": "user", "content": "Hello"}])',
    "print(reply.content[0].text)",
  ],
  "Anthropic, JavaScript": (origin, key, { claude }) => [
    'import Anthropic from "@anthropic-ai/sdk";',
    `const client = new Anthropic({ baseURL: "${origin}", apiKey: "${key}" });`,
    `const reply = await client.messages.create({ model: "${claude}", max_tokens: 100,`,
    '  messages: [{ role: "user", content: "Hello" }] });',
    "console.log(reply.content[0].text);",
  ],
  "Gemini, Python": (origin, key, { gemini }) => [
    "from google import genai",
    `client = genai.Client(api_key="${key}",`,
    `    http_options={"base_url": "${origin}"})`,
    `reply = client.models.generate_content(model="${gemini}", contents="Hello")`,
    "print(reply.text)",
  ],
  "Gemini, JavaScript": (origin, key, { gemini }) => [
    'import { GoogleGenAI } from "@google/genai";',
    `const client = new GoogleGenAI({ apiKey: "${key}",`,
    `  httpOptions: { baseUrl: "${origin}" } });`,
    `const reply = await client.models.generateContent({ model: "${gemini}",`,
    '  contents: "Hello" });',
    "console.log(reply.text);",
  ],
  "Claude Code": (origin, key, { claude }) => [
    `export ANTHROPIC_BASE_URL=${origin}`, `export ANTHROPIC_AUTH_TOKEN=${key}`,
    `claude --model ${claude}`,
  ],
  Codex: (origin, key, { chat }) => [
    "# ~/.codex/config.toml", `model = "${chat}"`, 'model_provider = "gproxy"',
    "[model_providers.gproxy]", 'name = "GPROXY"', `base_url = "${origin}/v1"`,
    'env_key = "GPROXY_KEY"', 'wire_api = "responses"', "",
    "# and in the shell", `export GPROXY_KEY=${key}`,
  ],
  "Open WebUI": (origin, key) => [
    `OPENAI_API_BASE_URL=${origin}/v1`, `OPENAI_API_KEY=${key}`,
  ],
};

/** Names that stand in quotation marks of a shell, of JSON, of Python and of JavaScript alike. */
const PLAIN = /^[\w./:@+-]+$/;

/** A model of each family, out of those that may be called, by what their names say. */
function familiesOf(models) {
  const plain = models.filter((name) => PLAIN.test(name));
  const first = (pattern) => plain.find((name) => pattern.test(name));
  const others = /claude|gemini|embed|image|audio|tts|whisper/i;
  const chat = first(/chat|gpt/i) ?? plain.find((name) => !others.test(name));
  return {
    chat: chat ?? UNKNOWN, claude: first(/claude/i) ?? UNKNOWN, gemini: first(/gemini/i) ?? UNKNOWN,
  };
}

/** Ways to call with a key, each to be copied. `models`: names of those that may be called. */
export function snippets(key, models) {
  const families = familiesOf(models);
  return tabs("Ways to call", Object.entries(WAYS).map(([name, lines]) => {
    return [name, () => copyable(lines(location.origin, key, families).join("\n"), name)];
  }));
}
