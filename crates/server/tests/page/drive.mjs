// node drive.mjs OPEN KEYED KEY
//
// Drives the page of two servers: OPEN asks for no key and keeps spans; KEYED takes KEY, one request per long while.
// Prints `restart` and waits for a line when OPEN is to go away and come back at the same address.

import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { Browser, found, sleep } from "./browser.mjs";

const [open, keyed, key] = process.argv.slice(2);
const browser = new Browser(found());
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const WORD = "document.querySelector('#link span').textContent";
const ANSWERS = "document.querySelectorAll('#log > .assistant').length";
const DONE = "document.getElementById('log').getAttribute('aria-busy') === 'false' && document.getElementById('stop-now').hidden";
const LAST = "#log > .assistant:last-child";
const chats = (p) => p.sent.filter((r) => r.url.endsWith("/v1/chat/completions"));

async function say(p, text) {
  await p.get("document.getElementById('say').focus()");
  await p.type(text);
  await p.press("Enter");
}

async function connected(p) {
  await p.until(`${WORD} === 'connected'`, "the server");
  await p.until("document.getElementById('model').value", "the list of models");
}

const checks = {
  async "an answer streams, is counted, and moves the gauges"() {
    const p = await browser.page();
    await p.go(open);
    await connected(p);
    assert.equal(await p.get("document.querySelectorAll('main, header, aside, nav').length"), 4, "landmarks");
    await say(p, "Tell me more");
    const seen = new Set();
    await p.until(`document.querySelector('${LAST} .said')?.innerText`, "the first words");
    let moved = false;
    while (!(await p.get(DONE))) {
      seen.add((await p.text(`${LAST} .said`)).length);
      moved ||= Number.parseFloat(await p.text("#tok-s")) > 0;
      await sleep(40);
    }
    assert.ok(seen.size > 3, `it came at once: ${[...seen]}`);
    assert.ok(moved, "tokens per second never moved");
    assert.match(await p.text(`${LAST} .figures`), /\d+ tokens · [\d.,]+ tokens\/s · first after/);
    assert.match(await p.text("#told"), /Answered: \d+ token/);
    await p.until("document.querySelectorAll('#b-time rect.decode').length > 0", "a span of the answer");
    assert.ok(await p.get("document.querySelector('.spark .line')?.getAttribute('d').length > 20"), "no line of speeds");
    await p.until("document.querySelector('#b-tenants tbody th')?.textContent === 'anonymous'", "its tenant");
    assert.deepEqual(p.complaints, []);
  },

  async "Escape and the button stop an answer, and the server stops with it"() {
    const p = await browser.page();
    await p.go(open);
    await connected(p);
    for (const stop of [() => p.press("Escape"), () => p.click("#stop-now")]) {
      const before = await p.get(ANSWERS);
      await say(p, "Go on and on");
      await p.until(`${ANSWERS} > ${before} && document.querySelector('${LAST} .said').innerText`, "the first words");
      await p.until("document.querySelector('#b-queue dd').textContent.startsWith('1')", "the gauge of running sequences");
      await stop();
      await p.until(DONE, "the stop", 2);
      assert.match(await p.text(`${LAST} .figures`), /about \d+ tokens.* · stopped/);
      await p.until("document.querySelector('#b-queue dd').textContent.startsWith('0')", "the sequence to end", 5);
      const length = (await p.text(`${LAST} .said`)).length;
      await sleep(150);
      assert.equal((await p.text(`${LAST} .said`)).length, length, "it went on");
    }
    assert.deepEqual(p.complaints, []);
  },

  async "regenerating asks the same again and replaces the answer"() {
    const p = await browser.page();
    await p.go(open);
    await connected(p);
    await p.click("#open");
    await p.fill("#system", "Be brief.");
    await p.fill("#max_tokens", "12");
    await p.fill("#temperature", "1.5");
    await p.fill("#stop", "zzz");
    await p.click("#open");
    await say(p, "Once more");
    await p.until(`${ANSWERS} === 1 && ${DONE}`, "the answer");
    const first = await p.text(`${LAST} .said`);
    await p.click("#again");
    await p.until(`${ANSWERS} === 1 && ${DONE} && document.querySelector('${LAST} .said').innerText !== ${JSON.stringify(first)}`, "another answer");
    const [a, b] = chats(p).map((r) => JSON.parse(r.postData));
    assert.deepEqual(a, b);
    assert.deepEqual(a.messages, [{ role: "system", content: "Be brief." }, { role: "user", content: "Once more" }]);
    assert.deepEqual([a.max_tokens, a.temperature, a.stop, a.stream], [12, 1.5, ["zzz"], true]);
    await say(p, "And then?");
    await p.until(`${ANSWERS} === 2 && ${DONE}`, "the second answer");
    const roles = JSON.parse(chats(p).at(-1).postData).messages.map((m) => m.role);
    assert.deepEqual(roles, ["system", "user", "assistant", "user"]);
    await p.click("#fresh");
    assert.equal(await p.get("document.querySelectorAll('#log > li').length"), 0);
  },

  async "the keyboard alone reaches everything, and one sees where it is"() {
    const p = await browser.page();
    await p.go(open);
    await connected(p);
    await p.get("document.activeElement.blur()");
    const met = new Set();
    for (let i = 0; i < 60; i++) {
      await p.press("Tab");
      const at = await p.get(`(() => { const e = document.activeElement; const s = getComputedStyle(e);
        return { id: e.id || e.className || e.tagName, ring: s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1 }; })()`);
      if (at.id !== "BODY") assert.ok(at.ring, `no ring around ${at.id}`);
      met.add(at.id);
    }
    for (const id of ["skip", "model", "theme", "open", "say", "fresh", "send", "all-levers", "log"]) assert.ok(met.has(id), `${id} is out of reach: ${[...met]}`);
    await p.get("document.getElementById('open').focus()");
    await p.press("Enter");
    await p.press("Tab");
    assert.equal(await p.get("document.activeElement.id"), "system", "settings follow their button");
    await p.press("Escape");
    assert.equal(await p.get("document.activeElement.id"), "open");
    await p.get("document.getElementById('say').focus()");
    await p.type("one");
    await p.press("Enter", 8);
    await p.type("two");
    assert.equal(await p.get("document.getElementById('say').value"), "one\ntwo", "Shift and Enter start a line");
    await p.press("Enter");
    await p.until(`${ANSWERS} === 1`, "the answer");
    assert.equal(await p.text("#log > .user .said"), "one\ntwo");
    await p.press("Escape");
    assert.deepEqual(p.complaints, []);
  },

  async "dark and light follow the system until somebody chooses"() {
    const p = await browser.page({ scheme: "dark" });
    await p.go(open);
    const light = () => p.get("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]) > 128");
    assert.equal(await light(), false);
    await p.scheme("light");
    assert.equal(await light(), true);
    await p.click("#theme");
    await p.click("#theme");
    assert.equal(await light(), false, "dark was chosen");
    await p.go(open);
    assert.equal(await light(), false, "and is remembered");
    assert.match(await p.get("document.getElementById('theme').getAttribute('aria-label')"), /dark/);
  },

  async "nothing is wider than a small screen"() {
    for (const width of [390, 320]) {
      await browser.clear();
      const p = await browser.page({ width, height: 780 });
      await p.go(open);
      await connected(p);
      await p.fill("#max_tokens", "40");
      await say(p, "a word".repeat(200));
      await p.until(`${ANSWERS} === 1 && ${DONE}`, "the answer");
      await p.get(`import("/text.js").then(({ blocks }) => document.querySelector("${LAST} .said").append(blocks("\`\`\`rust\\n" + "x = 1; ".repeat(90) + "\\n\`\`\`\\n\\n| a | b |\\n|---|---|\\n| " + "wide ".repeat(60) + " | c |\\n\\n" + "y".repeat(300))))`);
      const fits = async (what) => {
        const wide = await p.get(`[document.documentElement.scrollWidth, document.documentElement.clientWidth, ...[...document.querySelectorAll("#chat, #log, #board, #settings")].flatMap((e) => [e.scrollWidth, e.clientWidth])]`);
        for (let i = 0; i < wide.length; i += 2) assert.ok(wide[i] <= wide[i + 1], `${what} at ${width}: ${wide}`);
        const out = await p.get(`[...document.querySelectorAll("header *, #composer *, #settings *")].filter((e) => e.getClientRects().length && (e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5) && !e.closest(".hidden")).map((e) => e.id || e.tagName)`);
        assert.deepEqual(out, [], `${what} at ${width}`);
      };
      await fits("chat");
      await p.click("#open");
      await fits("settings");
      await p.click("#open");
      await p.click("#to-board");
      await p.until("document.querySelectorAll('#b-levers details').length", "levers");
      await p.get("document.querySelectorAll('#b-levers details').forEach((d) => { d.open = true; })");
      await fits("machine");
      assert.equal(await p.get("document.getElementById('say').getClientRects().length"), 0);
      await p.click("#to-chat");
      assert.ok(await p.get("document.getElementById('say').getClientRects().length"));
    }
  },

  async "every lever says what it is, and those in use say so"() {
    const p = await browser.page();
    await p.go(open);
    await p.until("document.querySelectorAll('#b-levers details').length", "levers");
    const used = await p.get("document.querySelectorAll('#b-levers details').length");
    await p.click("#all-levers");
    const all = await p.get("document.querySelectorAll('#b-levers details').length");
    assert.ok(all > used && used > 3, `${used} of ${all}`);
    await p.click("[data-id='engine.trace.spans'] summary");
    assert.match(await p.text("[data-id='engine.trace.spans']"), /In use/);
    await p.click("[data-id='engine.policy.tenant'] summary");
    assert.match(await p.text("[data-id='engine.policy.tenant']"), /--use engine\.policy=tenant/);
    await sleep(1500);
    assert.ok(await p.get("document.querySelector(\"[data-id='engine.policy.tenant']\").open"), "it closed by itself");
    assert.ok(await p.get("document.querySelectorAll('svg.ratios circle').length > 0"), "no plot of what was measured");
  },

  async "what a model writes is text, whatever it looks like"() {
    const p = await browser.page();
    await p.go(open);
    const nasty = [
      "<img src=x onerror=document.title='bad'>", "<script>document.title='bad'</script>", "[a](javascript:document.title='bad')",
      "[b](data:text/html,<script>1</script>)", "[c](https://example.com/\"onmouseover=\"x)", "**<b>**", "`<i>`",
      "```html\n<svg onload=document.title='bad'>\n```", "# <u>h</u>", "| <s>a</s> | b |\n|---|---|\n| <q>c</q> | d |", "- <a href=x>e</a>",
    ].join("\n\n");
    const seen = await p.get(`import("/text.js").then(({ blocks }) => { const d = document.createElement("div"); d.append(blocks(${JSON.stringify(nasty)})); document.body.append(d);
      return { tags: [...new Set([...d.querySelectorAll("*")].map((e) => e.localName))].sort(), links: [...d.querySelectorAll("a")].map((a) => a.protocol), all: [...d.querySelectorAll("*")].flatMap((e) => e.getAttributeNames()), text: d.textContent }; })`);
    for (const tag of ["img", "script", "svg", "b", "i", "u", "s", "q"]) assert.ok(!seen.tags.includes(tag), `${tag} became an element`);
    assert.deepEqual(seen.all.filter((a) => a.startsWith("on") || a === "src" || a === "style"), []);
    assert.ok(seen.links.every((l) => /^https?:$/.test(l)), `${seen.links}`);
    assert.ok(seen.text.includes("<img src=x onerror") && seen.text.includes("<script>"));
    // And were there a hole in that, the policy of the page would not run it.
    await p.get("new Promise((r) => { document.addEventListener('securitypolicyviolation', (e) => { window.caught = e.effectiveDirective; r(); }); const s = document.createElement('script'); s.textContent = \"document.title='bad'\"; document.body.append(s); setTimeout(r, 500); })");
    assert.match(await p.get("window.caught ?? ''"), /^script-src/);
    assert.equal(await p.get("document.title"), "tamp");
    // A model that repeats itself must not stop the page.
    const took = await p.get(`import("/text.js").then(({ blocks }) => { const t = performance.now(); for (const x of ["\`", "*a ", "**", "[", "_a", "\`\`\` ", "> ", "- ", "| "]) blocks(x.repeat(6000)); return performance.now() - t; })`);
    assert.ok(took < 3000, `${took} ms`);
  },

  async "refusals are said in words"() {
    const p = await browser.page();
    await p.go(open);
    await connected(p);
    await p.click("#open");
    await p.fill("#top_p", "5");
    await say(p, "Hello");
    await p.until("!document.getElementById('notice').hidden", "the refusal");
    assert.match(await p.text("#notice p"), /refuses this request.*top_p/i);
    await p.fill("#top_p", "");
    await p.click("#retry");
    await p.until(`${ANSWERS} === 1 && document.getElementById('notice').hidden`, "an answer after all");
    await p.press("Escape");
  },

  async "a key is asked for, kept for the tab alone, and its bounds are explained"() {
    const p = await browser.page();
    await p.go(keyed);
    await p.until(`${WORD} === 'needs a key'`, "the question for a key");
    await say(p, "Hello");
    await p.until("!document.getElementById('notice').hidden", "the refusal");
    assert.match(await p.text("#notice p"), /asks for a key/);
    assert.equal(await p.get("document.activeElement.id"), "key");
    await p.fill("#key", "tamp-wrong");
    await sleep(700);
    assert.equal(await p.get(WORD), "needs a key");
    await p.fill("#key", key);
    await connected(p);
    await p.click("#retry");
    await p.until(`${ANSWERS} === 1 && ${DONE}`, "the answer");
    const kept = await p.get("[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]");
    assert.ok(!kept[0].includes(key) && kept[1].includes(key), "where the key is");
    assert.ok(p.sent.every((r) => !r.url.includes(key)), "a key in an address");
    await say(p, "Again");
    await p.until("!document.getElementById('notice').hidden", "the bound");
    assert.match(await p.text("#notice p"), /Too many requests\. Try again in \d+ s\./);
    await p.until("[...document.querySelectorAll('#b-tenants tbody th')].some((e) => e.textContent === 'alice')", "the tenant");
  },

  async "a server that comes back is found again"() {
    const p = await browser.page();
    await p.go(open);
    await connected(p);
    await say(p, "Go on and on");
    await p.until(`document.querySelector('${LAST} .said')?.innerText`, "the first words");
    process.stdout.write("restart\n");
    await p.until(`${WORD} === 'reconnecting'`, "the server to be missed");
    await p.until("!document.getElementById('notice').hidden", "the cut answer");
    assert.match(await p.text("#notice p"), /cannot be reached/);
    assert.match(await p.text(`${LAST} .figures`), /broken off/);
    await lines.next();
    await connected(p);
    await p.click("#retry");
    await p.until(`${ANSWERS} === 1 && document.getElementById('notice').hidden && ${DONE}`, "an answer of the new server", 60);
    assert.match(await p.text(`${LAST} .figures`), /tokens\/s/);
  },
};

let failed = 0;
const only = process.env.ONLY;
for (const [name, check] of Object.entries(checks)) {
  if (only && !name.includes(only)) continue;
  try {
    await check();
    console.log(`ok    ${name}`);
  } catch (e) {
    failed++;
    console.log(`FAIL  ${name}\n      ${e.message}`);
  }
  await browser.clear();
}
browser.close();
process.exit(failed ? 1 : 0);
