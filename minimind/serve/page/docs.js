// The reference, drawn from the server's own openapi.json.

import { $, h } from "./dom.js";

const description = await (await fetch("/openapi.json")).json();

const follow = (schema) => (schema?.$ref ? description.components.schemas[schema.$ref.split("/").at(-1)] : schema ?? {});

/** A schema in a few words: `string or list of objects`. */
function kind(schema) {
  const whole = schema.$ref ? schema.$ref.split("/").at(-1) : null;
  if (schema.anyOf) return [...new Set(schema.anyOf.map(kind).filter((one) => one !== "null"))].join(" or ");
  if (whole) return whole;
  if (schema.enum ?? schema.const) return [schema.enum ?? schema.const].flat().map((one) => JSON.stringify(one)).join(", ");
  if (schema.type === "array") return `list of ${kind(schema.items ?? {})}`;
  return schema.type ?? "anything";
}

function limits(schema) {
  const of = (schema.anyOf ?? [schema]).find((one) => ["minimum", "maximum", "exclusiveMinimum"].some((key) => key in one)) ?? {};
  const least = of.minimum ?? of.exclusiveMinimum;
  const most = of.maximum ?? of.exclusiveMaximum;
  const shown = [least, most].map((n) => (n === undefined || Math.abs(n) > 1e9 ? "" : n));
  return shown.join("") === "" ? "" : `, ${shown.join(" … ")}`;
}

function fields(schema) {
  const needed = ([name]) => (schema.required ?? []).includes(name);
  const all = Object.entries(schema.properties ?? {});
  const rows = [...all.filter(needed), ...all.filter((one) => !needed(one))].map(([name, of]) =>
    h("tr", {}, h("th", {}, h("code", {}, name)), h("td", {}, kind(of) + limits(of), (schema.required ?? []).includes(name) ? " (required)" : "")));
  return rows.length ? [h("table", {}, ...rows)] : [];
}

const groups = {};
for (const [path, methods] of Object.entries(description.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const body = follow(route.requestBody?.content["application/json"].schema);
    (groups[route.tags?.[0] ?? "other"] ??= []).push(h("details", {},
      h("summary", {}, h("b", {}, method.toUpperCase()), h("code", {}, path), h("span", {}, (route.description ?? "").replaceAll("`", ""))), ...fields(body)));
  }
}
$("routes").append(...Object.entries(groups).flatMap(([name, routes]) => [h("h2", {}, name[0].toUpperCase() + name.slice(1)), ...routes]));

const base = `${location.origin}/v1`;
$("base").textContent = base;
const models = await fetch("/v1/models").then((response) => (response.ok ? response.json() : null)).catch(() => null);
const model = models?.data[0].id ?? "MODEL";
$("served").textContent = model;
$("curl").textContent = `curl ${base}/chat/completions -H 'Content-Type: application/json' \\
  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Who are you?"}]}'`;
