// The machine at work: /v1/status once a second, drawn in place.

const SVG = "http://www.w3.org/2000/svg";
/** Between two looks, ms; when nobody answers, up to so long. */
const EVERY = 1000;
const MOST = 5000;
/** Width of the timeline, ms. */
const SPAN = 10_000;
const LANES = 12;

const make = (tag, attributes = {}, ...inside) => {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...inside.filter((x) => x !== null && x !== undefined));
  return e;
};

const draw = (tag, attributes = {}, ...inside) => {
  const e = document.createElementNS(SVG, tag);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...inside);
  return e;
};

const number = (n, digits = 0) =>
  n.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
const tokens = (n) => number(n, n > 0 && n < 100 ? 1 : 0);
const percent = (x) => `${number(x * 100, x > 0 && x < 0.1 ? 1 : 0)} %`;
const short = (n) => (n >= 1e6 ? `${number(n / 1e6, 1)} M` : n >= 1e4 ? `${number(n / 1e3, 0)} k` : number(n));
const ms = (n) => (n === null || n === undefined ? "–" : n >= 1000 ? `${number(n / 1000, 2)} s` : `${number(n, n < 10 ? 1 : 0)} ms`);

const bar = (label, parts, total) => {
  const row = make("div", { class: "bar", role: "img", "aria-label": label });
  for (const [name, n] of parts) {
    const part = make("i", { class: name });
    part.style.width = `${total > 0 ? Math.min(100, (100 * n) / total) : 0}%`;
    row.append(part);
  }
  return row;
};

const pairs = (...rows) => make("dl", {}, ...rows.flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, String(v))]));

const HEALTH = { ok: "Well", degraded: "Degraded", bad: "Bad" };
const LEVEL = { ok: "within budget", warning: "burning", critical: "critical" };
const EFFECT = {
  Identical: "same answer",
  SameDistribution: "same distribution",
  Lossy: "other answers",
  Service: "does not touch answers",
};

/** Speeds of the last two minutes. */
function sparkline(history, every) {
  const [w, h, n] = [320, 44, 120];
  const points = history.slice(-n);
  const top = Math.max(1, ...points);
  const x = (i) => w - (points.length - 1 - i) * (w / (n - 1));
  const y = (v) => h - 1 - (v / top) * (h - 4);
  const line = points.map((v, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  const picture = draw("svg", {
    viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: "none", class: "spark", role: "img",
    "aria-label": `Tokens per second, last ${Math.round(points.length * every)} seconds, at most ${tokens(top)}`,
  });
  if (points.length > 1) {
    picture.append(
      draw("path", { class: "area", d: `${line}L${x(points.length - 1)} ${h}L${x(0)} ${h}Z` }),
      draw("path", { class: "line", d: line, "vector-effect": "non-scaling-stroke" }),
    );
  }
  return picture;
}

function speed(s, every) {
  const all = s.models ?? [];
  const sum = (f) => all.reduce((a, m) => a + f(m), 0);
  const history = [];
  for (const m of all) {
    m.history.forEach((v, i) => {
      const at = m.history.length - i;
      history[at] = (history[at] ?? 0) + v;
    });
  }
  const line = history.slice(1).reverse();
  const peak = line.length ? `peak ${tokens(Math.max(...line))}` : "";
  const parts = [
    make("p", { class: "big" }, make("b", { id: "tok-s" }, tokens(sum((m) => m.decode_tok_s))),
      make("span", {}, "tokens/s"), make("span", { class: "peak" }, peak)),
    sparkline(line, every),
  ];
  for (const m of all) {
    const { gb_s: read, ceiling_gb_s: ceiling, fraction } = m.read;
    if (all.length > 1) parts.push(make("h3", {}, m.name));
    if (ceiling) {
      const words = `reads ${number(read, 1)} of ${number(ceiling, 1)} GB/s`;
      parts.push(
        bar(`${m.name} ${words} while it works`, [["use", fraction]], 1),
        make("p", { class: "note" }, make("span", {}, read ? words : `can read ${number(ceiling, 1)} GB/s`),
          make("span", {}, read ? percent(fraction) : `${tokens(m.ceiling_tok_s)} tokens/s alone`)),
      );
    }
    parts.push(pairs(["Prompts", `${tokens(m.prefill_tok_s)} tokens/s`], ["At work", percent(m.busy)]));
  }
  return parts;
}

function queue(s) {
  return (s.models ?? []).map((m) => make("div", {},
    s.models.length > 1 ? make("h3", {}, m.name) : null,
    pairs(
      ["Running", `${m.running} of ${m.batch}`], ["Waiting", number(m.waiting)],
      ["Finished", short(m.finished)], ["Preempted", short(m.preemptions)],
    )));
}

function cache(s) {
  return (s.models ?? []).map((m) => {
    const { total, free, cached } = m.pages;
    const used = total - free;
    // Cached pages that nobody holds count among the free ones.
    const kept = Math.min(cached, free);
    return make("div", {},
      s.models.length > 1 ? make("h3", {}, m.name) : null,
      bar(`${used} pages in use, ${kept} kept for later, of ${total}`, [["use", used], ["kept", kept]], total),
      make("p", { class: "note" }, make("span", {}, make("i", { class: "use" }), `${short(used)} in use`),
        make("span", {}, make("i", { class: "kept" }), `${short(kept)} kept`),
        make("span", {}, `${short(total)} pages`)),
      pairs(
        ["Prompt tokens found", m.prefix.asked ? percent(m.prefix.hits / m.prefix.asked) : "–"],
        ["Looked for", short(m.prefix.asked)],
      ));
  });
}

function health(s) {
  const parts = [];
  const dead = (s.models ?? []).find((m) => !m.alive);
  const h = s.health?.health;
  const state = dead ? "bad" : h?.state ?? "ok";
  const words = dead ? `Stopped: ${dead.broken ?? dead.name}` : s.draining ? "Finishing what is under way" : HEALTH[state];
  parts.push(make("p", { class: "state", "data-state": state }, make("i"), words));
  if (h?.reason) parts.push(make("p", {}, h.reason));
  const rows = [["ttft", "First token"], ["itl", "Between tokens"], ["queue", "Queue"], ["e2e", "Whole answer"]]
    .map(([k, name]) => [name, s.health?.window?.[k]]).filter(([, w]) => w?.count);
  if (rows.length) {
    parts.push(make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "Time"), make("th", {}, "p50"), make("th", {}, "p99"))),
      make("tbody", {}, ...rows.map(([name, w]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, ms(w.p50_ms)), make("td", {}, ms(w.p99_ms)))))));
  }
  return parts;
}

function tenants(s) {
  const rows = (s.tenants ?? []).map(({ name, took, sla }) => {
    const worst = sla?.standings?.length ? sla.level : null;
    const burn = worst ? Math.max(...sla.standings.map((x) => x.short)) : 0;
    return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, number(took.live)),
      make("td", {}, short(took.tokens)), make("td", {}, `${number(took.engine_s, took.engine_s < 100 ? 1 : 0)} s`),
      make("td", { "data-level": worst ?? "none", title: worst ? `burn rate ${number(burn, 2)}` : "no objective" }, worst ? LEVEL[worst] : "–"));
  });
  if (!rows.length) return [make("p", { class: "hint" }, "Nobody has asked yet.")];
  const heads = ["Tenant", "Live", "Tokens", "Engine", "Objective"];
  return [make("div", { class: "scroll" }, make("table", {},
    make("thead", {}, make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)))), make("tbody", {}, ...rows)))];
}

/** Requests of the last seconds, a lane each. */
function timeline(s) {
  const spans = s.spans ?? [];
  const tracing = (s.levers ?? []).some((l) => l.room === "engine.trace" && l.uses.length && l.name !== "none");
  if (!spans.length) {
    const why = tracing ? "No request in the last ten seconds." : "Spans are not kept; start with --use engine.trace=spans.";
    return [make("p", { class: "hint" }, why)];
  }
  const lanes = new Map();
  for (const x of spans) lanes.set(x.trace, [...(lanes.get(x.trace) ?? []), x]);
  const shown = [...lanes.values()].slice(-LANES);
  const [w, lane] = [320, 16];
  const h = shown.length * lane + 14;
  const at = (ago) => w * (1 - Math.min(ago, SPAN) / SPAN);
  const picture = draw("svg", { viewBox: `0 0 ${w} ${h}`, class: "time", role: "img", "aria-label": `${shown.length} requests of the last ten seconds` });
  for (let t = 0; t <= 10; t += 2) {
    const x = at(t * 1000);
    const anchor = t === 0 ? "end" : t === 10 ? "start" : "middle";
    picture.append(draw("line", { x1: x, x2: x, y1: 0, y2: h - 12, class: "grid" }),
      draw("text", { x, y: h - 2, "text-anchor": anchor }, t ? `−${t} s` : "now"));
  }
  shown.forEach((all, i) => {
    for (const x of all) {
      if (x.ago_ms - x.len_ms > SPAN) continue;
      const [from, to] = [at(x.ago_ms), at(Math.max(0, x.ago_ms - x.len_ms))];
      const who = `${x.who ?? ""} ${x.request ?? x.trace}`.trim();
      picture.append(draw("rect", { x: from, y: i * lane + 3, width: Math.max(1.2, to - from), height: lane - 5, rx: 1.5, class: x.kind },
        draw("title", {}, `${who}: ${x.kind} ${ms(x.len_ms)}, ${count(x.rows, "row")}, ${count(x.passes, "pass", "passes")}`)));
    }
  });
  const kinds = [...new Set(spans.map((x) => x.kind))];
  return [picture, make("p", { class: "note" }, ...kinds.map((k) => make("span", {}, make("i", { class: k }), k.replace("_", " "))))];
}

const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

/** Each pair's ratio as a point, the interval as a bar, 1 as a line. */
function ratios(f) {
  const [w, h] = [300, 46];
  const all = [...f.pairs, ...f.interval, 1].filter((x) => x > 0);
  const far = Math.max(0.02, ...all.map((x) => Math.abs(Math.log(x)))) * 1.05;
  const x = (r) => w / 2 + (Math.log(r) / far) * (w / 2 - 6);
  const picture = draw("svg", { viewBox: `0 0 ${w} ${h}`, class: "ratios", role: "img",
    "aria-label": `${f.metric}: ratio ${number(f.ratio, 3)}, interval ${number(f.interval[0], 3)} to ${number(f.interval[1], 3)}` });
  picture.append(draw("line", { x1: x(1), x2: x(1), y1: 0, y2: h - 12, class: "one" }));
  f.pairs.forEach((r, i) => r > 0 && picture.append(draw("circle", { cx: x(r), cy: 5 + ((i * 7) % 12), r: 1.8 })));
  picture.append(
    draw("rect", { x: x(f.interval[0]), width: Math.max(1.5, x(f.interval[1]) - x(f.interval[0])), y: 23, height: 6, rx: 1 }),
    draw("line", { x1: x(f.ratio), x2: x(f.ratio), y1: 20, y2: 32, class: "mid" }),
  );
  const low = Math.exp(-far);
  for (const [at, r, anchor] of [[6, low, "start"], [w / 2, 1, "middle"], [w - 6, 1 / low, "end"]]) {
    picture.append(draw("text", { x: at, y: h - 1, "text-anchor": anchor }, number(r, 2)));
  }
  return picture;
}

function lever(l) {
  const used = l.uses.length > 0;
  const best = l.found?.[0];
  const summary = make("summary", {}, make("i", { class: used ? "on" : "off" }), make("b", {}, l.name),
    make("span", { class: "verdict" }, best ? `${best.verdict}, ${number(best.ratio, 2)}×` : ""),
    make("span", { class: "hidden" }, used ? "in use" : "not in use"));
  const rows = [["Effect", EFFECT[l.effect] ?? l.effect]];
  if (l.aka) rows.push(["Known as", l.aka]);
  if (l.paper) rows.push(["Paper", l.paper]);
  if (l.claim) rows.push(["Claimed", l.claim]);
  for (const u of l.uses) {
    const knobs = Object.entries(u.knobs).filter(([, v]) => v !== "").map(([k, v]) => `${k}=${v}`).join(" ");
    rows.push([u.model ? `In use by ${u.model}` : "In use", [knobs, u.from && `(${u.from})`].filter(Boolean).join(" ") || "yes"]);
  }
  if (!used) rows.push(["To use it", `--use ${l.room}=${l.name}`]);
  const found = (l.found ?? []).slice(0, 3).flatMap((f) => [
    make("p", {}, make("b", {}, `Measured: ${f.verdict}. `), f.title),
    ratios(f),
    make("p", { class: "note" }, make("span", {}, `${f.metric} × ${number(f.ratio, 3)}`), make("span", {}, `${number(f.interval[0], 3)} to ${number(f.interval[1], 3)}, ${count(f.pairs.length, "pair")}`)),
  ]);
  return make("details", { class: "lever", "data-id": l.id }, summary, make("p", {}, l.about), pairs(...rows), ...found);
}

function levers(s, all) {
  const rooms = new Map();
  for (const l of s.levers ?? []) {
    if (!all && !l.uses.length && !l.found?.length) continue;
    rooms.set(l.room, [...(rooms.get(l.room) ?? []), l]);
  }
  return [...rooms].flatMap(([room, of]) => [make("h3", {}, room), ...of.map(lever)]);
}

/** The side of the page. `status(parts)` asks, `link(state, words)` says how that goes, `began()`: a server is there. */
export class Board {
  constructor(node, { status, link, began }) {
    Object.assign(this, { node, status, link, began, wait: EVERY, timer: 0, server: 0, all: false, last: {} });
    this.parts = {};
    const part = (name, title, ...more) => {
      this.parts[name] = make("div");
      return make("section", { "aria-labelledby": `h-${name}`, id: `b-${name}` },
        make("h2", { id: `h-${name}` }, title), ...more, this.parts[name]);
    };
    const which = make("button", { type: "button", class: "quiet", "aria-pressed": "false", id: "all-levers" }, "Show all");
    which.addEventListener("click", () => {
      this.all = !this.all;
      which.setAttribute("aria-pressed", String(this.all));
      which.textContent = this.all ? "Show those in use" : "Show all";
      this.showLevers();
    });
    node.append(part("speed", "Speed"), part("queue", "Queue"), part("cache", "Cache"), part("health", "Health"),
      part("tenants", "Tenants"), part("time", "Last ten seconds"), part("levers", "Levers", which));
    document.addEventListener("visibilitychange", () => document.hidden || this.now());
  }

  start() {
    this.turn();
  }

  /** Looks at once. */
  now() {
    clearTimeout(this.timer);
    this.turn();
  }

  async turn() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    try {
      // What is set changes when the server does; the rest every second.
      const s = await this.status(this.server ? "models,tenants,health,spans" : "");
      if (s.started_ms !== this.server) {
        if (!s.levers) s.levers = (await this.status("levers")).levers;
        this.server = s.started_ms;
        this.last.levers = s.levers;
        this.showLevers();
        this.began();
      }
      this.last = { ...this.last, ...s };
      this.show();
      this.wait = EVERY;
      this.link(s.draining ? "wait" : "up", s.draining ? "finishing" : "connected");
    } catch (e) {
      if (e.status === 401) this.link("wait", "needs a key");
      else this.link("down", e.status ? "refused" : "reconnecting");
      // A server that was away may be another one.
      if (!e.status) this.server = 0;
      this.wait = Math.min(MOST, this.wait * 1.5);
    }
    this.busy = false;
    clearTimeout(this.timer);
    const soon = this.again;
    this.again = false;
    // A page that nobody sees asks nothing.
    if (!document.hidden) this.timer = setTimeout(() => this.turn(), soon ? 0 : this.wait);
  }

  show() {
    const s = this.last;
    this.parts.speed.replaceChildren(...speed(s, s.history_every_s ?? 1));
    this.parts.queue.replaceChildren(...queue(s));
    this.parts.cache.replaceChildren(...cache(s));
    this.parts.health.replaceChildren(...health(s));
    this.parts.tenants.replaceChildren(...tenants(s));
    this.parts.time.replaceChildren(...timeline(s));
  }

  showLevers() {
    const open = new Set([...this.parts.levers.querySelectorAll("details[open]")].map((d) => d.dataset.id));
    this.parts.levers.replaceChildren(...levers(this.last, this.all));
    for (const d of this.parts.levers.querySelectorAll("details")) d.open = open.has(d.dataset.id);
  }
}
