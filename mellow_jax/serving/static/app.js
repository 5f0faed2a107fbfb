// The page: two sounds, a question, an answer. All requests go to the server that sent the page.

import * as clip from "./clip.js";

const $ = (id) => document.getElementById(id);
const key = new URLSearchParams(location.hash.slice(1)).get("key"); // http://...#key=KEY
const headers = { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
const slots = ["A", "B"].map(makeSlot);
let running = null; // the AbortController of what is under way: one thing at a time
let last = null; // what Export writes

// --- Sounds -------------------------------------------------------------------------------------

function makeSlot(letter) {
  const root = $("slot").content.firstElementChild.cloneNode(true);
  const find = (name) => root.querySelector(name);
  const title = letter === "A" ? "Sound A" : "Sound B (to compare)";
  find("h2").textContent = title;
  root.setAttribute("aria-label", title);
  const slot = { letter, sound: null, events: null, used: find(".used"), root, set };
  const record = find(".record"), clear = find(".clear");
  find(".file").setAttribute("aria-label", `Choose a file for sound ${letter}`);
  record.setAttribute("aria-label", `Record sound ${letter}`);
  clear.setAttribute("aria-label", `Remove sound ${letter}`);
  let end = null, waits = false; // what ends a recording; whether one is about to begin or end

  function set(sound) {
    slot.sound = sound;
    slot.events = null;
    slot.used.textContent = "";
    find(".events").replaceChildren();
    clear.disabled = !sound;
    find(".hint").hidden = Boolean(sound);
    const audio = find("audio");
    if (audio.src) URL.revokeObjectURL(audio.src);
    audio.hidden = !sound;
    if (sound) {
      audio.src = URL.createObjectURL(new Blob([sound.bytes], { type: sound.type }));
      find(".name").textContent = `${sound.name}, ${sound.audio.duration.toFixed(1)} s`;
    } else {
      audio.removeAttribute("src");
      find(".name").textContent = "";
    }
    setTimeout(() => {  // later: a question that waits for this sound goes first
      if (slot.sound !== sound) return;
      if (sound) listen(slot);
      clip.drawWave(find(".wave"), sound?.audio);
      clip.drawSpectrogram(find(".spectrogram"), sound?.audio);
    });
  }

  async function take(file) {
    try {
      set(await clip.read(file));
    } catch {
      set(null);  // else the sound before would stand there, and be asked about
      find(".name").textContent = `${file.name} cannot be read: choose a sound file`;
    }
  }

  find(".file").addEventListener("change", (event) => {
    if (event.target.files[0]) take(event.target.files[0]);
    event.target.value = "";
  });
  clear.addEventListener("click", () => set(null));
  record.addEventListener("click", async () => {
    if (waits) return;
    waits = true;
    try {
      if (end) {
        const finish = end;
        end = null;
        set(await finish());
      } else {
        end = await clip.record();
      }
    } catch {
      find(".name").textContent = "no microphone: allow it, or choose a file";
    }
    waits = false;
    record.textContent = end ? "Stop recording" : "Record";
    record.setAttribute("aria-pressed", String(Boolean(end)));
    record.setAttribute("aria-label", `${record.textContent}, sound ${letter}`);
  });
  const drop = find(".drop");
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  $("slots").append(root);
  set(null);
  return slot;
}

const dataUri = (sound) => `data:${sound.type};base64,${clip.base64(sound.bytes)}`;

// What the encoder detects, below the sound.
async function listen(slot) {
  const sound = slot.sound;
  const found = await post("v1/events", { audio: dataUri(sound) }).catch((error) => ({ events: [], note: error.message }));
  if (slot.sound !== sound) return;
  slot.events = found;
  slot.used.textContent = [found.clip && `the model hears ${found.clip}`, found.note].filter(Boolean).join("; ");
  slot.root.querySelector(".events").replaceChildren(...found.events.map((event) => {
    const row = document.createElement("div"), name = document.createElement("span"), canvas = document.createElement("canvas");
    row.className = "event";
    row.dataset.stems = event.stems.join(" ");
    name.textContent = name.title = event.name;
    canvas.width = 320; canvas.height = 12;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${event.name}: at most ${Math.max(...event.probabilities).toFixed(2)}`);
    row.append(name, canvas);
    clip.drawSteps(canvas, event.probabilities);
    return row;
  }));
  mark($("answer").textContent);
}

// Marks the events whose words the answer has.
function mark(answer) {
  const words = answer.toLowerCase().match(/[a-z]+/g) ?? [];
  for (const row of document.querySelectorAll(".event")) {
    const stems = row.dataset.stems.split(" ").filter((stem) => stem.length > 2);
    row.classList.toggle("named", stems.some((stem) => words.some((word) => word.startsWith(stem))));
  }
}

// --- Questions ----------------------------------------------------------------------------------

async function post(path, body, signal) {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const response = await fetch(path, { method: "POST", headers, body: text, signal });
  const value = await response.json();
  if (!response.ok) throw new Error(value.error?.message ?? value.detail?.message ?? value.detail?.[0]?.msg ?? response.statusText);
  return value;
}

async function get(path, signal) {
  const response = await fetch(path, { signal });
  if (!response.ok) throw new Error(`${path}: ${response.statusText || response.status}`);
  return response;
}

// Yields the events of a stream of server-sent ones.
async function* stream(path, body, signal) {
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw new Error((await response.json()).error?.message ?? response.statusText);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      const event = JSON.parse(part.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

function busy(is) {
  $("send").disabled = is;
  $("stop").disabled = !is;
  $("copy").disabled = $("export").disabled = is || !last;
  for (const button of $("examples").children) button.disabled = is;
}

// Does something that Stop ends, unless something else is under way.
async function run(work) {
  if (running) return;
  running = new AbortController();
  busy(true);
  $("notes").textContent = "";
  try {
    await work(running.signal);
  } catch (error) {
    $("notes").textContent = error.name === "AbortError" ? "stopped" : error.message;
  }
  running = null;
  busy(false);
}

async function ask(signal) {
  const sounds = slots.map((slot) => slot.sound).filter(Boolean);
  if (!sounds.length) {
    $("notes").textContent = "choose, drop or record a sound first";
    return;
  }
  const question = $("question").value.trim();
  const options = [...new Set($("options").value.split("\n").map((line) => line.trim()).filter(Boolean))];
  last = { question, clips: slots.filter((s) => s.sound).map((s) => ({ slot: s.letter, name: s.sound.name })), answer: "" };
  $("answer").textContent = "";
  $("bars").replaceChildren();
  const content = [{ type: "text", text: question }, ...sounds.map((sound) => ({ type: "audio_url", audio_url: { url: dataUri(sound) } }))];
  const body = { model: "mellow", stream: true, messages: [{ role: "user", content }] };
  for await (const event of stream("v1/chat/completions", body, signal)) {
    const choice = event.choices[0];
    if (event.mellow) {
      last.warnings = event.mellow.warnings;
      event.mellow.clips.forEach((used, i) => { last.clips[i].used = used; });
    }
    if (choice?.delta.content) $("answer").textContent = last.answer += choice.delta.content;
    if (choice?.finish_reason) last.finish_reason = choice.finish_reason;
  }
  mark(last.answer);
  if (options.length > 1) await decide(question, options, sounds, signal);
  last.events = Object.fromEntries(slots.filter((s) => s.events).map((s) => [s.letter, s.events]));
  const notes = [...last.warnings ?? []];
  if (!last.answer) notes.push("the answer is empty");
  if (last.finish_reason === "length") notes.push("the answer was cut at its longest");
  if (options.length === 1) notes.push("give two options or more to see how probable each is");
  $("notes").textContent = notes.join("; ");
}

// The probability of each option, as bars.
async function decide(question, options, sounds, signal) {
  const state = Object.fromEntries(sounds.map((sound, i) => [i ? "audio2" : "audio", dataUri(sound)]));
  // Written by hand: an object would put names that are numbers before the others, by size.
  const criteria = options.map((option) => `${JSON.stringify(option)}:null`).join();
  const choice = `{"type":"choice","instructions":${JSON.stringify(question)},"criteria":{${criteria}}}`;
  const body = `{"model":"mellow","state":${JSON.stringify(state)},"questions":{"choice":${choice}}}`;
  const { answers, x_warnings: warnings = [] } = await post("v1/systemone", body, signal);
  last.options = answers.choice;
  last.warnings = [...new Set([...last.warnings ?? [], ...warnings])];
  $("bars").replaceChildren(...options.map((option) => {
    const bar = document.createElement("div"), p = answers.choice.probabilities[option];
    bar.className = "bar";
    const [name, place, fill, number] = ["span", "div", "i", "b"].map((tag) => document.createElement(tag));
    name.textContent = option;
    fill.style.width = `${100 * p}%`;
    number.textContent = `${(100 * p).toFixed(1)} %`;
    place.append(fill);
    bar.append(name, place, number);
    return bar;
  }));
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); run(ask); });
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); $("ask").requestSubmit(); }
});
$("stop").addEventListener("click", () => running?.abort());
$("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(last.answer); // absent where the page came without https
    $("notes").textContent = "copied";
  } catch {
    $("notes").textContent = "this browser lets the page copy nothing: mark the answer and copy it";
  }
});
$("export").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(last, null, 2)], { type: "application/json" }));
  link.download = "mellow.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

// A file that is dropped beside a slot would take the page's place.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());

// --- Start --------------------------------------------------------------------------------------

async function wait() {
  for (;;) {
    const response = await fetch("health").catch(() => null);
    if (response?.ok) break;
    const { status, reason, error } = await response?.json().catch(() => ({})) ?? {};
    const why = status === "failed" ? `the model could not be loaded: ${reason}` : error?.message;
    $("state").textContent = response ? why ?? "the model is being loaded and compiled" : "the server does not answer";
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  $("state").textContent = "ready";
}

async function showExamples() {
  const found = await (await get("examples")).json();
  $("examples").replaceChildren(...found.map((example) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${example.name}: ${example.question}`;
    button.addEventListener("click", () => run(async (signal) => {
      const data = await (await get(example.url, signal)).blob();
      slots[0].set(await clip.read(new File([data], `${example.name}.wav`, { type: "audio/wav" })));
      slots[1].set(null);
      $("question").value = example.question;
      await ask(signal);
    }));
    return button;
  }));
}

wait().then(showExamples).catch((error) => { $("notes").textContent = `no examples: ${error.message}`; });
