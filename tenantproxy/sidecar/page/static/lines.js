import { element } from "./dom.js";

// The lines of waits and holds: p50 and p99 of the last ten seconds, drawn by uPlot and told as a text.
const KEPT = 600;
const WINDOW = 10;

// uPlot is asked for when there is something to draw: the page is there without it.
let asked = false;
function load() {
  if (asked) return;
  asked = true;
  const [style, script] = [document.createElement("link"), document.createElement("script")];
  Object.assign(style, { rel: "stylesheet", href: "page/uplot.css" });
  script.src = "page/uplot.js";
  document.head.append(style, script);
}

export class Lines {
  constructor(box, text) {
    [this.box, this.text] = [box, text];
    this.looks = [];
    this.data = [[], [], []];
    this.plot = null;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.plot?.destroy(); this.plot = null; });
    new ResizeObserver(() => this.plot?.setSize({ width: box.clientWidth, height: 180 })).observe(box);
  }

  take(at, { bounds, counts }) {
    if (this.looks.length && this.looks.at(-1).counts.length !== counts.length) this.looks = [];
    this.looks.push({ counts });
    if (this.looks.length > WINDOW + 1) this.looks.shift();
    const before = this.looks[0].counts;
    const recent = counts.map((count, number) => Math.max(0, count - before[number]));
    const [middle, high] = [quantile(bounds, recent, 0.5), quantile(bounds, recent, 0.99)];
    [at, middle, high].forEach((value, number) => {
      this.data[number].push(value);
      if (this.data[number].length > KEPT) this.data[number].shift();
    });
    const said = middle === null ? ["none in the last 10 s"]
      : [element("span", "p50", "key"), ` ${shown(middle)}, `, element("span", "p99", "key dashed"), ` ${shown(high)} in the last 10 s`];
    const text = said.map((each) => each.textContent ?? each).join("");
    if (this.text.textContent !== text) this.text.replaceChildren(...said);
    this.draw();
  }

  draw() {
    load();
    if (!window.uPlot || !this.box.clientWidth) return;
    if (this.plot) { this.plot.setData(this.data); return; }
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--edge"), width: 1 }, ticks: { stroke: colour("--edge"), width: 1 } };
    this.plot = new window.uPlot({
      width: this.box.clientWidth, height: 180, cursor: { drag: { x: false, y: false } }, legend: { show: false },
      scales: { y: { range: (_, low, high) => [0, Math.max(high ?? 0, 0.001) * 1.1] } },
      axes: [axis, { ...axis, size: 64, values: (_, values) => values.map(shown) }],
      series: [{}, { label: "p50", stroke: colour("--used"), width: 2 }, { label: "p99", stroke: colour("--wanted"), width: 2, dash: [6, 4] }],
    }, this.data, this.box);
  }
}

// Within its bucket by a straight line; null: there were none.
export function quantile(bounds, counts, share) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return null;
  let left = total * share;
  for (let number = 0; number < counts.length; number += 1) {
    if (left <= counts[number] && counts[number]) {
      const low = number ? bounds[number - 1] : 0;
      const high = number < bounds.length ? bounds[number] : low;
      return low + (high - low) * (left / counts[number]);
    }
    left -= counts[number];
  }
  return bounds.at(-1);
}

export function shown(seconds) {
  if (seconds === null || seconds === undefined) return "";
  return seconds < 0.0095 ? `${(seconds * 1000).toFixed(1)} ms` : seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}
