import { run } from "/web/stream.js";

const SETTINGS = { generate_max_length: 300, sampling_topk: 50, sampling_topp: 0.1, sampling_temperature: 0.7 };
const form = document.getElementById("form");
const box = document.getElementById("text");
const turns = document.getElementById("turns");
let history = [];

function addTurn(who, text) {
  const turn = document.createElement("div");
  turn.className = `turn ${who}`;
  turn.textContent = text;
  turns.append(turn);
  turn.scrollIntoView({ block: "nearest" });
  return turn;
}

// The first message goes bare; later ones carry the turns before them.
function prompt(message) {
  if (!history.length) return message;
  return [...history.map((turn) => `${turn.who}: ${turn.text}`), `User: ${message}`].join("\n");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const message = box.value.trim();
  if (!message) return;
  box.value = "";
  addTurn("user", message);
  const turn = addTurn("assistant", "");
  let answer = "";
  const kept = await run({ text: prompt(message), ...SETTINGS }, turn, (text) => {
    answer += text;
    turn.append(text);
    turn.scrollIntoView({ block: "end" });
  });
  if (kept) history.push({ who: "User", text: message }, { who: "Assistant", text: answer });
  box.focus();
});

box.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!document.getElementById("run").disabled) form.requestSubmit();
  }
});

document.getElementById("new").onclick = () => {
  document.getElementById("stop").click();
  history = [];
  turns.textContent = "";
  box.focus();
};
