// Text that models write, as nodes. Nothing here parses HTML: every character of it ends in a text node.

const make = (tag, ...inside) => {
  const e = document.createElement(tag);
  e.append(...inside);
  return e;
};

const LINK = /^https?:\/\/[^\s<>"]+$/i;
// `code` | **strong** | *em* or _em_ | [text](address)
const SPAN = /(?<!`)(`{1,3})(?!`)(.{1,2000}?)(?<!`)\1(?!`)|\*\*(?=\S)(.{1,2000}?)\*\*|(?<![\w*])\*(?=\S)([^*\n]{1,1000}?)\*(?![\w*])|(?<!\w)_(?=\S)([^_\n]{1,1000}?)_(?!\w)|\[([^\]\n]{1,400})\]\(([^()\s]{1,2000})\)/;
// Every repetition above is bounded, and so is the line: a model that repeats itself must not stop the page.
const LONGEST = 20_000;

/** Appends a line's worth of text with its emphases. */
export function inline(parent, text, depth = 0) {
  while (text) {
    const m = depth < 4 && text.length <= LONGEST && SPAN.exec(text);
    if (!m) return parent.append(text);
    parent.append(text.slice(0, m.index));
    text = text.slice(m.index + m[0].length);
    const [whole, , code, strong, star, line, label, address] = m;
    if (code !== undefined) parent.append(make("code", code));
    else if (address !== undefined && !LINK.test(address)) parent.append(whole);
    else {
      const e = make(strong !== undefined ? "strong" : address !== undefined ? "a" : "em");
      if (address !== undefined) {
        e.href = address;
        e.rel = "noopener noreferrer nofollow";
        e.target = "_blank";
      }
      inline(e, strong ?? star ?? line ?? label, depth + 1);
      parent.append(e);
    }
  }
}

function codeBlock(language, lines) {
  const code = make("code", lines.join("\n"));
  const copy = make("button", "Copy");
  copy.type = "button";
  copy.className = "quiet copy";
  const head = make("figcaption", make("span", language || "text"), copy);
  const pre = make("pre", code);
  pre.tabIndex = 0;
  return make("figure", head, pre);
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((c) => c.trim());
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

/** The blocks of a text: headings, lists, quotes, tables, rules, code, paragraphs. */
export function blocks(text) {
  const out = document.createDocumentFragment();
  const lines = text.replaceAll("\r\n", "\n").split("\n");
  let i = 0;
  let paragraph = [];
  const flush = () => {
    if (!paragraph.length) return;
    const p = make("p");
    paragraph.forEach((line, n) => {
      if (n) p.append(make("br"));
      inline(p, line);
    });
    out.append(p);
    paragraph = [];
  };
  while (i < lines.length) {
    const line = lines[i];
    const fence = /^\s{0,3}(`{3,}|~{3,})\s*([\w+#.-]{0,32})/.exec(line);
    if (fence) {
      flush();
      const body = [];
      for (i++; i < lines.length && !lines[i].trimStart().startsWith(fence[1]); i++) body.push(lines[i]);
      out.append(codeBlock(fence[2], body));
      i++;
      continue;
    }
    const heading = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line);
    if (heading) {
      flush();
      // Below the page's own headings.
      const h = make(`h${Math.min(6, heading[1].length + 2)}`);
      inline(h, heading[2]);
      out.append(h);
    } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
      flush();
      out.append(make("hr"));
    } else if (ITEM.test(line)) {
      flush();
      i = list(out, lines, i);
      continue;
    } else if (/^\s*>/.test(line)) {
      flush();
      const inside = [];
      for (; i < lines.length && /^\s*>/.test(lines[i]); i++) inside.push(lines[i].replace(/^\s*>\s?/, ""));
      const quote = make("blockquote");
      const flat = make("p");
      inside.forEach((l, n) => {
        if (n) flat.append(make("br"));
        inline(flat, l);
      });
      quote.append(flat);
      out.append(quote);
      continue;
    } else if (line.includes("|") && /^\s*\|?(\s*:?-{2,}:?\s*\|)+\s*(:?-{2,}:?)?\s*$/.test(lines[i + 1] ?? "")) {
      flush();
      i = table(out, lines, i);
      continue;
    } else if (!line.trim()) flush();
    else paragraph.push(line.trimStart());
    i++;
  }
  flush();
  return out;
}

function list(out, lines, i) {
  const stack = [];
  for (; i < lines.length; i++) {
    const m = ITEM.exec(lines[i]);
    if (!m) {
      // A blank line between two items keeps the list.
      if (!lines[i].trim() && ITEM.test(lines[i + 1] ?? "")) continue;
      if (!lines[i].trim() || !/^\s{2,}/.test(lines[i])) break;
      const item = stack.at(-1).list.lastElementChild;
      item.append(make("br"));
      inline(item, lines[i].trim());
      continue;
    }
    const depth = Math.min(m[1].length, 12);
    const ordered = /\d/.test(m[2]);
    while (stack.length > 1 && stack.at(-1).depth > depth) stack.pop();
    let top = stack.at(-1);
    if (!top || (depth > top.depth + 1 && stack.length < 4)) {
      const made = make(ordered ? "ol" : "ul");
      if (ordered) made.start = Number.parseInt(m[2], 10);
      (top ? top.list.lastElementChild : out).append(made);
      top = { list: made, depth };
      stack.push(top);
    }
    const item = make("li");
    inline(item, m[3]);
    top.list.append(item);
  }
  return i;
}

function table(out, lines, i) {
  const row = (line, tag) => make("tr", ...cells(line).slice(0, 20).map((c) => {
    const e = make(tag);
    inline(e, c);
    return e;
  }));
  const head = make("thead", row(lines[i], "th"));
  const body = make("tbody");
  for (i += 2; i < lines.length && lines[i].includes("|"); i++) body.append(row(lines[i], "td"));
  const wide = make("div", make("table", head, body));
  wide.className = "scroll";
  wide.tabIndex = 0;
  out.append(wide);
  return i;
}
