"use strict";
// The page of nearkv report: draws the charts with Vega, filters tables, opens what is folded for
// print. All texts from data go in as text, never as markup.

// -- Small helpers -----------------------------------------------------------------------------

function create(name, properties, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties || {})) {
    made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function dataOf(id) {
  const script = document.getElementById(id);
  return script ? JSON.parse(script.textContent) : null;
}

function significant(value, digits = 4) {
  if (value === null || value === undefined) return "-";
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  return size < -4 || size > 8
    ? value.toExponential(digits - 1)
    : value.toFixed(Math.max(0, digits - 1 - size));
}

const LARGE = [[1e12, "T", "trillion"], [1e9, "G", "billion"], [1e6, "M", "million"]];
const SMALL = [[1e-3, "m"], [1e-6, "u"], [1e-9, "n"]];

// A number with its unit, as report_html.py has it: "5.42 GB/s", "320 ns", "32.3 million".
function quantity(value, unit, digits = 4) {
  const isBare = !unit || unit === "1";
  const size = Math.abs(value ?? 0);
  const [factor, prefix] = SMALL.find(([least]) => size >= least) || SMALL[2];
  if (["s", "J"].includes(unit) && size > 0 && size < 1e-3) {
    return `${significant(value / factor, digits)} ${prefix}${unit}`;
  }
  const large = LARGE.find(([least]) => size >= least);
  if (!large) return withUnit(significant(value, digits), unit);
  return `${significant(value / large[0], digits)} ${isBare ? large[2] : large[1] + unit}`;
}

const withUnit = (text, unit) => (unit && unit !== "1" ? `${text} ${unit}` : text);
const titleOf = (name, unit) => (unit && unit !== "1" ? `${name} [${unit}]` : name);

// -- Tables that are filtered ------------------------------------------------------------------

function setUpFilter(controls) {
  const rows = [...document.querySelectorAll(`#${CSS.escape(controls.dataset.table)} tbody tr`)];
  const texts = rows.map((row) =>
    `${row.textContent} ${row.dataset.words || ""}`.toLowerCase());
  const search = controls.querySelector("input");
  const buttons = [...controls.querySelectorAll("button")];
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kinds = new Set(buttons.filter((one) => one.getAttribute("aria-pressed") === "true")
      .map((one) => one.dataset.kind));
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !(kinds.has(row.dataset.kind) && words.every((word) => texts[i].includes(word)));
      shown += row.hidden ? 0 : 1;
    });
    controls.querySelector("output").textContent = `${shown} of ${rows.length}`;
  };
  search.addEventListener("input", apply);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      apply();
    });
  }
  apply();
  return () => {
    search.value = "";
    buttons.forEach((button) => button.setAttribute("aria-pressed", "true"));
    apply();
  };
}

// -- Vega --------------------------------------------------------------------------------------

function loadVega() {
  const loaded = {};
  const require = (name) => {
    if (!(name in loaded)) {
      const module = { exports: {} };
      vegaModules[name](module.exports, module, require);
      loaded[name] = module.exports;
    }
    return loaded[name];
  };
  const { transforms } = require("vega-dataflow");
  for (const name of ["vega-transforms", "vega-view-transforms", "vega-encode"]) {
    Object.assign(transforms, require(name));
  }
  return {
    parse: require("vega-parser").parse,
    View: require("vega-view").View,
    interpreter: require("vega-interpreter").expressionInterpreter,
  };
}

const tip = document.getElementById("tip");

function showTip(handler, event, item, value) {
  if (!value) {
    tip.hidden = true;
    return;
  }
  tip.replaceChildren(create("b", {}, value.head), ...value.lines.map((line) =>
    create("div", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, window.innerWidth - width - 8);
  const below = event.clientY + 16;
  const top = below + height > window.innerHeight ? event.clientY - height - 12 : below;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, top)}px`;
}

// All charts are as wide as their sections. Measured once, as each measurement lays the page out.
const measured = { window: 0, chart: 0 };

function chartWidth(box) {
  if (measured.window !== window.innerWidth) {
    measured.window = window.innerWidth;
    measured.chart = box.clientWidth;
  }
  return measured.chart;
}

// A chart: its place in the page, and what is drawn there now.
class Chart {
  constructor(vega, place, specification, description) {
    this.vega = vega;
    this.specification = specification;
    this.description = description;
    this.box = create("div", { class: "view" });
    place.append(this.box);
  }

  // `signals` by name, `points` and `groups` of the data sets, `scales` to change by name, least
  // width.
  draw({ signals, points, groups = [], scales = {}, leastWidth = 0 }) {
    const specification = structuredClone(this.specification);
    specification.description = this.description;
    specification.width = Math.max(chartWidth(this.box) - 2, leastWidth, 240);
    specification.signals = specification.signals.map((signal) =>
      signal.name in signals ? { name: signal.name, value: signals[signal.name] } : signal);
    specification.scales = specification.scales.map((scale) => ({ ...scale,
      ...scales[scale.name] }));
    specification.data[0].values = points;
    if (specification.data[1]) specification.data[1].values = groups;
    if (this.view) this.view.finalize();
    this.view = new this.vega.View(this.vega.parse(specification, null, { ast: true }), {
      expr: this.vega.interpreter,
      renderer: "svg",
      container: this.box,
      hover: true,
      tooltip: showTip,
      logLevel: 1,
    });
    this.view.run();
  }
}

// Ends of a value axis: decades on a log axis with room above, from zero on a linear one.
function valueDomain(values, isLog) {
  if (values.length === 0) return [1, 10];
  const highest = Math.max(...values);
  const lowest = Math.min(...values);
  if (isLog) return [10 ** Math.floor(Math.log10(lowest / 1.3)), highest * 1.5];
  return [Math.min(0, lowest * 1.08), Math.max(highest * 1.08, 0) || 1];
}

// Whole decades, and 2 and 5 between them where there are few; null leaves a linear axis to Vega.
function ticksOf([low, high], isLog) {
  if (!isLog) return null;
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const steps = last - first > 4 ? [1] : [1, 2, 5];
  const every = Math.ceil((last - first) / 12);
  const ticks = [];
  for (let decade = first; decade <= last; decade += every) {
    ticks.push(...steps.map((step) => Number(`${step}e${decade}`)));
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

function spansDecades(values) {
  const lowest = Math.min(...values);
  return values.length > 1 && lowest > 0 && Math.max(...values) / lowest > 10;
}

// -- Legends -----------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function createSvg(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Hatched colours, shared by all charts; fillOf() makes each when it is first needed.
class Patterns {
  constructor({ hatches, ink }) {
    this.hatches = hatches;
    this.ink = ink;
    this.made = new Map();
    this.defs = createSvg("defs", {});
    document.body.append(createSvg("svg", { width: 0, height: 0, "aria-hidden": "true",
      style: "position:absolute" }, this.defs));
  }

  fillOf(colour, hatch) {
    if (!this.hatches[hatch]) return colour;
    const key = colour + hatch;
    if (!this.made.has(key)) {
      const id = `hatch-${this.made.size}`;
      this.defs.append(createSvg("pattern", { id, width: 8, height: 8,
        patternUnits: "userSpaceOnUse" },
      createSvg("rect", { width: 8, height: 8, fill: colour }),
      createSvg("path", { d: this.hatches[hatch], stroke: this.ink, "stroke-width": 0.7,
        "stroke-linecap": "round", fill: "none" })));
      this.made.set(key, `url(#${id})`);
    }
    return this.made.get(key);
  }
}

// Buttons that show and hide the entries {name, label, fill}; `changed` gets the names shown.
function addLegend(place, entries, what, changed) {
  const shown = new Set(entries.map((entry) => entry.name));
  const legend = create("div", { class: "controls legend", role: "group",
    "aria-label": `Show or hide ${what}` });
  const buttons = entries.map((entry) => {
    const swatch = createSvg("svg", { class: "swatch", viewBox: "0 0 18 14",
      "aria-hidden": "true" },
    createSvg("rect", { width: 18, height: 14, fill: entry.fill }));
    const button = create("button", { type: "button", "aria-pressed": "true",
      title: "click: show or hide; double click: this one alone" }, swatch, entry.label);
    button.addEventListener("click", (event) => {
      // The second click of a double click.
      if (event.detail === 2) {
        entries.forEach((one) => shown.delete(one.name));
        shown.add(entry.name);
      } else if (!shown.delete(entry.name)) {
        shown.add(entry.name);
      }
      if (shown.size === 0) entries.forEach((one) => shown.add(one.name));
      buttons.forEach((one, i) =>
        one.setAttribute("aria-pressed", String(shown.has(entries[i].name))));
      changed(entries.map((one) => one.name).filter((name) => shown.has(name)));
    });
    return button;
  });
  legend.append(...buttons);
  place.append(legend);
  return legend;
}

// -- Charts of figures -------------------------------------------------------------------------

function metricSelect(metrics, chosen, changed) {
  const select = create("select", { "aria-label": "What is shown" });
  const groups = new Map();
  metrics.forEach((metric, i) => {
    const group = metric.name.includes("/") ? metric.name.split("/")[0] : "";
    if (!groups.has(group)) {
      groups.set(group, group ? create("optgroup", { label: group }) : select);
      if (group) select.append(groups.get(group));
    }
    groups.get(group).append(create("option", { value: i, title: metric.doc },
      titleOf(metric.label, metric.unit)));
  });
  select.value = String(chosen);
  select.addEventListener("change", () => changed(Number(select.value)));
  return select;
}

function barPoints(data, metric, fills, shown, labels) {
  const { name, label, unit } = data.metrics[metric];
  const isBounded = name === data.bounded;
  return data.points.filter(([series]) => shown.includes(series)).map(
    ([series, at, problem, values, low, high]) => {
      const value = problem ? null : values[metric];
      const hasEnds = isBounded && low !== null && high !== null && value !== null;
      const lines = value === null ? [problem || "no such number"]
        : [`${label}: ${quantity(value, unit)}`];
      if (hasEnds && high > low) {
        lines.push(`${quantity(low, unit)} to ${quantity(high, unit)}: ${data.interval}`);
      }
      return {
        series, at, value, fill: fills[series], short: problem,
        low: hasEnds ? Math.min(low, value) : value, high: hasEnds ? Math.max(high, value) : value,
        head: `${labels[series]}, ${data.axis.name} ${at}`, lines,
      };
    });
}

function drawBars(chart, data, metric, points, shown) {
  const values = points.flatMap((point) => (point.value === null ? [] : [point.value, point.low,
    point.high])).filter(Number.isFinite);
  const isLog = spansDecades(values);
  const domain = valueDomain(values, isLog);
  const { label, unit } = data.metrics[metric];
  chart.draw({
    signals: { domain, ticks: ticksOf(domain, isLog), at_values: data.axis.values, shown,
      x_title: titleOf(data.axis.name, data.axis.unit), y_title: titleOf(label, unit) },
    scales: { y: isLog ? { type: "log" } : { type: "linear" } },
    points: points.map((point) => (point.value === null
      ? { ...point, low: domain[0], high: domain[0] } : point)),
    leastWidth: 80 + 9 * shown.length * data.axis.values.length,
  });
}

function setUpBars(place, chart, data, patterns) {
  const fills = Object.fromEntries(data.series.map((one) =>
    [one.name, patterns.fillOf(one.colour, one.hatch)]));
  const labels = Object.fromEntries(data.series.map((one) => [one.name, one.label]));
  let { metric } = data;
  let shown = data.series.map((one) => one.name);
  const redraw = () =>
    drawBars(chart, data, metric, barPoints(data, metric, fills, shown, labels), shown);
  const legend = addLegend(place, data.series.map((one) => ({ ...one, fill: fills[one.name] })),
    "systems", (names) => {
      shown = names;
      redraw();
    });
  legend.append(create("label", {}, "shown: ", metricSelect(data.metrics, metric, (chosen) => {
    metric = chosen;
    redraw();
  })));
  return redraw;
}

// Words in lines of at most so many characters, a longer word in a line of its own.
function wrapped(text, most) {
  const lines = [];
  for (const word of text.split(" ")) {
    const last = lines.at(-1);
    if (last !== undefined && `${last} ${word}`.length <= most) lines.splice(-1, 1, `${last} ${word}`);
    else lines.push(word);
  }
  return lines;
}

const LEAST_STACK_BAR = 26;

// The bars of each series, with a gap between two series, and the series' labels below.
function stackPlaces(bars, width) {
  const names = [];
  const groups = [];
  for (const bar of bars) {
    const group = groups.at(-1);
    if (group && group.series === bar.series) {
      group.last = bar.name;
    } else {
      if (group) names.push(`gap ${groups.length}`);
      groups.push({ series: bar.series, first: bar.name, last: bar.name });
    }
    names.push(bar.name);
  }
  const step = Math.max(width - 60, LEAST_STACK_BAR * names.length) / names.length;
  for (const group of groups) {
    const count = names.indexOf(group.last) - names.indexOf(group.first) + 2;
    group.label = wrapped(group.series, Math.floor((count * step) / 7));
  }
  return { names, groups };
}

// A bar a point, of the shares in "share/..." of its time.
function setUpStack(place, chart, data) {
  const parts = data.parts.map((part) => ({ ...data.metrics[part.metric], i: part.metric,
    label: part.label, fill: part.colour }));
  const labels = Object.fromEntries(data.series.map((one) => [one.name, one.label]));
  const bars = data.points.map(([series, at, problem, values]) => ({ problem, values,
    series: labels[series], name: `${labels[series]}|${at}`,
    head: `${labels[series]}, ${data.axis.name} ${at}` }));
  let shown = parts.map((part) => part.name);
  const partsOf = (bar) => parts.filter((part) => shown.includes(part.name)
    && bar.values[part.i] !== null).map((part) => ({
    at: bar.name, order: part.i, value: bar.values[part.i], fill: part.fill, head: bar.head,
    lines: [`${part.label}: ${significant(100 * bar.values[part.i], 3)} %`, part.doc],
  }));
  const redraw = () => {
    const points = bars.flatMap((bar) => (bar.problem
      ? [{ at: bar.name, order: 0, value: null, short: bar.problem, head: bar.head,
        lines: [bar.problem] }]
      : partsOf(bar)));
    const sums = bars.map((bar) => points.filter((point) => point.at === bar.name)
      .reduce((sum, point) => sum + point.value, 0));
    const { names, groups } = stackPlaces(bars, chartWidth(chart.box));
    chart.draw({
      signals: { domain: [0, Math.max(...sums, 0.01)], at_values: names,
        label_lines: Math.max(...groups.map((group) => group.label.length)),
        x_title: `${titleOf(data.axis.name, data.axis.unit)}, system`, y_title: "share of time" },
      points,
      groups,
      leastWidth: 60 + LEAST_STACK_BAR * names.length,
    });
  };
  addLegend(place, parts, "parts", (names) => {
    shown = names;
    redraw();
  });
  return redraw;
}

// -- Charts of claims and of the validation ----------------------------------------------------

const PASS = "#005a9c";
const MISS = "#a62000";

function setUpRatios(place, chart, data) {
  const points = data.points.map(([id, value, role, passes, tolerance, paper, ours, text,
    anchor]) => {
    const colour = passes ? PASS : MISS;
    return {
      id, value, low: 1 - tolerance, high: 1 + tolerance, href: `#${anchor}`,
      fill: role === "test" ? colour : "#ffffff", stroke: colour,
      shape: passes ? "circle" : "diamond",
      head: `${id}: ${passes ? "pass" : "MISS"} (${role})`,
      lines: [text, `paper ${paper}, ours ${ours}, ratio ${significant(value, 3)}`],
    };
  });
  const values = points.map((point) => point.value);
  const domain = [Math.min(0.5, ...values) / 1.2, Math.max(2, ...values) * 1.2];
  return () => chart.draw({
    signals: { domain, ticks: ticksOf(domain, true), at_values: points.map((point) => point.id),
      y_title: "ours / paper" },
    points,
    leastWidth: 80 + 13 * points.length,
  });
}

function setUpScatter(place, chart, data) {
  const suites = Object.fromEntries(data.series.map((one) => [one.name, one]));
  let shown = data.series.map((one) => one.name);
  const redraw = () => {
    const points = data.points.filter(([suite]) => shown.includes(suite)).map(
      ([suite, id, role, x, y, reference, simulated, error]) => ({
        x, y, stroke: suites[suite].colour, shape: suites[suite].shape,
        fill: role === "test" ? suites[suite].colour : "#ffffff",
        head: `${suite}: ${id} (${role})`,
        lines: [`reference ${reference}, simulated ${simulated}`, error],
      }));
    const values = points.flatMap((point) => [point.x, point.y]);
    const domain = [Math.min(...values) / 2, Math.max(...values) * 2];
    chart.draw({
      signals: { domain, ticks: ticksOf(domain, true),
        x_title: "reference (s, GB, GB/s, token/s or a ratio)", y_title: "simulated" },
      points,
    });
  };
  addLegend(place, data.series.map((one) => ({ ...one, fill: one.colour })), "suites",
    (names) => {
      shown = names;
      redraw();
    });
  return redraw;
}

// -- Start -------------------------------------------------------------------------------------

const SET_UP = { bars: setUpBars, stack: setUpStack, ratios: setUpRatios, scatter: setUpScatter };

function setUpCharts() {
  const all = dataOf("chart-data");
  if (!all) return;
  const specifications = dataOf("chart-specifications");
  const patterns = new Patterns(dataOf("chart-patterns"));
  const vega = loadVega();
  document.documentElement.classList.add("drawn");
  const redraws = [];
  const draw = (place) => {
    const data = all[place.dataset.chart];
    const head = create("div", {});
    place.append(head);
    const chart = new Chart(vega, place, specifications[data.kind],
      place.getAttribute("aria-label"));
    const redraw = SET_UP[data.kind](head, chart, data, patterns);
    redraw();
    redraws.push(redraw);
    const picture = place.parentElement.querySelector(".picture");
    if (picture && !picture.classList.contains("kept")) {
      picture.open = false;
      picture.classList.add("replaced");
    }
    document.documentElement.dataset.charts = redraws.length;
  };
  // Charts are drawn when their section comes near, the others one by one when nothing else is to
  // be done, and all that are left for print.
  const waiting = new Set([...document.querySelectorAll(".chart")].filter((place) =>
    place.dataset.chart in all));
  const drawIn = (section) => {
    for (const place of waiting) {
      if (section.contains(place)) {
        waiting.delete(place);
        draw(place);
      }
    }
  };
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      observer.unobserve(entry.target);
      drawIn(entry.target);
    }
  }, { rootMargin: "800px" });
  new Set([...waiting].map((place) => place.closest("section"))).forEach((section) =>
    observer.observe(section));
  const whenIdle = window.requestIdleCallback || ((act) => setTimeout(act, 30));
  const drawNext = () => {
    const [next] = waiting;
    if (!next) return;
    drawIn(next);
    whenIdle(drawNext);
  };
  whenIdle(drawNext);
  let width = window.innerWidth;
  let timer = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(timer);
    timer = setTimeout(() => redraws.forEach((redraw) => redraw()), 150);
  });
  window.addEventListener("beforeprint", () => drawIn(document.body));
}

const resets = new Map([...document.querySelectorAll(".filter")].map((controls) =>
  [controls.dataset.table, setUpFilter(controls)]));

// Opens what is folded around the target of a link, and shows a row that a filter hides.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  const filtered = target.closest("table");
  if (target.hidden && filtered && resets.has(filtered.id)) resets.get(filtered.id)();
  for (let box = target; box; box = box.parentElement) {
    if (box.tagName === "DETAILS") box.open = true;
  }
  target.scrollIntoView();
  // Sections above were laid out only then.
  requestAnimationFrame(() => target.scrollIntoView());
}
window.addEventListener("hashchange", reveal);

const opened = [];
window.addEventListener("beforeprint", () => {
  for (const box of document.querySelectorAll("details:not([open]):not(.replaced, .brief)")) {
    box.open = true;
    opened.push(box);
  }
});
window.addEventListener("afterprint", () => {
  opened.splice(0).forEach((box) => {
    box.open = false;
  });
});

if (window.matchMedia("(max-width: 75rem)").matches) {
  document.querySelector("#contents details").open = false;
}
// The text can be read before the charts are there.
setTimeout(() => {
  setUpCharts();
  if (location.hash) reveal();
}, 0);
