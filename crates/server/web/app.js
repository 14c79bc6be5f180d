// The conversation. What models write reaches the page as text nodes only (text.js); the gauges are board.js.

import { blocks } from "./text.js";
import { Board } from "./board.js";

const $ = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
const TEXTS = ["system", "stop"];
const DEFAULTS = { temperature: "0.7", max_tokens: "512" };
/** An answer is drawn again so often at most, ms: laying out a long one takes a few of them. */
const DRAW = 60;

const talk = []; // {role, content, reasoning?, node, …}
let flow = null; // the answer under way: its AbortController

// ---------------------------------------------------------------- settings

const store = (kind) => {
  try {
    return window[kind];
  } catch {
    return null; // storage is forbidden: nothing is kept
  }
};

function remember() {
  const kept = Object.fromEntries([...NUMBERS, ...TEXTS].map((k) => [k, $(k).value]));
  kept.model = $("model").value;
  store("localStorage")?.setItem("tamp.settings", JSON.stringify(kept));
  store("sessionStorage")?.setItem("tamp.key", $("key").value);
}

function recall() {
  let kept = {};
  try {
    kept = JSON.parse(store("localStorage")?.getItem("tamp.settings") ?? "{}") ?? {};
  } catch {
    // written by something else: the defaults
  }
  for (const k of [...NUMBERS, ...TEXTS]) $(k).value = kept[k] ?? DEFAULTS[k] ?? "";
  $("key").value = store("sessionStorage")?.getItem("tamp.key") ?? "";
  return kept.model ?? "";
}

const wantedModel = recall();

const COLOURS = { auto: "as the system", light: "light", dark: "dark" };
function paint(theme) {
  const known = theme in COLOURS ? theme : "auto";
  document.documentElement.dataset.theme = known;
  $("theme").textContent = known[0].toUpperCase() + known.slice(1);
  $("theme").setAttribute("aria-label", `Colours: ${COLOURS[known]}`);
  store("localStorage")?.setItem("tamp.theme", known);
}
paint(store("localStorage")?.getItem("tamp.theme") ?? "auto");
$("theme").addEventListener("click", () => {
  const all = Object.keys(COLOURS);
  paint(all[(all.indexOf(document.documentElement.dataset.theme) + 1) % all.length]);
});

function unfold(open) {
  $("settings").hidden = !open;
  $("open").setAttribute("aria-expanded", String(open));
}
$("open").addEventListener("click", () => unfold($("settings").hidden));

function view(name) {
  document.body.dataset.view = name;
  $("to-chat").setAttribute("aria-pressed", String(name === "chat"));
  $("to-board").setAttribute("aria-pressed", String(name === "board"));
}
$("to-chat").addEventListener("click", () => view("chat"));
$("to-board").addEventListener("click", () => view("board"));

// ---------------------------------------------------------------- the server

/** A refusal: what the server said, and what that means to a person. */
class Refusal extends Error {
  constructor(status, body, after) {
    const said = body?.error?.message ?? "";
    super(said ? `${sentence(status, after)} ${capital(said)}.`.replace(/\.\.$/, ".") : sentence(status, after));
    this.status = status;
    this.after = after;
  }
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function sentence(status, after) {
  const later = after ? ` Try again in ${after} s.` : "";
  switch (status) {
    case 0: return "The server cannot be reached. This page goes on trying.";
    case 401: return "The server asks for a key, and does not know this one. Enter it under Settings.";
    case 403: return "The server does not allow this.";
    case 404: return "The server does not have this.";
    case 413: return "The message is too long.";
    case 429: return `Too many requests.${later}`;
    case 503: return `The server takes no new work at the moment.${later}`;
    default: return status >= 500 ? "The server failed." : "The server refuses this request.";
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  const key = $("key").value.trim();
  // A header takes visible ASCII only; another key cannot be right.
  if (/^[\x21-\x7e]+$/.test(key)) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new Refusal(0);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Refusal(response.status, body, Number.parseInt(response.headers.get("retry-after") ?? "", 10) || 0);
}

function notice(text, { retry = false } = {}) {
  $("notice").hidden = !text;
  $("notice").firstElementChild.textContent = text;
  $("retry").hidden = !retry;
}
$("dismiss").addEventListener("click", () => {
  notice("");
  $("say").focus();
});

function refused(e, retry) {
  notice(e instanceof Refusal ? e.message : `Something went wrong here: ${e.message}`, { retry });
  if (e.status === 401) {
    unfold(true);
    $("key").focus();
  }
}

async function models() {
  const list = (await (await ask("v1/models")).json()).data ?? [];
  const before = $("model").value || wantedModel;
  $("model").replaceChildren(...list.map((m) => new Option(m.id, m.id)));
  if (list.some((m) => m.id === before)) $("model").value = before;
}

const board = new Board($("board"), {
  status: async (parts) => (await ask(`v1/status${parts ? `?parts=${parts}` : ""}`)).json(),
  link: (state, words) => {
    $("link").dataset.state = state;
    // Said once per change, not once per second.
    if ($("link").lastElementChild.textContent !== words) $("link").lastElementChild.textContent = words;
  },
  began: () => models().catch(() => {}),
});

let typed;
$("settings").addEventListener("input", (e) => {
  remember();
  if (e.target.id !== "key") return;
  clearTimeout(typed);
  typed = setTimeout(() => board.now(), 400);
});
$("settings").addEventListener("submit", (e) => e.preventDefault());
$("model").addEventListener("change", () => {
  remember();
  board.now();
});

// ---------------------------------------------------------------- messages

const make = (tag, className, text) => {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
};

function show(message) {
  const item = make("li", message.role);
  item.append(make("h2", "", message.role === "user" ? "You" : message.model || "Answer"));
  if (message.role === "user") item.append(make("p", "said", message.content));
  else {
    const thought = make("details", "thought");
    thought.hidden = true;
    thought.append(make("summary", "", "Reasoning"), make("p"));
    item.append(thought, make("div", "said"), make("p", "figures"));
  }
  message.node = item;
  $("log").append(item);
  $("empty").hidden = true;
}

const atEnd = () => $("log").scrollHeight - $("log").scrollTop - $("log").clientHeight < 60;
const toEnd = () => { $("log").scrollTop = $("log").scrollHeight; };

function draw(m) {
  const stick = atEnd();
  figures(m);
  const [, thought, said] = m.node.children;
  if (m.reasoning) {
    thought.hidden = false;
    thought.lastElementChild.textContent = m.reasoning;
  }
  said.replaceChildren(blocks(m.content));
  if (stick) toEnd();
}

const round = (n, digits) => n.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
const count = (n, one) => `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;

function figures(m) {
  const parts = [];
  const u = m.usage;
  if (u) {
    const t = u.timings ?? {};
    const seconds = ((t.total_ms ?? 0) - (t.first_token_ms ?? 0)) / 1e3;
    parts.push(count(u.completion_tokens, "token"));
    if (seconds > 0 && u.completion_tokens > 1) parts.push(`${round((u.completion_tokens - 1) / seconds, 1)} tokens/s`);
    if (t.first_token_ms) parts.push(`first after ${round(t.first_token_ms / 1e3, 2)} s`);
    const cached = u.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(`prompt ${count(u.prompt_tokens, "token")}${cached ? `, ${cached.toLocaleString("en")} cached` : ""}`);
  } else if (m.pieces) {
    parts.push(`about ${count(m.pieces, "token")}`);
    const seconds = (m.last - m.first) / 1e3;
    if (seconds > 0.2) parts.push(`${round((m.pieces - 1) / seconds, 1)} tokens/s`);
  }
  const words = { length: "cut off at the limit of tokens", deadline: "cut off at its deadline", stopped: "stopped", error: "broken off" };
  if (words[m.finish]) parts.push(words[m.finish]);
  m.node.lastElementChild.textContent = parts.join(" · ");
}

$("log").addEventListener("click", async (e) => {
  if (!e.target.matches("button.copy")) return;
  const text = e.target.closest("figure").querySelector("code").textContent;
  try {
    await navigator.clipboard.writeText(text);
    e.target.textContent = "Copied";
  } catch {
    e.target.textContent = "Not allowed";
  }
  setTimeout(() => { e.target.textContent = "Copy"; }, 1500);
});

// ---------------------------------------------------------------- an answer

function body() {
  const out = { model: $("model").value || undefined, stream: true, stream_options: { include_usage: true } };
  for (const k of NUMBERS) {
    const n = Number($(k).value);
    if ($(k).value.trim() !== "" && Number.isFinite(n)) out[k] = n;
  }
  if ($("stop").value) out.stop = [$("stop").value];
  out.messages = talk.filter((m) => m.role === "user" || m.content).map(({ role, content }) => ({ role, content }));
  if ($("system").value.trim()) out.messages.unshift({ role: "system", content: $("system").value });
  return out;
}

/** The objects of a stream of server-sent events. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const all = (rest + value).split("\n\n");
    rest = all.pop();
    for (const event of all) {
      const data = event.split("\n").filter((l) => l.startsWith("data:")).map((l) => l.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

function busy(on) {
  $("send").hidden = on;
  $("stop-now").hidden = !on;
  $("log").setAttribute("aria-busy", String(on));
  $("again").disabled = on || !talk.length;
}

async function answer() {
  const request = body();
  const m = { role: "assistant", content: "", reasoning: "", pieces: 0, model: $("model").value };
  const control = new AbortController();
  flow = control;
  notice("");
  busy(true);
  $("told").textContent = "Answering";
  let timer = 0;
  const later = () => {
    timer ||= setTimeout(() => {
      timer = 0;
      if (m.node) draw(m);
    }, DRAW);
  };
  try {
    const response = await ask("v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(request),
      signal: control.signal,
    });
    talk.push(m);
    show(m);
    m.node.classList.add("live");
    toEnd();
    for await (const event of events(response)) {
      if (event.error) throw new Refusal(event.error.code === "out_of_memory" ? 503 : 500, event);
      if (event.usage) m.usage = event.usage;
      const choice = event.choices?.[0];
      if (!choice) continue;
      m.content += choice.delta?.content ?? "";
      m.reasoning += choice.delta?.reasoning_content ?? "";
      if (choice.delta?.content || choice.delta?.reasoning_content) {
        m.pieces++;
        m.first ??= performance.now();
        m.last = performance.now();
      }
      m.finish = choice.finish_reason ?? m.finish;
      later();
    }
    // A stream that just ends was cut: by a proxy, or by a server that went away.
    if (!m.finish) throw new Refusal(0);
  } catch (e) {
    const stopped = control.signal.aborted;
    m.finish = stopped ? "stopped" : "error";
    if (!stopped) refused(e instanceof TypeError ? new Refusal(0) : e, true);
  }
  clearTimeout(timer);
  if (m.node) {
    m.node.classList.remove("live");
    draw(m);
  }
  flow = null;
  busy(false);
  $("told").textContent = m.finish === "error" ? "" : m.finish === "stopped" ? "Stopped" : `Answered: ${count(m.usage?.completion_tokens ?? m.pieces, "token")}`;
  board.now();
}

function send() {
  const content = $("say").value.trim();
  if (!content || flow) return;
  const m = { role: "user", content };
  talk.push(m);
  show(m);
  $("say").value = "";
  grow();
  toEnd();
  answer();
}

function regenerate() {
  if (flow || !talk.length) return;
  while (talk.at(-1)?.role === "assistant") talk.pop().node.remove();
  answer();
}

const stop = () => flow?.abort();

function grow() {
  const e = $("say");
  e.style.height = "auto";
  e.style.height = `${Math.min(e.scrollHeight + 2, 220)}px`;
}

$("say").addEventListener("input", grow);
$("say").addEventListener("keydown", (e) => {
  // Enter also ends the choice of a character in input methods.
  if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
  e.preventDefault();
  send();
});
$("composer").addEventListener("submit", (e) => {
  e.preventDefault();
  send();
});
document.addEventListener("keydown", (e) => {
  if (e.key !== "Escape") return;
  if (flow) stop();
  else if (!$("settings").hidden) {
    unfold(false);
    $("open").focus();
  }
});
$("stop-now").addEventListener("click", () => {
  stop();
  $("say").focus();
});
$("again").addEventListener("click", regenerate);
$("retry").addEventListener("click", regenerate);
$("fresh").addEventListener("click", () => {
  stop();
  talk.splice(0).forEach((m) => m.node?.remove());
  $("empty").hidden = false;
  $("again").disabled = true;
  notice("");
  $("say").focus();
});

board.start();
