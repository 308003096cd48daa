"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const SHAPES = { supported: "●", refuted: "▼", inconclusive: "◇", missing: "□" };
  const byId = (id) => document.getElementById(id);

  // Elements are built, never parsed: what a record says stays text.
  function make(tag, properties, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(properties || {})) {
      if (key.startsWith("aria-") || key === "role") made.setAttribute(key, value);
      else made[key] = value;
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return made;
  }

  const shown = (value, digits = 4) =>
    value === null || value === undefined
      ? "–"
      : Number(value.toPrecision(digits)).toLocaleString("en-US", { maximumSignificantDigits: digits });

  // Theme: the reader's choice, else the system's.
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const theme = () => document.documentElement.dataset.theme;
  function setTheme(name) {
    document.documentElement.dataset.theme = name;
    byId("theme").textContent = name === "dark" ? "Light" : "Dark";
    byId("theme").setAttribute("aria-label", `Switch to ${name === "dark" ? "light" : "dark"} colours`);
  }
  setTheme(stored() || (system.matches ? "dark" : "light"));
  byId("theme").addEventListener("click", () => {
    const next = theme() === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", next); } catch { /* a page opened from a file may not store */ }
    setTheme(next);
    redraw();
  });
  system.addEventListener("change", (event) => {
    if (stored()) return;
    setTheme(event.matches ? "dark" : "light");
    redraw();
  });

  // Verdicts.
  const word = (verdict) => make("span", { className: `word ${verdict}` }, `${SHAPES[verdict]} ${verdict}`);
  byId("study").textContent = page.study.name;
  byId("title").textContent = page.title;
  byId("subtitle").textContent = page.subtitle.filter(Boolean).join(" · ");
  byId("tally").append(
    ...page.tally.map(([name, count]) => make("span", { className: `word ${name}` }, `${SHAPES[name]} ${count} ${name}`)),
  );

  byId("doubts").append(...page.doubts.map((text) => make("p", { className: "doubt" }, text)));

  function facts(pairs) {
    const list = make("dl");
    for (const [name, value] of pairs) if (value) list.append(make("dt", {}, name), make("dd", {}, value));
    return list;
  }

  function claimBody(claim) {
    const body = make("div", { className: "body" });
    body.append(
      facts([
        ["Why", claim.detail],
        ["Missing", claim.missing.slice(0, 6).join("; ") + (claim.missing.length > 6 ? ` … (${claim.missing.length})` : "")],
        ["Lengths", claim.window],
        ["Computed", claim.computed],
        ["Published in", claim.source],
        ["There", claim.setting],
        ["Differs here", claim.differs],
      ]),
    );
    if (claim.variants.length) {
      const rows = claim.variants.map((v) =>
        make("tr", {}, make("td", { className: "text" }, v.variant), make("td", {}, word(v.verdict)), make("td", { className: "text" }, v.measured || "–"), make("td", { className: "text" }, v.detail)),
      );
      const head = make("tr", {}, ...["part", "verdict", "measured", "why"].map((t) => make("th", { scope: "col" }, t)));
      body.append(make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))));
    }
    if (claim.evidence.length) {
      const button = make("button", { type: "button" }, `Show its ${claim.evidence.length.toLocaleString("en-US")} records`);
      button.addEventListener("click", () => {
        state.only = { id: claim.id, places: new Set(claim.evidence) };
        fillTable();
        byId("cells").scrollIntoView();
      });
      body.append(make("p", {}, button));
    }
    return body;
  }

  for (const claim of page.claims) {
    const measured = [claim.measured, claim.allowed && `allowed: ${claim.allowed}`].filter(Boolean).join(" · ");
    const summary = make(
      "summary", {}, word(claim.verdict), make("span", { className: "sentence" }, claim.sentence),
      measured ? make("span", { className: "measured" }, measured) : null,
    );
    const details = make("details", { className: "claim", id: `claim-${claim.id}` }, summary);
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(claimBody(claim));
    });
    byId("claims").append(details);
  }
  if (!page.claims.length) byId("claims").append(make("p", {}, "This study asks for no claim."));
  for (const [heading, lines] of [["Threats to validity", page.threats], ["Files that could not be counted", page.refused]]) {
    if (lines.length) byId("threats").append(make("h3", {}, heading), make("ul", {}, ...lines.map((line) => make("li", {}, line))));
  }

  // Charts.
  const chosen = new Set(page.labels.map((one) => one.label));
  const PATHS = {
    circle: "M7 2a5 5 0 1 0 .01 0z", square: "M2 2h10v10h-10z", diamond: "M7 1l6 6-6 6-6-6z", "triangle-up": "M7 1l6 11h-12z",
    "triangle-down": "M7 13l6-11h-12z", cross: "M5 1h4v4h4v4h-4v4h-4v-4h-4v-4h4z", "triangle-left": "M1 7l11-6v12z", "triangle-right": "M13 7l-11-6v12z",
  };
  function swatch(one) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("width", "14"); svg.setAttribute("height", "14"); svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS(space, "path");
    path.setAttribute("d", PATHS[one.shape]);
    path.dataset.colour = one.colour;
    svg.append(path);
    return svg;
  }
  // On a dark ground colours are mixed with white, so that the dark ones can be told from it.
  function tone(colour) {
    if (theme() !== "dark") return colour;
    const parts = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return `#${parts.map((part) => Math.round(part + (255 - part) * 0.35).toString(16).padStart(2, "0")).join("")}`;
  }
  function paintSwatches() {
    for (const path of document.querySelectorAll("#models path")) path.setAttribute("fill", tone(path.dataset.colour));
  }
  const drawn = new Set(page.charts.flatMap((chart) => chart.rows.map((row) => row.label)));
  for (const one of page.labels.filter((label) => drawn.has(label.label))) {
    const box = make("input", { type: "checkbox", checked: true, value: one.label });
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(one.label); else chosen.delete(one.label);
      redraw();
    });
    byId("models").append(make("label", {}, box, swatch(one), one.label));
  }
  const every = make("button", { type: "button" }, "all or none");
  every.addEventListener("click", () => {
    const boxes = [...document.querySelectorAll("#models input")];
    const on = !boxes.every((box) => box.checked);
    for (const box of boxes) {
      box.checked = on;
      if (on) chosen.add(box.value); else chosen.delete(box.value);
    }
    redraw();
  });
  if (drawn.size > 1) byId("models").append(every); else if (!drawn.size) byId("models").hidden = true;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  function look() {
    const ink = css("--ink"), rule = css("--rule"), muted = css("--muted");
    return {
      background: null, font: 'system-ui, "DejaVu Sans", sans-serif',
      view: { stroke: null },
      axis: { labelColor: ink, titleColor: ink, gridColor: rule, domainColor: muted, tickColor: muted, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 170 },
      legend: { labelColor: ink, titleColor: ink, labelFontSize: 12, titleFontSize: 12 },
      ...(theme() === "dark" ? { range: { category: ["#7cc0ff", "#ff9a63", "#4fd0a4", "#e2c15c", "#d79be0"] } } : {}),
    };
  }
  // Visits every encoding of a channel, in whatever layer it stands.
  function encodings(spec, channel, visit) {
    if (spec.encoding && spec.encoding[channel]) visit(spec.encoding[channel]);
    for (const layer of spec.layer || []) encodings(layer, channel, visit);
  }
  async function draw(place, spec, rows) {
    const own = structuredClone(spec);
    own.datasets = { ...own.datasets, rows };
    // A layer for what these rows do not have, such as intervals, would have no extent.
    const has = (field) => !field || rows.some((row) => row[field] !== undefined && row[field] !== null);
    const drawable = (layer) => layer.data?.name !== "rows" && layer.data ? true : Object.values(layer.encoding || {}).every((one) => Array.isArray(one) || has(one.field));
    if (own.layer) own.layer = own.layer.filter(drawable);
    if (own.height.step) own.height = own.height.step * new Set(rows.map((row) => row.label)).size;
    encodings(own, "color", (one) => { if (one.scale && Array.isArray(one.scale.range)) one.scale.range = one.scale.range.map(tone); });
    await vegaEmbed(place, own, { actions: false, renderer: "svg", config: look() });
  }

  const figures = [];
  for (const chart of page.charts) {
    const figure = make("figure", { id: `chart-${chart.id}` }, make("h3", {}, chart.title));
    byId("figures").append(figure);
    if (!chart.rows.length) {
      figure.append(make("p", { className: "muted empty" }, `${chart.lacks} Nothing to draw.`));
      continue;
    }
    const groups = [...new Set(chart.rows.map((row) => row.group))];
    const choice = make("select", { "aria-label": `${chart.title}: what is shown` }, ...groups.map((group) => make("option", { value: group }, group)));
    const place = make("div", { className: "drawing" });
    const note = make("p", { className: "muted" });
    const scales = {};
    const buttons = chart.scales.map((channel) => {
      scales[channel] = "log";
      const button = make("button", { type: "button" });
      const name = () => { button.textContent = `${channel}: ${scales[channel] === "log" ? "logarithmic" : "linear"}`; };
      button.addEventListener("click", () => { scales[channel] = scales[channel] === "log" ? "linear" : "log"; name(); render(); });
      name();
      return button;
    });
    async function render() {
      const rows = chart.rows.filter((row) => row.group === choice.value && chosen.has(row.label));
      note.textContent = rows.length ? "" : "All models of this chart are hidden; choose some above.";
      place.hidden = !rows.length;
      if (!rows.length) return;
      const spec = structuredClone(chart.spec);
      const lengths = [...new Set(rows.map((row) => row.x))].sort((a, b) => a - b);
      for (const channel of chart.scales) {
        encodings(spec, channel, (one) => {
          if (one.scale || channel === "x") one.scale = scales[channel] === "log" ? { ...one.scale, type: "log" } : { type: "linear", zero: false };
          if (channel === "x" && chart.id !== "frontier") one.axis = { ...one.axis, values: lengths, labelOverlap: true };
        });
      }
      await draw(place, spec, rows);
    }
    if (chart.said) figure.append(make("p", { className: "said" }, chart.said));
    figure.append(
      make("div", { className: "controls" }, groups.length > 1 ? choice : make("span", { className: "muted" }, groups[0]), ...buttons),
      place, note, make("figcaption", {}, chart.see, chart.left_out ? ` ${chart.left_out}` : ""),
    );
    choice.addEventListener("change", render);
    figures.push(render);
  }
  let drawing = Promise.resolve();
  function redraw() {
    paintSwatches();
    // One after the other, so that the page answers in between.
    for (const render of [...figures, ...strips]) drawing = drawing.then(render);
    drawing = drawing.then(() => { document.documentElement.dataset.drawn = "yes"; });
  }

  // Cells.
  const COLUMNS = [
    ["kind", "kind"], ["label", "model"], ["where", "sweep or data set"], ["length", "length", "number"], ["number", "process or seed", "number"],
    ["status", "status"], ["step", "step (ms)", "number"], ["partner", "partner (ms)", "number"], ["ratio", "partner faster (×)", "number"],
    ["memory", "memory (MiB)", "number"], ["ndcg", "NDCG@10", "number"], ["flags", "flags", "number"],
  ];
  const cells = page.cells.map(([kind, label, where, length, number, status, step, partner, net, ndcg, flags, stale, detail, path], place) => ({
    place, kind, label, where, length, number, status, step: step === null ? null : 1e3 * step, partner: partner === null ? null : 1e3 * partner,
    ratio: step !== null && partner !== null ? step / partner : null, memory: net === null ? null : net / 2 ** 20, ndcg,
    flags: flags.length || null, notes: flags.map((flag) => page.flags[flag]), stale, detail, path,
    search: `${kind} ${label} ${where} L${length} ${status} ${path}`.toLowerCase(),
  }));
  const STEP = 100;
  const state = { sort: null, down: false, limit: STEP, only: null, open: new Set() };
  const strips = new Set();
  const find = make("input", { type: "search", placeholder: "model, sweep, status …", "aria-label": "Find cells" });
  const kinds = make("select", { "aria-label": "Kind" }, ...["all kinds", ...new Set(cells.map((cell) => cell.kind))].map((t) => make("option", {}, t)));
  const states = make("select", { "aria-label": "Status" }, ...["any status", ...new Set(cells.map((cell) => cell.status))].map((t) => make("option", {}, t)));
  const flagged = make("input", { type: "checkbox", id: "flagged" });
  const clear = make("button", { type: "button" }, "show all");
  byId("filters").append(find, kinds, states, make("label", {}, flagged, " flagged only"), clear);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const input of [find, kinds, states, flagged]) input.addEventListener("input", () => { state.limit = STEP; fillTable(); });
  clear.addEventListener("click", () => {
    Object.assign(state, { only: null, limit: STEP });
    find.value = ""; kinds.selectedIndex = 0; states.selectedIndex = 0; flagged.checked = false;
    fillTable();
  });
  byId("more").addEventListener("click", () => { state.limit += 10 * STEP; fillTable(); });

  function compare(a, b) {
    const [x, y] = [a[state.sort], b[state.sort]];
    if (x === y) return a.place - b.place;
    if (x === null) return 1;
    if (y === null) return -1;
    const order = typeof x === "string" ? x.localeCompare(y, "en") : x - y;
    return state.down ? -order : order;
  }
  function fillTable() {
    strips.clear();
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = cells.filter((cell) =>
      (!state.only || state.only.places.has(cell.place)) && (!kinds.selectedIndex || cell.kind === kinds.value) &&
      (!states.selectedIndex || cell.status === states.value) && (!flagged.checked || cell.flags) && words.every((w) => cell.search.includes(w)),
    );
    if (state.sort) found.sort(compare);
    const head = make("tr", {}, ...COLUMNS.map(([key, title, kind]) => {
      const button = make("button", { type: "button" }, title, state.sort === key ? (state.down ? " ↓" : " ↑") : "");
      button.addEventListener("click", () => {
        state.down = state.sort === key && !state.down;
        state.sort = key;
        fillTable();
        byId("table").querySelectorAll("th button")[COLUMNS.findIndex(([one]) => one === key)].focus();
      });
      const sorted = state.sort === key ? (state.down ? "descending" : "ascending") : "none";
      return make("th", { scope: "col", className: kind || "", "aria-sort": sorted }, button);
    }));
    const body = make("tbody");
    for (const cell of found.slice(0, state.limit)) {
      body.append(row(cell));
      if (state.open.has(cell.place)) body.append(more(cell));
    }
    byId("table").replaceChildren(make("thead", {}, head), body);
    const evidence = state.only ? `, evidence of ${state.only.id}` : "";
    const count = (n) => n.toLocaleString("en-US");
    byId("shown").textContent = `${count(Math.min(found.length, state.limit))} of ${count(found.length)} cells${evidence}${found.length < cells.length ? `; ${count(cells.length)} in all` : ""}`;
    byId("more").hidden = found.length <= state.limit;
    byId("more").textContent = `Show ${count(Math.min(10 * STEP, found.length - state.limit))} more`;
    for (const render of strips) drawing = drawing.then(render);
  }
  function row(cell) {
    const open = state.open.has(cell.place);
    const button = make("button", { type: "button", "aria-expanded": String(open) }, cell.label);
    button.addEventListener("click", () => {
      if (open) state.open.delete(cell.place); else state.open.add(cell.place);
      fillTable();
      const again = byId("table").querySelector(`tr[data-place="${cell.place}"] button`);
      if (again) again.focus();
    });
    const made = make("tr", {}, ...COLUMNS.map(([key, , kind]) =>
      make("td", { className: kind || "text" }, key === "label" ? button : kind ? shown(cell[key]) : cell[key])));
    made.dataset.place = cell.place;
    return made;
  }
  function more(cell) {
    const samples = page.samples[cell.place];
    const inside = make("td", { colSpan: COLUMNS.length });
    const file = page.base ? make("a", { href: `${page.base}/${cell.path.split("/").map(encodeURIComponent).join("/")}` }, cell.path) : cell.path;
    inside.append(facts([
      ["Record", cell.status === "missing" ? `${cell.path} (not measured)` : file],
      ["Ended", cell.detail],
      ["Flags", cell.notes.join("; ")],
      ["Sources", cell.stale === true ? "changed since it was measured" : ""],
    ]));
    if (samples) {
      const place = make("div", { className: "drawing strip" });
      const rows = [...samples.order].map((code, block) => {
        const [series, phase] = samples.series[code.codePointAt(0) - 48];
        return { block, series, phase, value: samples.ms[block] };
      });
      const phases = [...new Set(rows.map((one) => one.phase))];
      const phase = make("select", { "aria-label": "Phase" }, ...phases.map((name) => make("option", { value: name }, `phase: ${name}`)));
      const render = () => (place.isConnected ? draw(place, page.strip, rows.filter((one) => one.phase === phase.value)) : undefined);
      phase.addEventListener("change", render);
      inside.append(phases.length > 1 ? phase : "", place);
      strips.add(render);
    } else if (cell.kind === "speed") {
      inside.append(make("p", { className: "muted" }, "No timed blocks of this cell are at hand."));
    }
    const made = make("tr", { className: "more-of" }, inside);
    return made;
  }

  // About.
  for (const machine of page.machines) {
    byId("machines").append(make("p", {}, `${machine.name}, ${machine.system}: ${machine.cores} cores, ${machine.threads || "unknown"} threads, ${machine.records} records.`));
  }
  byId("machines").append(
    make("p", {}, [page.study.description, page.elapsed && `Measuring took ${page.elapsed}.`].filter(Boolean).join(" ")),
    make("p", { className: "muted" }, "Made from the records alone; nothing is fetched, nothing is sent. Intervals are 95 %."),
  );

  fillTable();
  redraw();
})();
