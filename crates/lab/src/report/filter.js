// Narrows the list, and the experiments below it, to what the filters say.
(() => {
  const form = document.querySelector("form.filters");
  if (!form) return;
  const lines = [...document.querySelectorAll(".index tbody tr")];
  const articles = [...document.querySelectorAll("article.x")];
  const names = ["verdict", "lane", "tag", "machine", "text"];
  const has = (d, want) =>
    (!want.verdict || d.verdict === want.verdict) &&
    (!want.lane || d.lane === want.lane) &&
    (!want.tag || d.tags.split("\n").includes(want.tag)) &&
    (!want.machine || d.machine === want.machine) &&
    want.text.toLowerCase().split(/\s+/).every((w) => d.text.includes(w));
  const apply = () => {
    const want = Object.fromEntries(names.map((n) => [n, form.elements[n].value.trim()]));
    const seen = new Set();
    let shown = 0;
    for (const line of lines) {
      line.hidden = !has(line.dataset, want);
      if (line.hidden) continue;
      shown += 1;
      seen.add(line.dataset.for);
    }
    for (const a of articles) a.hidden = !seen.has(a.id);
    form.querySelector("output").textContent = shown === lines.length ? "" : `${shown} of ${lines.length}`;
  };
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (e) => e.preventDefault());
  // A link to an experiment that is filtered out shows everything again.
  addEventListener("hashchange", () => {
    const to = document.getElementById(location.hash.slice(1));
    if (to && to.hidden) {
      form.reset();
      apply();
      to.scrollIntoView();
    }
  });
  // Browsers keep what was typed over a reload.
  apply();
})();
