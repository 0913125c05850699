const data = JSON.stringify({ text: "List 3 things to do in London." });
document.getElementById("curl").textContent =
  `curl -N ${location.origin}/generate_stream -H 'Content-Type: application/json' -d '${data}'`;

async function ask() {
  const state = document.getElementById("state");
  try {
    const answer = await fetch("/healthz");
    state.textContent = (await answer.json()).status;
  } catch {
    state.textContent = "no answer";
  }
}
ask();
setInterval(ask, 5000);
