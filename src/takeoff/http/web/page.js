// What every page has: the state of the server in its head, and the address it was opened at.
import { isFront, model as askModel } from "./door.js";
import { ask } from "./server.js";

const state = document.getElementById("state");
let model = null;

async function look() {
  let [kind, text] = ["gone", "not reachable"];
  try {
    const health = await ask("/healthz");
    [kind, text] = ["waiting", (await health.json()).status];
    if (health.ok) [kind, text] = ["ready", (model ??= await askModel(ask))];
  } catch {
    // what `kind` says
  }
  state.className = `state ${kind}`;
  if (state.textContent !== text) state.textContent = state.title = text;
}

for (const part of document.querySelectorAll(".front")) part.hidden = !isFront;
for (const origin of document.querySelectorAll(".origin")) origin.textContent = location.origin;
for (const button of document.querySelectorAll(".copied button")) {
  button.hidden = !navigator.clipboard; // only a secure context has it
  button.onclick = async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
}
look();
setInterval(() => document.hidden || look(), 5000);
