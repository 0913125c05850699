import { errorLine, run } from "./server.js";

const find = (id) => document.getElementById(id);
const [form, box, turns] = ["form", "text", "turns"].map(find);
let history = []; // the turns of this conversation; New chat starts another list

const settings = () => ({
  generate_max_length: find("generate_max_length").valueAsNumber,
  sampling_temperature: find("sampling_temperature").valueAsNumber,
  sampling_topk: 50,
  sampling_topp: 0.1,
});

// The first message goes bare; later ones carry the turns before them as plain text.
function prompt(message) {
  if (!history.length) return message;
  return [...history, { who: "User", text: message }].map((turn) => `${turn.who}: ${turn.text}`).join("\n");
}

// What is read at the end stays there while text comes; who has scrolled up is left alone.
function keepingEnd(change) {
  const atEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 40;
  change();
  if (atEnd) turns.scrollTop = turns.scrollHeight;
}

function addTurn(who, label, text) {
  const turn = document.createElement("article");
  turn.className = `turn text ${who}`;
  turn.setAttribute("aria-label", label);
  turn.append(text);
  turns.append(turn);
  turns.scrollTop = turns.scrollHeight;
  return turn;
}

async function send(message) {
  const conversation = history;
  turns.querySelector(".welcome")?.remove();
  const mine = addTurn("user", "You", message);
  const answer = document.createTextNode("");
  const turn = addTurn("assistant", "Model", answer);
  const error = await run({ text: prompt(message), ...settings() }, turn, (text) => keepingEnd(() => answer.appendData(text)));
  if (conversation !== history) return;
  if (!error) {
    history.push({ who: "User", text: message }, { who: "Assistant", text: answer.data });
    return;
  }
  const again = document.createElement("button");
  again.className = "quiet small";
  again.textContent = "Edit and resend";
  const line = errorLine(error, again);
  again.onclick = () => {
    [mine, turn, line].forEach((each) => each.remove());
    box.value = [message, box.value].filter(Boolean).join("\n");
    box.focus();
  };
  keepingEnd(() => {
    if (!answer.data) turn.remove();
    turns.append(line);
  });
}

function startNew() {
  find("stop").click();
  history = [];
  turns.replaceChildren(find("welcome").content.cloneNode(true));
  for (const button of turns.querySelectorAll("button")) {
    button.onclick = () => {
      box.value = button.textContent;
      form.requestSubmit();
    };
  }
  box.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const message = box.value.trim();
  if (!message || find("run").hidden) return;
  box.value = "";
  box.focus();
  send(message);
});
box.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
find("sampling_temperature").addEventListener("input", (event) => {
  find("shown").textContent = event.target.value;
});
find("stop").addEventListener("click", () => box.focus());
find("new").onclick = startNew;
startNew();
