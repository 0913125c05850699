// The API's description as tables: made from /openapi.json, nothing from elsewhere.
const routes = document.getElementById("routes");
const spec = await (await fetch("/openapi.json")).json();

function add(parent, tag, text = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  parent.append(node);
  return node;
}

function typeOf(schema) {
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {})}`;
  return schema.type ?? "object";
}

for (const [path, methods] of Object.entries(spec.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    add(routes, "h2", `${method.toUpperCase()} ${path}`);
    add(routes, "p", operation.description ?? operation.summary ?? "");
    const schema = operation.requestBody?.content?.["application/json"]?.schema;
    if (!schema?.properties) continue;
    const table = add(routes, "table");
    const head = add(table, "tr");
    for (const title of ["field", "type", "default", "meaning"]) add(head, "th", title);
    for (const [name, field] of Object.entries(schema.properties)) {
      const row = add(table, "tr");
      const required = schema.required?.includes(name);
      for (const text of [name, typeOf(field), required ? "required" : JSON.stringify(field.default ?? null), field.description ?? ""]) add(row, "td", text);
    }
  }
}
