// node shots.mjs URL FOLDER [MESSAGE]
//
// The pictures of docs/web-page.md, from a server with a real model.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Browser, found, sleep } from "./browser.mjs";

const [url, folder, message = "Write a function in Rust that reverses the words of a sentence, and explain it briefly."] = process.argv.slice(2);
const browser = new Browser(found());
for (const [width, height, scheme, machine] of [[1280, 800, "light"], [1280, 800, "dark"], [390, 780, "light"], [390, 780, "dark", true]]) {
  const page = await browser.page({ width, height, scheme });
  await page.go(url);
  await page.until("document.getElementById('model').value", "the list of models");
  // The settings are closed, so nothing can be typed into them.
  for (const [id, value] of [["max_tokens", "260"], ["temperature", "0.2"]]) {
    await page.get(`(e => { e.value = "${value}"; e.dispatchEvent(new Event("input", { bubbles: true })); e.dispatchEvent(new Event("change", { bubbles: true })); return true; })(document.getElementById("${id}"))`);
  }
  await page.get("document.getElementById('say').focus()");
  await page.type(message);
  await page.press("Enter");
  // Wide pictures show an answer being written, with the gauges at work.
  if (width > 1000) await sleep(2600);
  else await page.until("document.getElementById('stop-now').hidden", "the answer", 120);
  if (machine) {
    await page.click("#to-board");
    await sleep(1200);
  }
  writeFileSync(join(folder, `page-${width}-${scheme}.png`), await page.shot());
  await page.press("Escape");
  await browser.clear();
}
browser.close();
process.exit(0);
