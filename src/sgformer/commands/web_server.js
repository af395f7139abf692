// The model is on the server that sent this page.
async function ask(asked) {
  const query = new URLSearchParams(), budget = model.budgets[$("budget").value];
  if (model.budgets.length) query.set("token_budget", budget ?? "none");
  if (model.task === "detection") query.set("score_threshold", $("threshold").value / 100);
  let reply, said;
  try {
    reply = await fetch(`images?${query}`, { method: "POST", body: asked });
    said = await reply.json();
  } catch {
    throw Error("The server cannot be reached, or the file has changed; is sgformer serve still running?");
  }
  if (!reply.ok) throw Error(`${asked.name} ${said.error}`);
  return said;
}

const addressOf = (view, place) => `images/${result.id}/${view}/${place}`;
