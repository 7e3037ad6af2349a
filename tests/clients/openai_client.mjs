// The official OpenAI client for JavaScript, unchanged. Usage: node openai_client.mjs NODE_MODULES BASE_URL
import { createRequire } from "node:module";
import assert from "node:assert";
const [modules, baseURL] = process.argv.slice(2);
const OpenAI = createRequire(`${modules}/`)("openai").OpenAI;

const client = new OpenAI({ baseURL, apiKey: "any", maxRetries: 0 });
const models = [];
for await (const model of await client.models.list()) models.push(model.id);
assert(models.includes("trellis-tiny"), String(models));
const messages = [{ role: "user", content: "What is the capital of France?" }];

const whole = await client.chat.completions.create({ model: models[0], messages, max_tokens: 10, temperature: 0 });
assert(whole.choices[0].message.content.length > 0);
assert(whole.usage.completion_tokens > 0 && whole.usage.completion_tokens <= 10);

let text = "";
const stream = await client.chat.completions.create({ model: models[0], messages, max_tokens: 10, temperature: 0, stream: true });
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
assert.strictEqual(text, whole.choices[0].message.content);
await assert.rejects(client.chat.completions.create({ model: "no-such-model", messages }), (error) => error.status === 404);
console.log("ok:", text);
