"use strict";
// Everything that comes from the model or the user is put into the page as text, never as markup.
const $ = (id) => document.getElementById(id);
const state = { about: null, language: "ja", controller: null, tokens: { dense: [], skip: [] }, results: {}, picked: null, said: ["", ""] };

function text(key, values = {}) {
  const told = state.about.texts[state.language][key];
  return told.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function headers() {
  const key = $("key").value;
  return key ? { "Content-Type": "application/json", Authorization: "Bearer " + key } : { "Content-Type": "application/json" };
}

function applyLanguage() {
  document.documentElement.lang = state.language;
  document.title = text("title");
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  for (const node of document.querySelectorAll("[data-language]")) {
    node.setAttribute("aria-pressed", String(node.dataset.language === state.language));
  }
  $("languages").setAttribute("aria-label", text("language"));
  $("samples").setAttribute("aria-label", text("samples"));
  $("prompt").placeholder = text("placeholder");
  const buttons = state.about.texts[state.language].sentences.map((sentence) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = sentence;
    button.addEventListener("click", () => { $("prompt").value = sentence; $("prompt").focus(); });
    return button;
  });
  $("samples").replaceChildren(...buttons);
  $("level-help").textContent = text(state.about.has_levels ? "level_help" : "no_levels");
  for (const arm of ["dense", "skip"]) showFacts(arm);
  conclude();
  say(...state.said);
  pick(state.picked);
}

function showFacts(arm) {
  const result = state.results[arm];
  if (!result) { $(arm + "-facts").replaceChildren(); return; }
  const seconds = (value) => value === null ? "–" : value.toFixed(value < 1 ? 3 : 2) + " s";
  const facts = [["total", seconds(result.total)], ["first", seconds(result.first)], ["per_token", seconds(result.perToken)],
    ["tokens", String(result.n)]];
  if (arm === "skip") {
    facts.push(["rate", (100 * result.rate).toFixed(1) + " %"]);
    if (state.results.dense) facts.push(["same", sameTokens() + " / " + Math.min(result.n, state.results.dense.n)]);
  }
  $(arm + "-facts").replaceChildren(...facts.flatMap(([key, value]) => {
    const name = document.createElement("dt"), told = document.createElement("dd");
    name.textContent = text(key);
    told.textContent = value;
    return [name, told];
  }));
}

function sameTokens() {
  const [left, right] = [state.tokens.dense, state.tokens.skip];
  let n = 0;
  while (n < Math.min(left.length, right.length) && left[n].text === right[n].text) n += 1;
  return n;
}

function conclude() {
  const { dense, skip } = state.results;
  if (!dense || !skip || !skip.done || !dense.perToken || !skip.perToken) { $("conclusion").textContent = ""; return; }
  const ratio = dense.perToken / skip.perToken;
  $("conclusion").textContent = text(ratio > 1 ? "faster" : "slower", { x: ratio.toFixed(2) });
}

function addToken(arm, piece, skipped) {
  const token = document.createElement("span");
  const n = skipped ? skipped.length : 0;
  token.className = "token";
  token.textContent = piece;
  if (arm === "skip") {
    const most = Math.max(1, state.about.routed.length), number = state.tokens.skip.length;
    token.classList.add("s" + (n === 0 ? 0 : Math.max(1, Math.round(5 * n / most))));
    token.addEventListener("mouseenter", () => pick(number));
  }
  state.tokens[arm].push({ text: piece, skipped: skipped || [], node: token });
  $(arm + "-answer").append(token);
}

// The mouse or the arrow keys pick a token; a line below says which layers it skipped, the map marks its column.
function pick(number) {
  const tokens = state.tokens.skip;
  if (state.picked !== null && tokens[state.picked]) tokens[state.picked].node.classList.remove("picked");
  state.picked = number;
  const token = number === null ? undefined : tokens[number];
  if (!token) { $("token-told").textContent = ""; return; }
  token.node.classList.add("picked");
  const layers = token.skipped.map((layer) => layer + 1).join(", ");
  $("token-told").textContent = text("token", { text: token.text, n: state.about.n_layers, k: token.skipped.length })
    + (layers ? " (" + text("layers") + ": " + layers + ")" : "");
}

function step(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key], last = state.tokens.skip.length - 1;
  if (!by || last < 0) return;
  event.preventDefault();
  pick(state.picked === null ? (by > 0 ? 0 : last) : Math.min(last, Math.max(0, state.picked + by)));
}

function say(key, more = "") {
  state.said = [key, more];
  $("status").textContent = key ? text(key) + more : "";
}

function drawMap() {
  const cell = 8, canvas = $("map"), tokens = state.tokens.skip, layers = state.about.n_layers;
  canvas.width = Math.max(1, tokens.length) * cell;
  canvas.height = layers * cell;
  const pen = canvas.getContext("2d");
  const routed = new Set(state.about.routed);
  for (let layer = 0; layer < layers; layer += 1) {
    for (let i = 0; i < tokens.length; i += 1) {
      pen.fillStyle = tokens[i].skipped.includes(layer) ? "#0b5cad" : routed.has(layer) ? "#dfe6ee" : "#f3f5f7";
      pen.fillRect(i * cell, layer * cell, cell - 1, cell - 1);
    }
  }
}

async function write(arm, signal) {
  const body = { model: state.about.model, prompt: $("prompt").value, max_tokens: Number($("length").value), temperature: 0,
    stream: true, stream_options: { include_usage: true }, skip_details: true, skip_always: true };
  if (arm === "dense") body.skip_threshold = 0;
  else if (state.about.has_levels) body.skip_level = Number($("level").value) / 100;
  const result = { first: null, total: 0, perToken: null, n: 0, rate: 0, done: false };
  state.results[arm] = result;
  const given = document.createElement("span");
  given.className = "given";
  given.textContent = body.prompt;
  $(arm + "-answer").replaceChildren(given);
  const start = performance.now();
  const answer = await fetch("/v1/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.slice("data: ".length);
      if (data === "[DONE]") continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.skip) result.rate = chunk.skip.skip_rate;
      for (const choice of chunk.choices) {
        const now = (performance.now() - start) / 1000;
        const skipped = choice.skipped_layers;
        if (skipped.length) {
          if (result.first === null) result.first = now;
          result.n += skipped.length;
          result.total = now;
          if (result.n > 1) result.perToken = (now - result.first) / (result.n - 1);
        }
        if (choice.text || skipped.length) addToken(arm, choice.text, skipped.at(-1));
      }
      showFacts(arm);
      if (arm === "skip") drawMap();
    }
  }
  result.done = true;
  showFacts(arm);
}

async function run(event) {
  event.preventDefault();
  state.controller = new AbortController();
  document.body.dataset.state = "writing";
  state.tokens = { dense: [], skip: [] };
  state.results = {};
  $("skip-answer").replaceChildren();
  pick(null);
  for (const arm of ["dense", "skip"]) showFacts(arm);
  conclude();
  $("run").disabled = true;
  $("stop").disabled = false;
  try {
    for (const arm of ["dense", "skip"]) {
      say("writing_" + arm);
      await write(arm, state.controller.signal);
    }
    say("done");
    document.body.dataset.state = "done";
  } catch (error) {
    document.body.dataset.state = "failed";
    if (error.name === "AbortError") say("stopped");
    else say("failed", ": " + error.message);
  }
  conclude();
  $("run").disabled = false;
  $("stop").disabled = true;
}

async function load() {
  const answer = await fetch("/demo/about", { headers: headers() });
  if (answer.status === 401) { $("key-field").hidden = false; return; }
  state.about = await answer.json();
  $("length").max = state.about.max_tokens;
  $("length").value = Math.min(48, state.about.max_tokens);
  $("level").value = Math.round(100 * state.about.level);
  $("level").disabled = !state.about.has_levels;
  $("level-value").textContent = $("level").value;
  applyLanguage();
  $("prompt").value = state.about.texts[state.language].sentences[0];
  $("run").disabled = false;
}

state.language = new URLSearchParams(location.search).get("lang") === "en" ? "en" : "ja";
$("form").addEventListener("submit", run);
$("skip-answer").addEventListener("keydown", step);
$("stop").addEventListener("click", () => state.controller.abort());
$("key").addEventListener("change", load);
$("level").addEventListener("input", () => { $("level-value").textContent = $("level").value; });
for (const node of document.querySelectorAll("[data-language]")) {
  node.addEventListener("click", () => { state.language = node.dataset.language; applyLanguage(); });
}
load();
