// Two bar charts of the last five minutes: finished tasks and lateness.

const SLOT_SECONDS = 5;
const SLOTS = 60;
const SVG = "http://www.w3.org/2000/svg";

export class Chart {
  #slots = new Map();

  /** Count finished tasks. A summary has only their number. */
  count(data) {
    const number = data.tasks ? data.tasks.filter((task) => task.state === "done").length : data.count;
    const slot = this.#slot(Date.now());
    slot.finished += number;
    for (const task of data.tasks ?? []) {
      if (task.state === "done") {
        const late = micros(task.date_finished) - micros(task.date_started) - task.timeout * 1e6;
        slot.late = Math.max(slot.late, late / 1000);
      }
    }
  }

  #slot(now) {
    const key = Math.floor(now / 1000 / SLOT_SECONDS);
    for (const old of this.#slots.keys()) if (old <= key - SLOTS) this.#slots.delete(old);
    if (!this.#slots.has(key)) this.#slots.set(key, { finished: 0, late: 0 });
    return this.#slots.get(key);
  }

  /** Draw both charts, and describe them in words. */
  draw(throughput, throughputText, lateness, latenessText) {
    const last = Math.floor(Date.now() / 1000 / SLOT_SECONDS);
    const slots = Array.from({ length: SLOTS }, (_, index) => this.#slots.get(last - SLOTS + 1 + index));
    const rates = slots.map((slot) => (slot?.finished ?? 0) / SLOT_SECONDS);
    const lates = slots.map((slot) => slot?.late ?? 0);
    bars(throughput, rates);
    bars(lateness, lates);
    const total = slots.reduce((sum, slot) => sum + (slot?.finished ?? 0), 0);
    const most = Math.max(...rates).toLocaleString("en", { maximumFractionDigits: 1 });
    label(throughput, throughputText, `Finished: ${total.toLocaleString("en")}, at most ${most} a second`);
    const worst = Math.max(...lates).toLocaleString("en", { maximumFractionDigits: 1 });
    label(lateness, latenessText, `Lateness: at most ${worst} ms`);
  }
}

function bars(svg, values) {
  const top = Math.max(...values, 1e-9);
  while (svg.childElementCount < values.length) svg.append(document.createElementNS(SVG, "rect"));
  const width = 300 / values.length;
  values.forEach((value, index) => {
    const height = value > 0 ? Math.max((value / top) * 56, 2) : 0;
    const bar = svg.children[index];
    const places = { x: index * width + 0.5, y: 60 - height, width: width - 1, height };
    for (const [name, place] of Object.entries(places)) bar.setAttribute(name, place.toFixed(1));
  });
}

function label(svg, caption, text) {
  if (caption.textContent !== text) {
    caption.textContent = text;
    svg.setAttribute("aria-label", text);
  }
}

/** Return a date from the service in microseconds. */
function micros(date) {
  return Date.parse(`${date.slice(0, 19)}Z`) * 1000 + Number(date.slice(20, 26));
}
