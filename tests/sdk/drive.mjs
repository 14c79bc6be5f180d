// Drives a running server with OpenAI's official SDK for Node.
//
// usage: node drive.mjs BASE_URL MODEL; any failure is an exception.

import assert from "node:assert/strict";
import OpenAI from "openai";

const [base, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the weather in Paris?" }];
const parameters = {
  type: "object",
  properties: { city: { enum: ["Paris", "Oslo"] }, metric: { type: "boolean" } },
  required: ["city", "metric"],
  additionalProperties: false,
};

function fits(text) {
  const v = JSON.parse(text);
  assert.deepEqual(Object.keys(v).sort(), ["city", "metric"]);
  assert.ok(["Paris", "Oslo"].includes(v.city) && typeof v.metric === "boolean");
}

const names = [];
for await (const m of client.models.list()) names.push(m.id);
assert.ok(names.includes(model));

const plain = { model, prompt: "Once upon a time", max_tokens: 5, seed: 1 };
const whole = await client.completions.create(plain);
let text = "";
for await (const part of await client.completions.create({ ...plain, stream: true })) text += part.choices[0]?.text ?? "";
assert.equal(text, whole.choices[0].text);

const ask = { model, messages, max_tokens: 8, seed: 1 };
const chat = await client.chat.completions.create(ask);
text = "";
for await (const part of await client.chat.completions.create({ ...ask, stream: true })) {
  text += part.choices[0]?.delta?.content ?? "";
}
assert.equal(text, chat.choices[0].message.content);

const tools = [{ type: "function", function: { name: "weather", parameters } }];
const must = { ...ask, max_tokens: 2000, tools, tool_choice: "required", parallel_tool_calls: false };
const called = await client.chat.completions.create(must);
assert.equal(called.choices[0].finish_reason, "tool_calls");
fits(called.choices[0].message.tool_calls[0].function.arguments);
const again = await client.chat.completions.stream(must).finalChatCompletion();
assert.equal(
  again.choices[0].message.tool_calls[0].function.arguments,
  called.choices[0].message.tool_calls[0].function.arguments,
);

const form = { type: "json_schema", json_schema: { name: "weather", schema: parameters, strict: true } };
fits((await client.chat.completions.create({ ...ask, max_tokens: 2000, response_format: form })).choices[0].message.content);

const vectors = await client.embeddings.create({ model, input: ["a cat", "a dog"] });
assert.equal(vectors.data.length, 2);
const norm = vectors.data[0].embedding.reduce((sum, x) => sum + x * x, 0);
assert.ok(Math.abs(norm - 1) < 1e-4, `length ${norm}`);

const say = { model, input: "Say something.", max_output_tokens: 8, seed: 2 };
const response = await client.responses.create(say);
text = "";
let last = "";
for await (const event of await client.responses.create({ ...say, stream: true })) {
  if (event.type === "response.output_text.delta") text += event.delta;
  last = event.type;
}
assert.equal(text, response.output_text);
assert.ok(["response.completed", "response.incomplete"].includes(last));

await assert.rejects(client.chat.completions.create({ ...ask, temprature: 1 }), (e) => e.code === "unknown_field");
console.log("node: ok");
