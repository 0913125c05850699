import { run } from "/web/stream.js";

const NUMBERS = ["generate_max_length", "sampling_topk", "sampling_topp", "sampling_temperature", "repetition_penalty", "no_repeat_ngram_size"];

document.getElementById("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const output = document.getElementById("output");
  output.textContent = "";
  const body = { text: document.getElementById("text").value };
  for (const name of NUMBERS) body[name] = Number(document.getElementById(name).value);
  run(body, output, (text) => output.append(text));
});
