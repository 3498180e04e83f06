// Two bar charts of the last five minutes: what was finished, and the lateness.

const SLOT_SECONDS = 5;
const SLOTS = 60;
const HEIGHT = 60;
const WIDTH = 300;
const SVG = "http://www.w3.org/2000/svg";

export class Chart {
  #slots = new Map();

  /** Count finished tasks, cancelled ones included. A summary has only their number. */
  count(data) {
    const slot = this.#slot(Date.now());
    slot.finished += data.tasks ? data.tasks.length : data.count;
    for (const task of data.tasks ?? []) {
      if (task.state === "done") {
        const late = micros(task.date_finished) - micros(task.date_started) - task.timeout * 1e6;
        slot.late = Math.max(slot.late ?? 0, late / 1000);
      }
    }
  }

  /** Forget everything: it was another queue. */
  clear() {
    this.#slots.clear();
  }

  #slot(now) {
    const key = Math.floor(now / 1000 / SLOT_SECONDS);
    for (const old of this.#slots.keys()) if (old <= key - SLOTS) this.#slots.delete(old);
    if (!this.#slots.has(key)) this.#slots.set(key, { finished: 0, late: null });
    return this.#slots.get(key);
  }

  /** Draw both charts, and describe them in words; `why` says why nothing was finished. */
  draw(throughput, lateness, why) {
    const last = Math.floor(Date.now() / 1000 / SLOT_SECONDS);
    const slots = Array.from({ length: SLOTS }, (_, index) => this.#slots.get(last - SLOTS + 1 + index));
    const rates = slots.map((slot) => (slot?.finished ?? 0) / SLOT_SECONDS);
    const lates = slots.map((slot) => slot?.late ?? 0);
    const total = slots.reduce((sum, slot) => sum + (slot?.finished ?? 0), 0);
    const isTold = slots.some((slot) => slot && slot.late !== null);
    plot(throughput, rates, "/s", total > 0 ? "" : why, () => `Finished: ${number(total)}, at most ${number(Math.max(...rates))} a second`);
    const whyNot = "Not told: so many were finished that only their number was, or all were cancelled.";
    plot(lateness, lates, " ms", isTold ? "" : total > 0 ? whyNot : why, () => `Lateness: at most ${number(Math.max(...lates))} ms`);
  }
}

/** Draw bars up to a round number, or say why there are none. */
function plot(figure, values, unit, why, words) {
  const top = round(Math.max(...values));
  const svg = figure.querySelector("svg");
  bars(svg, values, top);
  set(figure.querySelector(".top"), why ? "" : `${number(top)}${unit}`);
  set(figure.querySelector(".why"), why);
  const text = why ? figure.id[0].toUpperCase() + figure.id.slice(1) : words();
  set(figure.querySelector("figcaption"), text);
  if (svg.getAttribute("aria-label") !== text) svg.setAttribute("aria-label", text);
}

function bars(svg, values, top) {
  while (svg.childElementCount < values.length) svg.append(document.createElementNS(SVG, "rect"));
  const width = WIDTH / values.length;
  values.forEach((value, index) => {
    const height = value > 0 ? Math.max((value / top) * HEIGHT, 2) : 0;
    const bar = svg.children[index];
    const places = { x: index * width + 0.5, y: HEIGHT - height, width: width - 1, height };
    for (const [name, place] of Object.entries(places)) bar.setAttribute(name, place.toFixed(1));
  });
}

/** Return the next 1, 2 or 5 times a power of ten. */
function round(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value) ?? value;
}

function number(value) {
  return value.toLocaleString("en", { maximumFractionDigits: value < 1 ? 2 : 1 });
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Return a date from the service in microseconds. */
function micros(date) {
  return Date.parse(`${date.slice(0, 19)}Z`) * 1000 + Number(date.slice(20, 26));
}
