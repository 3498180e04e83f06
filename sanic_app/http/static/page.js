// The page listens to the events. After each message, heartbeats included, it asks the service for all
// that it shows, at most four times a second. Between two answers it counts the seconds by itself.

import { Chart } from "./chart.js";
import { Refused, Service } from "./service.js";

const WINDOW = 50; // how many tasks of the queue are shown
const RESULTS = 20;
const PAGE = 1000; // the longest page of results
const LOOK_MS = 250; // the shortest time between two requests for what is shown
const RETRY_MS = 1000;
const HIDDEN_MS = 5000; // how often a tab that nobody sees looks
const TICK_MS = 100;

const $ = (id) => document.getElementById(id);
const service = new Service();
const chart = new Chart();
const state = {
  figures: null, tasks: [], untilDue: null, lookedAt: 0,
  cursor: "", // the id of the last message
  resultsAfter: 0n, // the shown results are behind this history number
  lost: false, listening: false,
};

// Asking the service.

let looking = false;
let again = false;
let retry = 0;

/** Ask for what is shown: now, or LOOK_MS after the last time. */
async function look() {
  if (looking) {
    again = true;
    return;
  }
  looking = true;
  try {
    do {
      again = false;
      await lookOnce();
      if (state.listening) found();
      await sleep(LOOK_MS);
    } while (again);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) askForToken();
    else {
      // Its store may be away: the stream goes on then.
      if (error instanceof Refused) lose(error.message);
      clearTimeout(retry);
      retry = setTimeout(look, RETRY_MS);
    }
  } finally {
    looking = false;
  }
}

async function lookOnce() {
  const figures = await service.ask("GET", "/api/v1/queue");
  const { tasks } = await service.ask("GET", `/api/v1/tasks?limit=${WINDOW}`);
  const untilDue = figures.head === null ? null : await secondsUntilDue(figures.head.history_num);
  const lookedAt = performance.now();
  const last = tasks.length > 0 ? BigInt(tasks[0].history_num) - 1n : lastAdded(state.cursor);
  const results = await latestResults(last);
  Object.assign(state, { figures, tasks, untilDue, lookedAt });
  showAll(results.reverse());
}

/** Return null also when the task was finished since, and retention has removed it already. */
async function secondsUntilDue(number) {
  try {
    return (await service.ask("GET", `/api/v1/tasks/${number}`)).seconds_until_due;
  } catch (error) {
    if (error instanceof Refused && error.status === 410) return null;
    throw error;
  }
}

/** Return the last history number that an event's id tells: `<lineage>.<added>.<finished>`. */
function lastAdded(id) {
  return BigInt(id.split(".").at(-2) ?? 0);
}

function lineage(id) {
  return id.split(".")[0];
}

/**
 * Return the newest results, in order. Pages begin with their oldest, so where to begin is searched:
 * behind `few` there are not enough, behind `many` there are more than a page has.
 */
async function latestResults(last) {
  let many = state.resultsAfter < last ? state.resultsAfter : 0n;
  let few = last;
  let distance = 200n;
  for (;;) {
    const after = last - many > distance ? last - distance : many;
    const { results } = await service.ask("GET", `/api/v1/results?limit=${PAGE}&after=${after}`);
    if (results.length < RESULTS && after > many) {
      few = after;
      distance = distance * 2n < last - many ? distance * 2n : last - many;
    } else if (results.length < PAGE || few - after <= 1n) {
      const newest = results.slice(-RESULTS);
      state.resultsAfter = newest.length < RESULTS ? 0n : BigInt(newest[0].history_num) - 1n;
      return newest;
    } else {
      many = after;
      distance = last - (many + few) / 2n;
    }
  }
}

let stream = new AbortController();
let turned = () => {};
document.addEventListener("visibilitychange", () => {
  stream.abort();
  turned();
});

/**
 * Listen for ever, and look after each message. A tab that nobody sees only looks now and then: a
 * browser has six connections to the service for all its tabs, and a stream keeps one.
 */
async function listen() {
  let after = "";
  for (;;) {
    if (document.hidden) {
      // What happens unseen is not told later: the charts would have it happen then.
      after = "";
      look();
      await Promise.race([sleep(HIDDEN_MS), new Promise((resolve) => (turned = resolve))]);
      if (!$("token").hidden) return;
      continue;
    }
    stream = new AbortController();
    try {
      for await (const message of service.events(after, stream)) {
        if (!state.listening) found();
        state.listening = true;
        if (!after && lineage(message.id) !== lineage(state.cursor || message.id)) startOver("another");
        after = state.cursor = message.id || state.cursor;
        if (message.kind === "finished") chart.count(message.data);
        if (message.kind === "reset") startOver(message.data.reason);
        if (message.kind === "paused") speak("The queue is paused.");
        if (message.kind === "resumed") speak("The queue is resumed.");
        look();
      }
      lose("The service ended the connection.");
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        askForToken();
        return;
      }
      if (!document.hidden) lose(error instanceof Refused ? error.message : "The service does not answer.");
    }
    state.listening = false;
    if (!document.hidden) await sleep(RETRY_MS);
  }
}

/** Forget what is not true any more after a reset. What is shown is asked for anew anyway. */
function startOver(reason) {
  state.resultsAfter = 0n;
  if (reason !== "another") return;
  chart.clear();
  speak("This is another queue now.");
}

function lose(text) {
  $("lost").textContent = `Disconnected. ${text} Trying again. This page shows old data.`;
  if (!state.lost) speak("Disconnected from the service.");
  state.lost = true;
  $("lost").hidden = false;
  $("main").classList.add("stale");
}

function found() {
  if (state.lost) speak("Connected again.");
  state.lost = false;
  $("lost").hidden = true;
  $("main").classList.remove("stale");
}

// Showing.

function showAll(results) {
  const { figures, tasks } = state;
  const head = figures.head;
  set($("head"), head ? `Task ${head.history_num}: number ${head.num}` : nothing(figures));
  if (head === null && document.activeElement === $("cancel-head")) $("head").focus();
  $("cancel-head").hidden = head === null;
  $("paused").hidden = !figures.paused;
  set($("switch"), figures.paused ? "Resume" : "Pause");
  set($("depth"), figures.depth.toLocaleString("en"));
  set($("window"), windowText(figures.depth, tasks.length));
  document.title = `${figures.paused ? "Paused · " : ""}${figures.depth.toLocaleString("en")} · sanic-app`;
  showTasks();
  rows($("tasks"), tasks, taskRow);
  rows($("results"), results, resultRow);
  $("no-results").hidden = results.length > 0;
  $("node").hidden = service.node === "";
  set($("node"), `Answered by ${service.node}`);
  tick();
  draw();
}

function draw() {
  chart.draw($("throughput"), $("lateness"), whyNothing());
}

function nothing(figures) {
  return figures.depth > 0 ? "Paused: nothing is waiting." : "Nothing is waiting.";
}

function windowText(depth, shown) {
  if (depth === 0) return "The queue is empty.";
  return `Showing ${shown.toLocaleString("en")} of ${depth.toLocaleString("en")}.`;
}

/** Calculate for each shown task how many are ahead of it, and when it is due. */
function showTasks() {
  let ahead = 0;
  let due = state.untilDue;
  for (const task of state.tasks) {
    const isHead = task.history_num === state.figures.head?.history_num;
    if (!isHead) due = due === null || state.figures.paused ? null : due + task.timeout;
    task.ahead = ahead++;
    task.dueAt = due === null ? null : Date.now() + due * 1000;
    task.isHead = isHead;
  }
}

/** Update the times that change between two answers. */
function tick() {
  const { figures } = state;
  if (figures === null) return;
  const passed = state.lost ? 0 : (performance.now() - state.lookedAt) / 1000;
  const head = figures.head;
  $("wait").hidden = head === null;
  if (head === null) {
    set($("left"), "");
  } else {
    const left = Math.max((state.untilDue ?? 0) - passed, 0);
    $("wait").max = Math.max(head.timeout, 1e-6);
    $("wait").value = head.timeout > 0 ? Math.max(head.timeout - left, 0) : 1;
    set($("left"), `${duration(left)} left of ${wait(head.timeout)}`);
  }
  const backlog = Math.max(figures.backlog_seconds - (head === null ? 0 : passed), 0);
  set($("backlog"), duration(backlog));
  set($("age"), figures.depth === 0 ? "none" : duration(figures.oldest_task_age_seconds + passed));
  if (figures.depth === 0) set($("end"), "empty now");
  else if (figures.paused) set($("end"), "not while paused");
  else set($("end"), when(Date.now() + backlog * 1000));
}

/** Return why the charts are empty. They show only what was finished while this page was open. */
function whyNothing() {
  const { figures, tasks } = state;
  if (state.lost || figures === null) return "Nothing is known: the service does not answer.";
  const nothing = `Nothing was finished ${performance.now() < 300_000 ? "since this page was opened" : "in this time"}`;
  if (figures.depth === 0) return `${nothing}: the queue is empty.`;
  if (figures.head === null) return `${nothing}: the queue is paused.`;
  return `${nothing}: the first task is due at ${when(tasks[0]?.dueAt ?? Date.now())}.`;
}

/** Give a table body one row for each item. A row that stays keeps its focus; one that goes leaves it to the table. */
function rows(body, items, fill) {
  const keys = new Set(items.map((item) => item.history_num));
  for (const row of [...body.children]) {
    if (keys.has(row.dataset.key)) continue;
    if (row.contains(document.activeElement)) body.closest(".scroll").focus({ preventScroll: true });
    row.remove();
  }
  const old = new Map([...body.children].map((row) => [row.dataset.key, row]));
  let place = body.firstElementChild;
  for (const item of items) {
    let row = old.get(item.history_num);
    if (row === undefined) {
      row = document.createElement("tr");
      row.setAttribute("role", "row");
      row.dataset.key = item.history_num;
    }
    fill(row, item);
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
  }
}

function taskRow(row, task) {
  if (row.childElementCount === 0) {
    cells(row, ["Task", "Ahead", "Number", "Timeout", "Due"]);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Cancel";
    button.setAttribute("aria-label", `Cancel task ${task.history_num}`);
    button.addEventListener("click", () => cancel(task.history_num));
    cell(row).append(button);
  }
  row.className = task.isHead ? "head" : "";
  const due = task.dueAt === null ? "after the pause" : when(task.dueAt);
  fillCells(row, [task.history_num, task.ahead.toString(), task.num, wait(task.timeout), due]);
}

function resultRow(row, result) {
  if (row.childElementCount === 0) cells(row, ["Task", "Number", "Finished"]);
  fillCells(row, [result.history_num, result.num, when(Date.parse(result.date_finished.slice(0, 23) + "Z"))]);
}

/** Add cells. On a telephone each shows its name, because the head of the table is not there. */
function cells(row, names) {
  for (const name of names) cell(row).dataset.name = name;
}

function cell(row) {
  const added = row.insertCell();
  added.setAttribute("role", "cell");
  return added;
}

function fillCells(row, texts) {
  texts.forEach((text, index) => set(row.cells[index], text));
}

// Changing the queue.

/** Run the action of a form or button, and show its error beside it. */
async function act(where, action) {
  set(where, "");
  try {
    await action();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) askForToken();
    set(where, error instanceof Refused ? error.message : `No answer arrived, so this may or may not have been done. ${hint(where)}`);
    return false;
  }
  look();
  return true;
}

function hint(where) {
  return where.id === "add-error" || where.id === "batch-error" ? "You can safely try again." : "";
}

// The last add without a definite answer. The same add is sent again with the same key.
const unsure = { body: "", key: "" };

async function add(path, body) {
  if (unsure.body !== path + body) Object.assign(unsure, { body: path + body, key: randomKey() });
  try {
    return await service.ask("POST", path, body, { "Idempotency-Key": unsure.key });
  } catch (error) {
    if (error instanceof Refused && error.status < 500) unsure.body = "";
    throw error;
  }
}

function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const WHOLE = /^-?(0|[1-9]\d*)$/;
const SECONDS = /^(0|[1-9]\d*)(\.\d+)?$/;

function fault(field, text) {
  field.setAttribute("aria-invalid", text ? "true" : "false");
  set($(`${field.id}-error`), text);
  return text !== "";
}

$("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [num, timeout] = [$("num"), $("timeout")];
  const wrong = [
    fault(num, WHOLE.test(num.value.trim()) ? "" : "Must be a whole number."),
    fault(timeout, SECONDS.test(timeout.value.trim()) ? "" : "Must be a number of seconds."),
  ];
  if (wrong.includes(true)) {
    (wrong[0] ? num : timeout).focus();
    return;
  }
  await act($("add-error"), async () => {
    try {
      const task = await add("/api/v1/tasks", `{"num":${num.value.trim()},"timeout":${timeout.value.trim()}}`);
      unsure.body = "";
      speak(`Added task ${task.history_num}.`);
      num.value = "";
      num.focus();
    } catch (error) {
      if (!(error instanceof Refused) || error.faults.length === 0) throw error;
      const shown = [fault(num, error.at("/num")), fault(timeout, error.at("/timeout"))];
      if (!shown.includes(true)) throw error;
    }
  });
});

$("batch").addEventListener("submit", async (event) => {
  event.preventDefault();
  const lines = $("lines").value.split("\n").map((text, index) => ({ text: text.trim(), number: index + 1 }));
  const tasks = lines.filter((line) => line.text !== "");
  const bodies = [];
  for (const { text, number } of tasks) {
    const words = text.split(/[\s,;]+/);
    if (words.length !== 2 || !WHOLE.test(words[0]) || !SECONDS.test(words[1])) {
      set($("batch-error"), `Line ${number} must be a whole number and a number of seconds.`);
      $("lines").focus();
      return;
    }
    bodies.push(`{"num":${words[0]},"timeout":${words[1]}}`);
  }
  await act($("batch-error"), async () => {
    try {
      const batch = await add("/api/v1/tasks/batch", `{"tasks":[${bodies.join(",")}]}`);
      unsure.body = "";
      speak(`Added ${batch.count} tasks.`);
      $("lines").value = "";
    } catch (error) {
      if (!(error instanceof Refused) || error.faults.length === 0) throw error;
      error.message = error.faults.map((found) => inLine(found, tasks)).join("\n");
      throw error;
    }
  });
});

/** Return the message of a fault in a batch, with the line of the text that it is about. */
function inLine(found, tasks) {
  const [, index, field] = /^\/tasks\/(\d+)(?:\/(\w+))?/.exec(found.pointer) ?? [];
  return index === undefined ? found.message : `Line ${tasks[Number(index)].number}, ${field}: ${found.message}`;
}

async function cancel(number) {
  const row = document.activeElement?.closest("tr");
  const next = row?.nextElementSibling ?? row?.previousElementSibling;
  const isDone = await act($("cancel-error"), () => service.ask("DELETE", `/api/v1/tasks/${number}`));
  if (!isDone) return;
  speak(`Cancelled task ${number}.`);
  // The focused button is about to disappear: move the focus to the next one.
  next?.querySelector("button")?.focus();
}

$("cancel-head").addEventListener("click", () => {
  const head = state.figures?.head;
  if (head) cancel(head.history_num);
});

$("range").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [from, to] = [$("from").value.trim(), $("to").value.trim()];
  const isNumber = (text) => /^[1-9]\d{0,17}$/.test(text);
  if (!isNumber(from) || !isNumber(to) || BigInt(from) > BigInt(to)) {
    set($("range-error"), "Both must be history numbers, and the first must not be greater than the second.");
    return;
  }
  await act($("range-error"), async () => {
    const { count } = await service.ask("DELETE", `/api/v1/tasks?from=${from}&to=${to}`);
    speak(`Cancelled ${count} tasks.`);
    if (count === 0) set($("range-error"), "No task in the queue has such a number.");
  });
});

$("switch").addEventListener("click", () =>
  act($("switch-error"), () => service.ask("POST", `/api/v1/queue/${state.figures?.paused ? "resume" : "pause"}`)),
);

// The token.

let tokenGiven = false;

function askForToken() {
  if (!$("token").hidden && !tokenGiven) return;
  set($("token-error"), tokenGiven ? "This token is not accepted." : "");
  tokenGiven = false;
  // It has answered, if only with 401; and what it did last is not shown any more.
  found();
  $("paused").hidden = true;
  $("token").hidden = false;
  $("main").hidden = true;
  $("token-value").focus();
}

$("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const value = $("token-value").value.trim();
  if (!/^[\x21-\x7e]+$/.test(value)) {
    set($("token-error"), "A token is made of visible ASCII characters.");
    return;
  }
  service.token = value;
  tokenGiven = true;
  try {
    await service.ask("GET", "/api/v1/queue");
  } catch (error) {
    if (error instanceof Refused && error.status === 401) askForToken();
    else set($("token-error"), error.message);
    return;
  }
  $("token-value").value = "";
  $("token").hidden = true;
  $("main").hidden = false;
  listen();
});

// Helpers.

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tell a screen reader what happened. Not for times that change all the time. */
function speak(text) {
  $("spoken").textContent = text;
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Return seconds as a text such as `1 h 5 min`. */
function duration(seconds) {
  if (seconds < 60) return `${seconds.toLocaleString("en", { maximumFractionDigits: seconds < 10 ? 1 : 0 })} s`;
  const parts = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];
  const shown = [];
  let left = Math.round(seconds);
  for (const [size, unit] of parts) {
    const count = Math.floor(left / size);
    left -= count * size;
    if (count > 0 || shown.length > 0) shown.push(`${count.toLocaleString("en")} ${unit}`);
    if (shown.length === 2) break;
  }
  return shown.join(" ");
}

/** Return a timeout. A short one is exact: 0.02 s are not 0 s. */
function wait(seconds) {
  return seconds < 60 ? `${seconds} s` : duration(seconds);
}

const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** Return a moment in the reader's time zone, with its date unless that is today. */
function when(ms) {
  if (!Number.isFinite(ms) || ms > 8.64e15) return "too far in the future";
  const date = new Date(ms);
  return (date.toDateString() === new Date().toDateString() ? TIME : DATE).format(date);
}

setInterval(tick, TICK_MS);
setInterval(draw, 1000);
listen();
