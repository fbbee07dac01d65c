"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") element.textContent = value;
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };

  // -- what a series looks like: a colour, a dash and a shape, the same everywhere --------------------------------------
  const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2], [12, 4], [1, 4], [6, 2, 2, 2, 2, 2]];
  const SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left"];
  const FAMILY = { base: 0, novel: 1, harmonic: 2, overall: 3 };
  const unit = (metric) => metric.match(/ AP\d*$/)?.[0] ?? "";
  const plainly = (metric) => metric.slice(0, metric.length - unit(metric).length);
  const colour = (number) => getComputedStyle(document.documentElement).getPropertyValue(`--s${number % 8}`).trim();
  const look = (number) => ({ colour: colour(number), dash: DASHES[(number + (number >> 3)) % 8], shape: SHAPES[(number + 3 * (number >> 3)) % 8] });

  const label = (run, method) => (data.runs.length === 1 ? method || run : method ? `${run} · ${method}` : run);
  const series = new Map();
  const figures = [...data.final, ...data.curves, ...data.costs];
  const bare = data.runs.filter((run) => data.losses.some((l) => l.run === run) && !figures.some((entry) => entry.run === run));
  for (const entry of [...figures, ...bare.map((run) => ({ run, method: "" }))]) {
    const name = label(entry.run, entry.method);
    if (entry.along === "steps" || entry.along === "seconds") continue;
    if (!series.has(name)) series.set(name, { run: entry.run, method: entry.method, number: series.size });
  }
  const ofRun = (run) => [...series.values()].find((one) => one.run === run)?.number ?? data.runs.indexOf(run);
  const plain = (run) => [...series.values()].some((one) => one.run === run) && ![...series.values()].some((one) => one.run === run && one.method);
  const methods = [...new Set([...series.values()].map((one) => one.method))];

  const glyph = (number, line = true, block = null) => {
    const { dash, ...looks } = look(number);
    const [fill, shape] = block ? [block, "square"] : [looks.colour, looks.shape];
    const paths = { circle: "M12 3.2a3.8 3.8 0 1 1 0 7.6a3.8 3.8 0 1 1 0-7.6z", square: "M8.6 3.6h6.8v6.8h-6.8z", "triangle-up": "M12 2.6l4.4 7.8h-8.8z", diamond: "M12 2l4.6 5-4.6 5-4.6-5z", "triangle-down": "M12 11.4l4.4-7.8h-8.8z", cross: "M10.6 2.6h2.8v3h3v2.8h-3v3h-2.8v-3h-3v-2.8h3z", "triangle-right": "M16.6 7l-7.8 4.4v-8.8z", "triangle-left": "M7.4 7l7.8 4.4v-8.8z" };
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [name, value] of Object.entries({ viewBox: "0 0 24 14", width: 24, height: 14, "aria-hidden": "true" })) svg.setAttribute(name, value);
    const draw = (tag, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      svg.append(element);
    };
    if (line) draw("line", { x1: 0, x2: 24, y1: 7, y2: 7, stroke: fill, "stroke-width": 2, "stroke-dasharray": dash.join(" ") });
    draw("path", { d: paths[shape], fill });
    return svg;
  };

  // -- filters -----------------------------------------------------------------------------------------------------------
  const shownRuns = new Set(data.runs);
  const shownMethods = new Set(methods);
  const hiddenKeys = new Map(); // of each chart, the keys that were switched off
  const shown = (entry) => shownRuns.has(entry.run) && (entry.method === undefined || shownMethods.has(entry.method) || !methods.includes(entry.method));

  const chip = (name, set, number) => {
    const input = make("input", { type: "checkbox" });
    input.checked = true;
    input.addEventListener("change", () => { input.checked ? set.add(name) : set.delete(name); update(); });
    return make("label", { class: "chip" }, input, ...(number === null ? [] : [glyph(number)]), make("span", { text: name || "(the run itself)" }));
  };
  const filters = () => {
    for (const old of document.querySelectorAll("#filters .chip")) old.remove();
    const many = data.runs.length > 1;
    for (const run of data.runs) {
      $("runs").append(chip(run, shownRuns, plain(run) ? ofRun(run) : null));
    }
    for (const method of methods) $("methods").append(chip(method, shownMethods, many ? null : ofMethod(method)));
    $("runs").hidden = !many;
    $("more").hidden = methods.length < 2;
    $("filters").hidden = !many && methods.length < 2;
    for (const box of document.querySelectorAll("#runs input")) box.checked = shownRuns.has(box.parentElement.lastChild.textContent);
    [...document.querySelectorAll("#methods input")].forEach((box, i) => { box.checked = shownMethods.has(methods[i]); });
    $("more").open = methods.length > 1 && methods.length <= 10;
  };
  const ofMethod = (method) => [...series.values()].find((one) => one.method === method).number;
  const every = (on) => {
    methods.forEach((method) => (on ? shownMethods.add(method) : shownMethods.delete(method)));
    for (const box of document.querySelectorAll("#methods input")) box.checked = on;
    update();
  };
  $("all").addEventListener("click", () => every(true));
  $("none").addEventListener("click", () => every(false));

  // -- numbers -----------------------------------------------------------------------------------------------------------
  const number = (value) => (value === null || value === undefined ? "–" : Number.isInteger(value) ? value.toLocaleString("en") : Math.abs(value) >= 1 ? value.toFixed(2) : String(+value.toPrecision(3)));
  const percent = (entry) => entry.value.toFixed(1) + (entry.ci ? ` ± ${entry.ci.toFixed(1)}` : "");
  const bytes = (value) => { let unit = 0; while (value >= 1000 && unit < 3) { value /= 1000; unit++; } return `${unit ? +value.toPrecision(3) : Math.round(value)} ${["B", "kB", "MB", "GB"][unit]}`; };
  const duration = (value) => (value < 10 ? `${+value.toPrecision(2)} s` : value < 300 ? `${value.toFixed(0)} s` : value < 7200 ? `${(value / 60).toFixed(0)} min` : `${(value / 3600).toFixed(1)} h`);

  // -- charts ------------------------------------------------------------------------------------------------------------
  const tip = $("tip");
  const tooltip = (_, event, item, value) => {
    if (!value || typeof value !== "object") { tip.hidden = true; return; }
    tip.replaceChildren();
    for (const [name, told] of Object.entries(value)) tip.append(name === "title" ? make("b", { text: told }) : make("div", {}, make("span", { text: `${name}: ${told}` })));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 6))}px`;
    tip.style.top = `${event.clientY + box.height + 22 > innerHeight ? event.clientY - box.height - 12 : event.clientY + 16}px`;
  };
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

  const config = () => {
    const css = getComputedStyle(document.documentElement);
    const [ink, muted, line] = ["--ink", "--muted", "--line"].map((name) => css.getPropertyValue(name).trim());
    const text = { labelColor: muted, titleColor: muted, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 400, gridColor: line, domain: false, tickColor: line, labelPadding: 6 };
    return { background: null, font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", view: { stroke: null }, axis: text, axisY: { ticks: false }, legend: { disable: true }, text: { color: ink }, style: { cell: { stroke: null } } };
  };
  /** How methods are called in a chart: without the run, where all are of one. */
  const naming = (entries) => {
    const alone = new Set(entries.map((entry) => entry.run)).size === 1;
    return (entry) => (alone ? entry.method || entry.run : label(entry.run, entry.method));
  };
  /** The axis of names; on a phone the run and its method have a line each. */
  const names_ = () => ({ labelFontSize: 13, ...(narrow() ? { labelExpr: "split(datum.label, ' · ')", labelFontSize: 11 } : {}) });
  const narrow = () => document.documentElement.clientWidth < 560;
  const compact = () => document.documentElement.clientWidth < 760;
  const scale = (domain, property) => ({ domain, range: domain.map((name) => property(name)) });

  /** A chart with its legend and its table. `keys`: [[name, number]]; `spec(rows)`; `columns`: [[heading, function, isNumber]]. */
  const chart = (into, id, title, rows, { keys = [], spec, columns, lines = true }) => {
    const off = hiddenKeys.get(id) ?? hiddenKeys.set(id, new Set()).get(id);
    const kept = rows.filter((row) => !off.has(row.key));
    const legend = make("div", { class: "keys", role: "group", "aria-label": "Show or hide" });
    if (keys.length > 1) {
      for (const [name, place, block] of keys) {
        const button = make("button", { type: "button", class: "key", "aria-pressed": String(!off.has(name)) }, glyph(place, lines, block), make("span", { text: name }));
        button.addEventListener("click", () => {
          off.has(name) ? off.delete(name) : off.add(name);
          update();
          const again = [...document.querySelectorAll(`[data-chart="${CSS.escape(id)}"] .key`)].find((key) => key.textContent === name);
          again?.focus();
        });
        legend.append(button);
      }
    }
    const canvas = make("div", { class: "canvas" });
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...columns.map(([heading]) => make("th", { scope: "col", text: heading })))));
    table.append(make("tbody", {}, ...kept.map((row) => make("tr", {}, ...columns.map(([, value, isNumber]) => make("td", { class: isNumber ? "n" : null, text: String(value(row)) }))))));
    const details = make("details", { class: "table" }, make("summary", { text: "Data table" }), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${title}, data` }, table));
    details.open = tables.has(id);
    details.addEventListener("toggle", () => { details.open ? tables.add(id) : tables.delete(id); });
    const figure = make("figure", { class: "chart", "data-chart": id }, make("figcaption", {}, make("span", { text: title }), legend), canvas, details);
    into.append(figure);
    if (!kept.length) { canvas.append(make("p", { class: "none", text: "Nothing is chosen." })); return; }
    const whole = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", autosize: { type: "fit-x", contains: "padding" }, description: `${title}. The data table below has the same figures.`, ...spec(kept) };
    jobs.push(() => vegaEmbed(canvas, whole, { mode: "vega-lite", renderer: "svg", actions: false, logLevel: 1, ast: true, config: config(), tooltip, loader: { load: () => Promise.reject(new Error("nothing is loaded")) } }));
  };
  const tables = new Set();
  let jobs = [];

  const accuracies = () => {
    const into = document.querySelector("#accuracy .charts");
    const rows = data.final.filter((entry) => entry.metric !== "forgetting" && shown(entry));
    // methods measured by the same metrics are beside one another; base, novel and their kin are one family
    const metricsOf = new Map();
    for (const entry of rows) {
      const name = label(entry.run, entry.method);
      metricsOf.set(name, (metricsOf.get(name) ?? new Set()).add(entry.metric));
    }
    const groups = new Map();
    for (const entry of rows) {
      const own = [...metricsOf.get(label(entry.run, entry.method))];
      const id = own.length > 1 && own.every((metric) => plainly(metric) in FAMILY) && new Set(own.map(unit)).size === 1 ? `base, novel${unit(own[0])}` : own.sort().join(", ");
      groups.set(id, [...(groups.get(id) ?? []), entry]);
    }
    for (const [id, entries] of groups) {
      const found = [...new Set(entries.map((entry) => entry.metric))];
      const family = found.every((metric) => plainly(metric) in FAMILY);
      const metrics = family ? found.sort((a, b) => FAMILY[plainly(a)] - FAMILY[plainly(b)]) : found;
      const place = (metric) => (family ? FAMILY[plainly(metric)] : metrics.indexOf(metric));
      const named = naming(entries);
      const told = entries.map((entry) => ({ ...entry, key: entry.metric, name: named(entry), low: entry.value - (entry.ci ?? 0), high: entry.value + (entry.ci ?? 0), tip: { title: label(entry.run, entry.method), [entry.metric]: percent(entry), seeds: entry.seeds, ...(entry.published === null ? {} : { published: entry.published }) } }));
      const names = [...new Set(told.map((row) => row.name))];
      const y = { field: "name", type: "nominal", sort: names, title: null, scale: { paddingInner: 0.35, paddingOuter: 0.3 }, axis: { ...names_(), labelLimit: narrow() ? 118 : 320, grid: true, tickBand: "extent" } };
      const colours = scale(metrics, (metric) => look(place(metric)).colour);
      const shapes = scale(metrics, (metric) => look(place(metric)).shape);
      chart(into, `final ${id}`, metrics.length > 1 ? metrics.slice(0, 6).join(", ") + (metrics.length > 6 ? " …" : "") : metrics[0], told, {
        keys: metrics.map((metric) => [metric, place(metric)]), lines: false,
        columns: [["", (r) => r.name], ["metric", (r) => r.metric], ["value", (r) => number(r.value), true], ["± 95 %", (r) => number(r.ci), true], ["seeds", (r) => r.seeds, true], ["published", (r) => number(r.published), true]],
        spec: (kept) => {
          const values = kept.flatMap((row) => [row.value, row.published ?? row.value]);
          const [least, most] = [Math.min(...values), Math.max(...values)];
          const inPercent = least >= 0 && most <= 100;
          const x = { field: "value", type: "quantitative", title: null, scale: inPercent ? { domain: [Math.max(0, 10 * Math.floor((least - 4) / 10)), Math.min(100, 10 * Math.ceil((most + 2) / 10))], clamp: true } : { zero: false }, axis: { grid: true, orient: names.length > 16 ? "top" : "bottom", tickCount: narrow() ? 4 : 8 } };
          const colours_ = { field: "metric", type: "nominal", scale: colours };
          const lines = new Set(kept.map((row) => row.metric)).size;
          const yOffset = lines > 1 ? { yOffset: { field: "metric", type: "nominal", sort: metrics } } : {};
          return {
            data: { values: kept }, height: new Set(kept.map((row) => row.name)).size * (lines > 1 ? 11 * lines + 10 : 26), encoding: yOffset,
            layer: [
              { mark: { type: "rule", strokeWidth: 2.2, strokeCap: "round", opacity: 0.75 }, encoding: { x: { ...x, field: "low" }, x2: { field: "high" }, y, color: colours_ } },
              { transform: [{ filter: "datum.published !== null" }], mark: { type: "tick", thickness: 2.5, size: 14 }, encoding: { x: { ...x, field: "published" }, y, color: colours_, tooltip: { field: "tip" } } },
              { mark: { type: "point", filled: true, size: 78, opacity: 1 }, encoding: { x, y, color: colours_, shape: { field: "metric", type: "nominal", scale: shapes }, tooltip: { field: "tip" } } },
            ],
          };
        },
      });
    }
  };

  /** One small chart per metric, a line per series. */
  const curves = (into, prefix, entries, { metrics, x, numbers, tips, columns }) => {
    const keys = [...new Set(entries.map((entry) => entry.key))];
    for (const metric of metrics) {
      const rows = entries.filter((entry) => entry.metric === metric);
      if (!rows.length) continue;
      const domain = keys.filter((key) => rows.some((row) => row.key === key));
      chart(into, `${prefix} ${metric}`, metric, rows.map((row) => ({ ...row, low: Math.max(0, row.value - (row.ci ?? 0)), high: Math.min(100, row.value + (row.ci ?? 0)), tip: tips(row) })), {
        keys: domain.map((key) => [key, numbers(key)]), columns,
        spec: (kept) => {
          const low = 10 * Math.floor(Math.min(...kept.map((row) => row.low)) / 10);
          const least = low < 40 ? 0 : low; // to begin elsewhere than at 0 pays only where much is gained
          const y = { field: "value", type: "quantitative", title: null, scale: { domain: [least, 100] }, axis: { tickCount: 5 } };
          const color = { field: "key", type: "nominal", scale: scale(domain, (key) => look(numbers(key)).colour) };
          return {
            data: { values: kept }, height: 210,
            encoding: { x, color },
            layer: [
              { mark: { type: "rule", strokeWidth: 1.4, opacity: 0.45 }, encoding: { y: { ...y, field: "low" }, y2: { field: "high" } } },
              { mark: { type: "line", strokeWidth: 2.4, interpolate: "linear" }, encoding: { y, strokeDash: { field: "key", type: "nominal", scale: scale(domain, (key) => (look(numbers(key)).dash.length ? look(numbers(key)).dash : [1, 0])) } } },
              { mark: { type: "point", filled: true, size: 70, opacity: 1 }, encoding: { y, shape: { field: "key", type: "nominal", scale: scale(domain, (key) => look(numbers(key)).shape) }, tooltip: { field: "tip" } } },
            ],
          };
        },
      });
    }
  };
  const ORDER = ["harmonic", "base", "novel", "overall", "accuracy"];
  const ordered = (metrics) => [...metrics].sort((a, b) => unit(a).localeCompare(unit(b)) || (ORDER.indexOf(plainly(a)) + 1 || 99) - (ORDER.indexOf(plainly(b)) + 1 || 99));

  const sessions = () => {
    const entries = data.curves.filter((entry) => entry.along === "session" && shown(entry)).map((entry) => ({ ...entry, key: label(entry.run, entry.method) }));
    const values = [...new Set(entries.map((entry) => entry.at))].sort((a, b) => a - b);
    curves(document.querySelector("#sessions .charts"), "session", entries, {
      metrics: ordered(new Set(entries.map((entry) => entry.metric))),
      x: { field: "at", type: "quantitative", title: "session", axis: { values, format: "d", grid: false }, scale: { padding: 12, nice: false } },
      numbers: (key) => series.get(key)?.number ?? 0,
      tips: (row) => ({ title: row.key, [row.metric]: percent(row), "after session": row.at, seeds: row.seeds }),
      columns: [["", (r) => r.key], ["session", (r) => r.at, true], ["value", (r) => number(r.value), true], ["± 95 %", (r) => number(r.ci), true], ["seeds", (r) => r.seeds, true]],
    });
  };

  const bars = (into, id, title, entries, format, log) => {
    const named = naming(entries);
    const many = entries.length > 10; // colours would tell nothing
    const rows = entries.map((row) => ({ ...row, key: named(row), name: named(row), number: many ? 0 : series.get(label(row.run, row.method))?.number ?? 0, said: format(row), end: row.value + (row.ci ?? 0), start: row.value - (row.ci ?? 0), tip: { title: named(row), [title]: format(row), ...(row.seeds ? { seeds: row.seeds } : {}) } }));
    const names = rows.map((row) => row.name);
    chart(into, id, title, rows, {
      columns: [["", (r) => r.name], [title, (r) => number(r.value), true], ...(rows.some((r) => r.ci) ? [["± 95 %", (r) => number(r.ci), true]] : [])],
      spec: (kept) => {
        const values = kept.map((row) => row.value);
        const y = { field: "name", type: "nominal", sort: names, title: null, axis: { ...names_(), labelLimit: narrow() ? 118 : 190 } };
        const wide = log && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 30;
        const x = { field: "value", type: "quantitative", title: wide ? "logarithmic" : null, axis: null, scale: wide ? { type: "log", domainMin: Math.min(...values) / 2, domainMax: 4 * Math.max(...values) } : { domainMin: Math.min(0, ...kept.map((row) => row.start)), domainMax: 1.25 * Math.max(1e-9, ...kept.map((row) => row.end)) } };
        const color = { field: "name", type: "nominal", scale: { domain: names, range: rows.map((row) => look(row.number).colour) } };
        const intervals = kept.some((row) => row.ci);
        return {
          data: { values: kept }, height: 27 * kept.length,
          layer: [
            { mark: wide ? { type: "point", filled: true, size: 90, opacity: 1 } : { type: "bar", cornerRadiusEnd: 4, height: { band: 0.62 } }, encoding: { x, y, color, tooltip: { field: "tip" } } },
            ...(intervals ? [{ mark: { type: "rule", strokeWidth: 1.6 }, encoding: { x: { ...x, field: "start" }, x2: { field: "end" }, y } }] : []),
            { mark: { type: "text", align: "left", dx: wide ? 10 : 8, fontSize: 12 }, encoding: { x: intervals && !wide ? { ...x, field: "end" } : x, y, text: { field: "said" } } },
          ],
        };
      },
    });
  };
  const forgetting = () => {
    const rows = data.final.filter((entry) => entry.metric === "forgetting" && shown(entry));
    if (rows.length) bars(document.querySelector("#forgetting .charts"), "forgetting", "forgetting", rows, percent, false);
  };
  const cost = () => {
    for (const [what, title, format] of [["bytes", "memory", bytes], ["seconds", "time", duration]]) {
      const rows = data.costs.filter((entry) => entry[what] !== null && shown(entry)).map((entry) => ({ ...entry, value: entry[what] }));
      if (rows.length) bars(document.querySelector("#cost .charts"), what, title, rows, (row) => format(row.value), true);
    }
  };

  // -- adaptation: what is told in a name, such as "digits, 5-shot, recall on", can be chosen ---------------------------
  const steps = data.curves.filter((entry) => entry.along === "steps" || entry.along === "seconds").map((entry) => {
    const parts = entry.method.split(", ").filter(Boolean);
    const shot = parts.find((part) => /^\d+-shot$/.test(part)) ?? "";
    const recall = parts.find((part) => /^recall (on|off)$/.test(part)) ?? "";
    const rest = parts.filter((part) => part !== shot && part !== recall).join(", ");
    return { ...entry, shot, recall, rest };
  });
  const picked = { along: "steps", shot: null, rest: null };
  const picks = () => {
    const pick = (name, title, options) => {
      if (options.length < 2) return;
      if (!options.includes(picked[name])) picked[name] = options.includes("5-shot") ? "5-shot" : options[0];
      const field = make("fieldset", {}, make("legend", { text: title }));
      for (const option of options) {
        const input = make("input", { type: "radio", name: `pick-${name}` });
        input.checked = option === picked[name];
        input.addEventListener("change", () => { picked[name] = option; update(); });
        field.append(make("label", {}, input, make("span", { text: option || "–" })));
      }
      $("picks").append(field);
    };
    pick("rest", "Data", [...new Set(steps.map((entry) => entry.rest))]);
    pick("shot", "Shots", [...new Set(steps.map((entry) => entry.shot))].sort((a, b) => parseInt(a) - parseInt(b)));
    pick("along", "Against", [...new Set(steps.map((entry) => entry.along))]);
  };
  const adaptation = () => {
    const entries = steps.filter((entry) => shownRuns.has(entry.run) && entry.along === picked.along && (picked.shot === null || entry.shot === picked.shot) && (picked.rest === null || entry.rest === picked.rest))
      .map((entry) => ({ ...entry, key: (data.runs.length > 1 && new Set(steps.map((s) => s.run)).size > 1 ? `${entry.run} · ` : "") + (entry.recall || entry.rest || "accuracy") }));
    const keys = [...new Set(entries.map((entry) => entry.key))];
    const isSteps = picked.along === "steps";
    curves(document.querySelector("#adaptation .charts"), "adaptation", entries.filter((entry) => isSteps || entry.at > 0), {
      metrics: ["novel", "base", "harmonic"].filter((metric) => entries.some((entry) => entry.metric === metric)).concat([...new Set(entries.map((e) => e.metric))].filter((m) => !["novel", "base", "harmonic"].includes(m))),
      x: { field: "at", type: "quantitative", title: isSteps ? "optimizer steps" : "processor seconds", axis: isSteps ? { values: [0, 1, 3, 10, 30, 100, 300, 1000], format: "d", grid: false } : { grid: false, tickCount: 4, format: "~g" }, scale: isSteps ? { type: "symlog", constant: 1, nice: false, padding: 10 } : { type: "log", nice: false, padding: 10 } },
      numbers: (key) => keys.indexOf(key),
      tips: (row) => ({ title: row.key, [row.metric]: percent(row), [row.along]: number(row.at), seeds: row.seeds }),
      columns: [["", (r) => r.key], [picked.along, (r) => number(r.at), true], ["value", (r) => number(r.value), true], ["± 95 %", (r) => number(r.ci), true], ["seeds", (r) => r.seeds, true]],
    });
  };

  const training = () => {
    // the stages of a run follow one another
    const ends = new Map();
    const rows = [];
    for (const entry of data.losses) {
      const at = ends.get(entry.run) ?? ends.set(entry.run, { stage: entry.stage, before: 0, last: 0 }).get(entry.run);
      if (entry.stage !== at.stage) Object.assign(at, { stage: entry.stage, before: at.before + at.last, last: 0 });
      at.last = entry.step;
      if (shownRuns.has(entry.run)) rows.push({ key: entry.run, stage: entry.stage, step: entry.step, at: at.before + entry.step, loss: entry.loss, tip: { title: entry.run, ...(entry.stage ? { stage: entry.stage } : {}), step: entry.step, loss: number(entry.loss) } });
    }
    if (!rows.length) return;
    const domain = [...new Set(rows.map((row) => row.key))];
    chart(document.querySelector("#training .charts"), "training", "loss", rows, {
      keys: domain.map((key) => [key, ofRun(key)]),
      columns: [["", (r) => r.key], ["stage", (r) => r.stage], ["step", (r) => r.step, true], ["loss", (r) => number(r.loss), true]],
      spec: (kept) => ({
        data: { values: kept }, height: 230,
        encoding: { x: { field: "at", type: "quantitative", title: "step, one stage after the other", scale: { zero: true }, axis: { grid: false, tickCount: narrow() ? 4 : 8 } }, y: { field: "loss", type: "quantitative", title: null, axis: { tickCount: 5 } }, color: { field: "key", type: "nominal", scale: scale(domain, (key) => look(ofRun(key)).colour) }, tooltip: { field: "tip" } },
        layer: [
          { mark: { type: "line", strokeWidth: 2 }, encoding: { detail: { field: "stage" }, strokeDash: { field: "key", type: "nominal", scale: scale(domain, (key) => { const dash = look(ofRun(key)).dash; return dash.length ? dash : [1, 0]; }) } } },
          { mark: { type: "point", filled: true, size: 34, opacity: 1 }, encoding: { shape: { field: "key", type: "nominal", scale: scale(domain, (key) => look(ofRun(key)).shape) } } },
        ],
      }),
    });
  };

  const kept = () => {
    for (const article of document.querySelectorAll(".memory")) {
      const at = (entry) => entry.run === article.dataset.run && String(entry.memory) === article.dataset.memory;
      const into = article.querySelector(".charts");
      into.replaceChildren();
      if (article.hidden) continue;
      const css = getComputedStyle(document.documentElement);
      const FATES = [["held", 0], ["gone", 4], ["refused", 6]].map(([fate, place]) => [fate, place, fate === "refused" ? css.getPropertyValue("--faint").trim() : colour(place)]);
      const classes = data.kept.filter(at).slice(0, 40);
      const traced = classes.some((entry) => entry.refused !== null);
      const rows = classes.flatMap((entry) => FATES.filter(([fate]) => entry[fate] !== null).map(([fate]) => ({ key: fate, label: entry.label, value: entry[fate], recalled: entry.recalled, order: FATES.findIndex(([f]) => f === fate), tip: { title: entry.label, [fate]: number(entry[fate]) } })));
      const names = classes.map((entry) => entry.label);
      const id = `${article.dataset.run} ${article.dataset.memory}`;
      const y = { field: "label", type: "nominal", sort: names, title: null, axis: { labelLimit: narrow() ? 110 : 170 } };
      if (rows.length) chart(into, `kept ${id}`, traced ? "kept and dropped, by class" : "rows by class", rows, {
        keys: traced ? FATES : [], lines: false,
        columns: [["class", (r) => r.label], ["rows", (r) => r.key], ["number", (r) => number(r.value), true]],
        spec: (some) => ({
          data: { values: some }, height: 20 * new Set(some.map((row) => row.label)).size,
          mark: { type: "bar", height: { band: 0.66 }, cornerRadius: 2 },
          encoding: { x: { field: "value", type: "quantitative", title: null, stack: "zero", axis: { tickCount: 4, format: "~s" } }, y, order: { field: "order" }, color: { field: "key", type: "nominal", scale: scale(FATES.map(([f]) => f), (f) => FATES.find(([name]) => name === f)[2]) }, tooltip: { field: "tip" } },
        }),
      });
      const often = classes.filter((entry) => entry.recalled !== null).map((entry) => ({ key: "", label: entry.label, value: entry.recalled, tip: { title: entry.label, "recalled, mean of its rows": number(entry.recalled) } }));
      if (often.length) chart(into, `recalled ${id}`, "times recalled, mean of a class", often, {
        columns: [["class", (r) => r.label], ["times", (r) => number(r.value), true]],
        spec: (some) => ({ data: { values: some }, height: 20 * new Set(some.map((row) => row.label)).size, mark: { type: "bar", height: { band: 0.66 }, cornerRadiusEnd: 3, color: look(2).colour }, encoding: { x: { field: "value", type: "quantitative", title: null, axis: { tickCount: 4 } }, y, tooltip: { field: "tip" } } }),
      });
      const spread = data.spread.filter(at).map((entry) => ({ key: "", ...entry, tip: { title: `recalled ${entry.times} times`, rows: entry.rows } }));
      if (spread.length > 1) chart(into, `spread ${id}`, "how often rows were recalled", spread, {
        columns: [["times", (r) => r.times, true], ["rows", (r) => r.rows, true]],
        spec: (some) => ({ data: { values: some }, height: 180, mark: { type: "bar", color: look(3).colour, binSpacing: 1 }, encoding: { x: { field: "times", type: "quantitative", bin: { maxbins: 24 }, title: "times recalled", axis: { format: "d" } }, y: { field: "rows", type: "quantitative", aggregate: "sum", title: "rows", axis: { tickCount: 4 } } } }),
      });
    }
  };

  // -- classes and predictions -------------------------------------------------------------------------------------------
  const find = () => {
    const word = ($("class")?.value ?? "").trim().toLowerCase();
    let any = false;
    for (const memory of document.querySelectorAll(".memory")) {
      memory.hidden = !shownRuns.has(memory.dataset.run);
      for (const group of memory.querySelectorAll(".class")) {
        group.hidden = !group.dataset.class.toLowerCase().includes(word);
        any ||= !group.hidden;
      }
    }
    if (word) for (const rows of document.querySelectorAll(".memory .rows")) rows.open = true;
    if ($("no-class")) $("no-class").hidden = any || !word;
  };
  const choose = () => {
    if (!$("kinds")) return;
    const kinds = new Set([...document.querySelectorAll("#kinds input:checked")].map((box) => box.value));
    const word = $("case-class").value.trim().toLowerCase();
    let any = false;
    let more = 0;
    const each = $("every-case").dataset.pressed ? Infinity : Math.max(2, Math.floor(12 / shownRuns.size));
    const counts = new Map();
    for (const one of document.querySelectorAll(".case")) {
      const classes = one.dataset.classes.toLowerCase().split("\n");
      one.hidden = !shownRuns.has(one.dataset.run) || !kinds.has(one.dataset.kind) || !classes.some((name) => name.includes(word));
      any ||= !one.hidden;
      if (one.hidden) continue;
      const kind = `${one.dataset.kind} ${one.dataset.run}`;
      const count = counts.set(kind, (counts.get(kind) ?? 0) + 1).get(kind);
      if (count > Math.max(1, each / kinds.size)) { one.hidden = true; more++; }
    }
    $("no-case").hidden = any;
    $("every-case").hidden = !more;
    $("every-case").textContent = `Show ${more} more`;
  };
  $("class")?.addEventListener("input", find);
  $("case-class")?.addEventListener("input", choose);
  $("kinds")?.addEventListener("change", choose);
  $("every-case")?.addEventListener("click", () => { $("every-case").dataset.pressed = "1"; choose(); });
  for (const image of document.images) {
    const tiny = () => { if (image.naturalWidth && image.naturalWidth < 40) image.classList.add("tiny"); };
    image.complete ? tiny() : image.addEventListener("load", tiny);
  }

  // -- all of it ---------------------------------------------------------------------------------------------------------
  const update = () => {
    jobs = [];
    tip.hidden = true;
    const height = document.body.style.minHeight;
    document.body.style.minHeight = `${document.body.scrollHeight}px`; // the page must not jump while it is drawn anew
    for (const block of document.querySelectorAll(".block > .charts")) block.replaceChildren();
    $("picks").replaceChildren();
    find();
    choose();
    picks();
    for (const draw of [accuracies, sessions, forgetting, adaptation, cost, training, kept]) draw();
    for (const id of ["accuracy", "sessions", "forgetting", "adaptation", "cost", "training"]) $(id).hidden = !$(id).querySelector(".chart");
    for (const link of document.querySelectorAll("nav a[data-for]")) { const target = $(link.dataset.for); link.hidden = !target || target.hidden; }
    for (const part of document.querySelectorAll(".card, .settings")) part.hidden = !shownRuns.has(part.dataset.run);
    $("chosen").textContent = `${methods.filter((m) => shownMethods.has(m)).length} of ${methods.length}`;
    const mine = jobs;
    Promise.all(mine.map((job) => job())).then(() => { if (jobs === mine) { document.body.style.minHeight = height; document.documentElement.dataset.drawn = String(+(document.documentElement.dataset.drawn ?? 0) + 1); } });
  };

  const system = matchMedia("(prefers-color-scheme: dark)");
  const THEMES = ["auto", "light", "dark"];
  let theme = "auto";
  const paint = () => {
    document.documentElement.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
    $("theme").lastElementChild.textContent = theme[0].toUpperCase() + theme.slice(1);
    $("theme").setAttribute("aria-label", `Colours: ${theme === "auto" ? "as the system" : theme}`);
    for (const place of document.querySelectorAll(".swatch")) {
      place.replaceChildren();
      if (plain(place.dataset.swatch)) place.append(glyph(ofRun(place.dataset.swatch), false));
    }
    filters();
    update();
  };
  $("theme").addEventListener("click", () => { theme = THEMES[(THEMES.indexOf(theme) + 1) % 3]; paint(); });
  system.addEventListener("change", () => { if (theme === "auto") paint(); });
  let before = compact();
  addEventListener("resize", () => { if (compact() !== before) { before = compact(); update(); } });
  paint();
})();
