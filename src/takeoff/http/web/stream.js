// One generation over POST /generate_stream: raw UTF-8 text, shown as it comes.
// Aborting the signal closes the connection, which frees the server's slot.
export async function generate(body, onText, signal) {
  const started = performance.now();
  let first = null;
  const answer = await fetch("/generate_stream", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!answer.ok) throw new Error(await reason(answer));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    first ??= performance.now() - started;
    onText(value);
  }
  return { first, total: performance.now() - started };
}

async function reason(answer) {
  const text = await answer.text();
  try {
    const detail = JSON.parse(text).detail;
    return Array.isArray(detail) ? detail.map((each) => `${each.loc.at(-1)}: ${each.msg}`).join("; ") : detail;
  } catch {
    return `${answer.status} ${text}`;
  }
}

// Runs one generation with the page's buttons; an error or a broken stream is shown, never hidden.
export async function run(body, output, onText) {
  const [start, stop, stats] = ["run", "stop", "stats"].map((id) => document.getElementById(id));
  const controller = new AbortController();
  stop.onclick = () => controller.abort();
  start.disabled = true;
  stop.disabled = false;
  stats.textContent = "";
  try {
    const times = await generate(body, onText, controller.signal);
    stats.textContent = `first text after ${Math.round(times.first ?? times.total)} ms, all after ${(times.total / 1000).toFixed(1)} s`;
    return true;
  } catch (error) {
    if (error.name === "AbortError") stats.textContent = "stopped";
    else {
      const line = document.createElement("div");
      line.className = "error";
      line.setAttribute("role", "alert");
      line.textContent = error.name === "TypeError" ? "The stream broke off before its end." : error.message;
      output.append(line);
    }
    return error.name === "AbortError";
  } finally {
    start.disabled = false;
    stop.disabled = true;
  }
}
