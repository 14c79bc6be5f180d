// A headless Chromium over its debugging pipe: just enough to drive a page. Needs nothing but Node.

import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

const NAMES = ["chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable"];

/** The first browser on the path. */
export function found() {
  const places = (process.env.PATH ?? "").split(delimiter).flatMap((d) => NAMES.map((n) => join(d, n)));
  return places.find((p) => {
    try {
      accessSync(p, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

export const sleep = (ms) => new Promise((r) => setTimeout(r, ms));

export class Browser {
  constructor(program) {
    // Without a user of its own (a container), Chromium starts without its sandbox only.
    const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", "--no-first-run", "--disable-dev-shm-usage"];
    this.process = spawn(program, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    this.n = 0;
    this.contexts = [];
    this.waiting = new Map();
    this.listeners = [];
    let rest = Buffer.alloc(0);
    this.process.stdio[4].on("data", (d) => {
      rest = Buffer.concat([rest, d]);
      for (let i = rest.indexOf(0); i >= 0; i = rest.indexOf(0)) {
        const m = JSON.parse(rest.subarray(0, i).toString());
        rest = rest.subarray(i + 1);
        const wait = this.waiting.get(m.id);
        if (wait) {
          this.waiting.delete(m.id);
          if (m.error) wait.reject(new Error(`${wait.method}: ${m.error.message}`));
          else wait.resolve(m.result);
        } else this.listeners.forEach((l) => l(m));
      }
    });
  }

  send(method, params = {}, sessionId = undefined) {
    return new Promise((resolve, reject) => {
      const id = ++this.n;
      const late = setTimeout(() => {
        this.waiting.delete(id);
        reject(new Error(`${method}: no answer of the browser in 60 s`));
      }, 60_000);
      const end = (f) => (x) => {
        clearTimeout(late);
        f(x);
      };
      this.waiting.set(id, { method, resolve: end(resolve), reject: end(reject) });
      this.process.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }

  /** A page in a profile of its own. */
  async page({ width = 1280, height = 800, scheme = "light" } = {}) {
    const { browserContextId } = await this.send("Target.createBrowserContext");
    this.contexts.push(browserContextId);
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank", browserContextId });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page(this, sessionId);
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await page.send(`${domain}.enable`);
    await page.size(width, height);
    await page.scheme(scheme);
    return page;
  }

  /** Closes every page: one that is not in front may not answer the mouse. */
  async clear() {
    for (const browserContextId of this.contexts.splice(0)) {
      await this.send("Target.disposeBrowserContext", { browserContextId });
    }
    this.listeners = [];
  }

  close() {
    this.process.kill("SIGKILL");
  }
}

const KEYS = {
  Enter: ["Enter", 13, "\r"], Escape: ["Escape", 27], Tab: ["Tab", 9], Space: ["Space", 32, " "],
};

class Page {
  constructor(browser, session) {
    Object.assign(this, { browser, session, complaints: [], sent: [] });
    browser.listeners.push((m) => {
      if (m.sessionId !== session) return;
      if (m.method === "Runtime.exceptionThrown") this.complaints.push(m.params.exceptionDetails.exception?.description ?? m.params.exceptionDetails.text);
      if (m.method === "Log.entryAdded" && m.params.entry.level === "error") this.complaints.push(`${m.params.entry.text} ${m.params.entry.url ?? ""}`);
      if (m.method === "Runtime.consoleAPICalled" && m.params.type === "error") this.complaints.push(JSON.stringify(m.params.args));
      if (m.method === "Network.requestWillBeSent") this.sent.push(m.params.request);
    });
  }

  send(method, params) {
    return this.browser.send(method, params, this.session);
  }

  size(width, height) {
    return this.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 600 });
  }

  scheme(value) {
    return this.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] });
  }

  async go(url) {
    await this.send("Page.navigate", { url });
    await this.until("document.readyState === 'complete'", "the page to load");
  }

  /** The value of an expression of the page. */
  async get(expression) {
    const r = await this.send("Runtime.evaluate", { expression, returnByValue: true, awaitPromise: true });
    if (r.exceptionDetails) throw new Error(`${expression}: ${r.exceptionDetails.exception?.description ?? r.exceptionDetails.text}`);
    return r.result.value;
  }

  async until(expression, what, seconds = 30) {
    const end = Date.now() + seconds * 1000;
    for (;;) {
      // While a page is being replaced there is nothing to ask.
      const value = await this.get(expression).catch(() => undefined);
      if (value) return value;
      if (Date.now() > end) throw new Error(`waited ${seconds} s for ${what}: ${expression}`);
      await sleep(30);
    }
  }

  text(selector) {
    return this.get(`document.querySelector(${JSON.stringify(selector)})?.innerText ?? ""`);
  }

  /** A click of the mouse, where a person would click. */
  async click(selector) {
    const at = await this.get(`(() => { const e = document.querySelector(${JSON.stringify(selector)}); e.scrollIntoView({ block: "nearest" });
      const r = e.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]; })()`);
    const [x, y] = at;
    for (const type of ["mousePressed", "mouseReleased"]) {
      await this.send("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
    }
  }

  async press(name, modifiers = 0) {
    const [key, code, text] = KEYS[name];
    const event = { key: text === " " ? " " : key, code: key, windowsVirtualKeyCode: code, modifiers };
    await this.send("Input.dispatchKeyEvent", { type: text ? "keyDown" : "rawKeyDown", text, ...event });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  }

  type(text) {
    return this.send("Input.insertText", { text });
  }

  /** Replaces what a field holds. */
  async fill(selector, text) {
    await this.get(`(() => { const e = document.querySelector(${JSON.stringify(selector)}); e.focus(); e.select(); })()`);
    if (text) await this.type(text);
    else await this.get(`(() => { const e = document.activeElement; e.value = ""; e.dispatchEvent(new Event("input", { bubbles: true })); })()`);
  }

  async shot() {
    const { data } = await this.send("Page.captureScreenshot", { format: "png" });
    return Buffer.from(data, "base64");
  }
}
