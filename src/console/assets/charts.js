// Drawings of numbers over time: stacked bars and lines, each with a table that says the same.

import { h, replace, svg } from "./dom.js";
import { count } from "./format.js";

/** How many series have a colour of their own; the rest is one, the last. */
const SERIES_MAX = 6;
const HEIGHT = 230;
const MARK_WIDTH = 60;
const EDGE = { top: 10, right: 20, bottom: 24, left: 58 };

/**
 * @typedef {Object} Series
 * @property {string} name
 * @property {number[]} values One for each place in time; `null` where there is none.
 */

/**
 * A chart.
 * @param {Object} is
 * @param {string} is.label What it shows, in words.
 * @param {string} is.kind `bars`, one on top of the other, or `lines`.
 * @param {number[]} is.at Places in time, in milliseconds.
 * @param {Series[]} is.series The weightiest first, as [weightiest] gives them.
 * @param {function(number): string} is.format Of values.
 * @param {function(number): string} is.when Of places in time.
 * @param {function(number): string} [is.mark] The same, shorter, below the axis; empty: no mark.
 * @returns {HTMLElement}
 */
export function chart(is) {
  const canvas = h("div", { class: "canvas" });
  const redraw = () => replace(canvas, drawing(is, Math.max(canvas.clientWidth, 240)));
  new ResizeObserver(redraw).observe(canvas);
  return h("figure", { class: "chart" },
    h("figcaption", null, is.series.map((series, at) => h("span", { class: "key" },
      svg("svg", { class: `series-${at}`, viewBox: "0 0 10 10", "aria-hidden": "true" },
        svg("rect", { width: 10, height: 10, rx: 2 })),
      series.name))),
    canvas, asTable(is));
}

/**
 * The weightiest of many series, and the sum of the others as one more.
 * @param {Map<string, number[]>} all
 * @returns {Series[]}
 */
export function weightiest(all) {
  const weight = (values) => values.reduce((sum, value) => sum + value, 0);
  const order = [...all].sort(([, one], [, other]) => weight(other) - weight(one));
  const series = order.slice(0, SERIES_MAX).map(([name, values]) => ({ name, values }));
  const rest = order.slice(SERIES_MAX).map(([, values]) => values);
  if (rest.length) {
    const values = rest[0].map((_, at) => rest.reduce((sum, one) => sum + one[at], 0));
    series.push({ name: `${rest.length} more`, values });
  }
  return series;
}

/** A bar that shows a share of a whole, of 1. */
export function share(part, kind) {
  const width = Math.max(0, Math.min(1, part)) * 100;
  return svg("svg", {
    class: `share ${kind ?? ""}`, viewBox: "0 0 100 6", preserveAspectRatio: "none",
    "aria-hidden": "true",
  }, svg("rect", { class: "whole", width: 100, height: 6 }), svg("rect", { width, height: 6 }));
}

function drawing(is, width) {
  const plot = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
  const ticks = ticksUpTo(highest(is));
  const y = (value) => EDGE.top + plot.height * (1 - value / ticks[ticks.length - 1]);
  const step = plot.width / Math.max(is.at.length, 1);
  const x = (place) => EDGE.left + step * place;
  const total = is.series.flatMap(({ values }) => values).filter((value) => value).length;
  const summary = total ? `${is.label}. The table below has the numbers.` : `${is.label}: nothing.`;
  return svg("svg", { role: "img", "aria-label": summary, width, height: HEIGHT },
    ticks.map((tick) => [
      svg("line", {
        class: "rule", x1: EDGE.left, x2: width - EDGE.right, y1: y(tick), y2: y(tick),
      }),
      svg("text", { x: EDGE.left - 6, y: y(tick) + 4, "text-anchor": "end" }, is.format(tick)),
    ]),
    timesBelow(is, plot.width, x, step),
    is.kind === "bars" ? bars(is, x, y, step) : lines(is, x, y, step),
    is.at.map((at, place) => svg("rect", {
      class: "probe", x: x(place), y: EDGE.top, width: step, height: plot.height,
    }, svg("title", null, probed(is, at, place)))));
}

function bars({ at, series }, x, y, step) {
  const gap = step > 5 ? Math.min(step * 0.2, 6) : 0;
  return at.map((_, place) => {
    let sum = 0;
    return series.map(({ values }, number) => {
      const value = values[place] ?? 0;
      if (!value) return null;
      sum += value;
      return svg("rect", {
        class: `series-${number}`, x: x(place) + gap / 2, width: step - gap,
        y: y(sum), height: Math.max(y(sum - value) - y(sum), 0.5),
      });
    });
  });
}

function lines({ series }, x, y, step) {
  return series.map(({ values }, number) => {
    const points = values.map((value, place) => {
      return value === null ? null : [x(place) + step / 2, y(value)];
    });
    const path = points.map((point, place) => {
      return point && `${place && points[place - 1] ? "L" : "M"}${point.join(" ")}`;
    });
    const isAlone = (place) => points[place] && !points[place - 1] && !points[place + 1];
    const dots = points.filter((_, place) => isAlone(place))
      .map(([cx, cy]) => svg("circle", { cx, cy, r: 2.5 }));
    return svg("g", { class: `series-${number} line` },
      svg("path", { d: path.filter(Boolean).join("") }), dots);
  });
}

function timesBelow({ at, when, mark }, width, x, step) {
  const marks = at.map((ms, place) => [place, (mark ?? when)(ms)]).filter(([, text]) => text);
  const room = Math.max(1, Math.floor(width / MARK_WIDTH));
  const every = Math.ceil(marks.length / room);
  return marks.filter((_, number) => number % every === 0).map(([place, text]) => {
    const at = { x: x(place) + step / 2, y: HEIGHT - 6, "text-anchor": "middle" };
    return svg("text", at, text);
  });
}

function probed({ series, format, when }, at, place) {
  const told = series.filter(({ values }) => values[place])
    .map(({ name, values }) => `${name}: ${format(values[place])}`);
  return [when(at), ...told].join("\n");
}

function highest({ kind, at, series }) {
  const of = (place) => series.map(({ values }) => values[place] ?? 0);
  const sum = (values) => values.reduce((one, other) => one + other, 0);
  const height = kind === "bars" ? sum : (values) => Math.max(0, ...values);
  return Math.max(0, ...at.map((_, place) => height(of(place))));
}

/** Round numbers from zero up to one that is not below `most`: 0, 50, 100, 150. */
function ticksUpTo(most) {
  if (most <= 0) return [0, 1];
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const steps = Math.ceil(most / step - 1e-9);
  return Array.from({ length: steps + 1 }, (_, number) => number * step);
}

function asTable({ label, at, series, format, when }) {
  const row = (ms, place) => h("tr", null, h("th", { scope: "row" }, when(ms)),
    series.map(({ values }) => {
      const value = values[place];
      return h("td", { class: "number" }, value === null ? "" : format(value));
    }));
  const make = (event) => {
    const details = event.currentTarget;
    if (!details.open || details.querySelector("table")) return;
    const region = { class: "table wide", tabindex: "0", role: "region", "aria-label": label };
    details.append(h("div", region,
      h("table", null, h("caption", { class: "unseen" }, label),
        h("thead", null, h("tr", null, h("th", { scope: "col" }, "Time"),
          series.map(({ name }) => h("th", { scope: "col", class: "number" }, name)))),
        h("tbody", null, at.map(row)))));
  };
  return h("details", { ontoggle: make },
    h("summary", null, `As a table of ${count(at.length)} rows`));
}

/**
 * Times that follow each other, each as a bar.
 * @param {Array<[string, number, number]>} parts Name, when it began, how long it took.
 * @param {number} whole How long all of it took.
 * @param {function(number): string} format
 */
export function waterfall(parts, whole, format) {
  return h("ol", { class: "waterfall" }, parts.map(([name, begun, took], at) => h("li", null,
    h("span", null, name), h("span", { class: "number" }, format(took)),
    svg("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { class: "whole", width: 1000, height: 10 }),
      svg("rect", {
        class: `series-${at % SERIES_MAX}`, x: (begun / (whole || 1)) * 1000, height: 10,
        width: Math.max((took / (whole || 1)) * 1000, 2),
      })))));
}
