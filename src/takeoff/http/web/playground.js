import { errorLine, run, wire } from "./server.js";

const find = (id) => document.getElementById(id);
const [form, output, settings] = ["form", "output", "settings"].map(find);

function body() {
  const numbers = [...form.querySelectorAll("input")].map((input) => [input.name, input.valueAsNumber]);
  return { text: find("text").value, ...Object.fromEntries(numbers) };
}

function showCurl() {
  const data = JSON.stringify(wire(body())).replaceAll("'", "'\\''");
  find("curl").textContent =
    `curl -N ${location.origin}/generate_stream \\\n  -H 'Content-Type: application/json' \\\n  -d '${data}'`;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (find("run").hidden) return;
  const text = document.createTextNode("");
  output.replaceChildren(text);
  const error = await run(body(), output, (more) => text.appendData(more));
  if (error) output.append(errorLine(error));
});
form.addEventListener("input", showCurl);
form.addEventListener("invalid", () => (settings.open = true), true); // or the browser can't show which
form.addEventListener("reset", () => setTimeout(showCurl));
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
settings.open = matchMedia("(min-width: 48rem)").matches;
showCurl();
