// What the pages ask of the server, and one generation with a page's Run, Stop and status line.
import { lengthField, pieces } from "./door.js";

// Always from the origin: a page that was opened with a key in its address can't fetch relative paths.
export const ask = (path, options) => fetch(location.origin + path, options);

const but = (error, message) => (error.name === "AbortError" ? error : new Error(message));

// A request in the words of the door that the page is at.
export const wire = ({ generate_max_length: length, ...body }) => ({ ...body, [lengthField]: length });

// Hands on the text of POST /generate_stream as it comes. Aborting `signal` closes the
// connection, which frees the server's slot. Throws an AbortError, or an Error whose message is for people.
async function generate(body, onText, signal) {
  const answer = await ask("/generate_stream", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(wire(body)),
    signal,
  }).catch((error) => {
    throw but(error, "The server can't be reached.");
  });
  if (!answer.ok) throw new Error(await reason(answer));
  const reader = pieces(answer.body).getReader();
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw but(error, "The stream broke off: this text is not whole.");
    });
    if (done) return;
    onText(value);
  }
}

async function reason(answer) {
  const text = await answer.text();
  const wait = answer.headers.get("Retry-After");
  let message = text || answer.statusText;
  try {
    const { detail } = JSON.parse(text);
    message = Array.isArray(detail) ? detail.map((each) => `${each.loc.at(-1)}: ${each.msg}`).join("; ") : detail;
  } catch {
    // not one of ours: shown as it is
  }
  return `${message} (${answer.status}${wait ? `, try again in ${wait} s` : ""})`;
}

const [start, stop, stats] = ["run", "stop", "stats"].map((id) => document.getElementById(id));

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !stop.hidden) stop.click();
});

// Runs one generation into `output`, which is marked as busy meanwhile.
// Resolves to null when it ended or was stopped, else to the error.
export async function run(body, output, onText) {
  const controller = new AbortController();
  const started = performance.now();
  let first = null;
  stop.onclick = (event) => event.detail > 1 || controller.abort(); // not by a double click on Run
  show(true);
  stats.textContent = "Waiting for the first token …";
  try {
    await generate(body, (text) => {
      if (first === null) stats.textContent = `First text after ${seconds((first = performance.now() - started))}`;
      onText(text);
    }, controller.signal);
    stats.textContent = `First text after ${seconds(first ?? performance.now() - started)}, all after ${seconds(performance.now() - started)}`;
    return null;
  } catch (error) {
    stats.textContent = error.name === "AbortError" ? "Stopped" : "";
    return error.name === "AbortError" ? null : error;
  } finally {
    show(false);
  }

  function show(busy) {
    output.setAttribute("aria-busy", busy);
    const [from, to] = busy ? [start, stop] : [stop, start];
    const hadFocus = document.activeElement === from;
    [from.hidden, to.hidden] = [true, false];
    if (hadFocus) to.focus();
  }
}

const seconds = (ms) => `${(ms / 1000).toFixed(ms < 1000 ? 2 : 1)} s`;

// An error as a line that is read out, with an optional button.
export function errorLine(error, ...buttons) {
  const line = document.createElement("div");
  line.className = "error";
  line.setAttribute("role", "alert");
  const text = document.createElement("span");
  text.textContent = error.message;
  line.append(text, ...buttons);
  return line;
}
