// A client of the service: requests, answers, events.

// A write waits up to STORE_PATIENCE, which is 10 s, for PostgreSQL, and is answered then.
const ANSWER_MS = 15_000;
// A stream is lost when it sends nothing for this long, not even a heartbeat.
const SILENT_MS = 25_000;
// A proxy may serve the page below a path of its own, so every address is relative to this file.
const BASE = new URL("..", import.meta.url);
const at = (path) => new URL(`.${path}`, BASE);

/** An error answer of the service, with its problem document. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? `The answer was ${status}, and not from this service.`);
    this.status = status;
    this.faults = problem?.errors ?? [];
  }

  /** Return the messages about one field, given its JSON pointer. */
  at(pointer) {
    return this.faults.filter((fault) => fault.pointer === pointer).map((fault) => fault.message).join(" ");
  }
}

/** Parse JSON with 64-bit integers as strings, because JavaScript numbers would round them. */
export function exact(text) {
  return JSON.parse(text.replace(/"(num|history_num|first|last)":\s*(-?\d+)/g, '"$1":"$2"'));
}

export class Service {
  #token = "";

  /** Which node gave the last answer; empty when there is only one. */
  node = "";

  set token(value) {
    this.#token = value;
  }

  #headers(more = {}) {
    return this.#token ? { ...more, Authorization: `Bearer ${this.#token}` } : more;
  }

  /** Return the JSON of a 2xx answer. Throw Refused, or another Error when there is no answer. */
  async ask(method, path, body, headers = {}) {
    const answer = await fetch(at(path), {
      method,
      body,
      cache: "no-store",
      redirect: "error",
      headers: this.#headers(body === undefined ? headers : { ...headers, "Content-Type": "application/json" }),
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    this.node = answer.headers.get("X-Node") ?? this.node;
    return parsed(answer);
  }

  /** Return the messages {id, kind, data} of the stream until it is aborted. A heartbeat has no kind. */
  async *events(after, silence) {
    let watchdog = setTimeout(() => silence.abort(), SILENT_MS);
    try {
      const answer = await fetch(at("/api/v1/events"), {
        cache: "no-store",
        redirect: "error",
        headers: this.#headers(after ? { "Last-Event-ID": after } : {}),
        signal: silence.signal,
      });
      if (!answer.ok) await parsed(answer);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(watchdog);
        watchdog = setTimeout(() => silence.abort(), SILENT_MS);
        const blocks = (text + value).split("\n\n");
        text = blocks.pop();
        for (const block of blocks) yield message(block);
      }
    } finally {
      clearTimeout(watchdog);
      silence.abort();
    }
  }
}

async function parsed(answer) {
  const text = await answer.text();
  // A proxy says so while it cannot reach the service: whether anything was done is not known.
  const isProblem = answer.headers.get("content-type")?.startsWith("application/problem+json");
  if ([502, 503, 504].includes(answer.status) && !isProblem) throw new Error("only a proxy answered");
  let content = null;
  try {
    content = exact(text);
  } catch {
    if (answer.ok) throw new Refused(answer.status, null);
  }
  if (!answer.ok) throw new Refused(answer.status, content);
  return content;
}

function message(block) {
  const fields = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
  }
  return { id: fields.id ?? "", kind: fields.event ?? "", data: fields.data ? exact(fields.data) : {} };
}
