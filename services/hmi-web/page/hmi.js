"use strict";
// Shows what /events tells and sends what the driver chooses. Texts go in as text, never as markup.

const ends = {
  "all-new": "The update is installed",
  "all-old": "The update was not installed",
  "needs-workshop": "Please visit a workshop",
  "declined": "The update was declined",
  "refused": "The update was refused",
  "superseded": "The update was replaced by a newer one",
  "cancelled": "The update was cancelled",
  "expired": "The update has expired",
};

const byId = (id) => document.getElementById(id);

function span(seconds) {
  if (seconds < 120) return `about ${seconds} seconds`;
  if (seconds < 7200) return `about ${Math.ceil(seconds / 60)} minutes`;
  return `about ${Math.ceil(seconds / 3600)} hours`;
}

async function send(where, body, section) {
  const problem = section.querySelector(".error");
  const buttons = section.querySelectorAll("button");
  buttons.forEach((button) => { button.disabled = true; });
  problem.textContent = "";
  try {
    const headers = { "content-type": "application/json", "x-pitstop": "1" };
    const reply = await fetch(where, { method: "POST", headers, body: JSON.stringify(body) });
    if (reply.ok) return; // The stream takes the section off the screen.
    const { error } = await reply.json();
    problem.textContent = `${error.text} (${error.advice})`;
  } catch {
    problem.textContent = "No connection. Please try again.";
  }
  buttons.forEach((button) => { button.disabled = false; });
}

function showPrompt(prompt) {
  const section = byId("prompt").content.cloneNode(true).firstElementChild;
  const facts = { ...prompt, expected: span(prompt.expected_secs) };
  for (const place of section.querySelectorAll("[data-fact]")) place.textContent = facts[place.dataset.fact];
  const time = section.querySelector("input");
  for (const button of section.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const choice = button.dataset.choice;
      const at = choice === "at" ? Math.floor(new Date(time.value).getTime() / 1000) : 0;
      if (Number.isNaN(at)) {
        section.querySelector(".error").textContent = "Please choose a day and a time.";
        return;
      }
      send("/answer", { path: prompt.path, choice, at, text_digest: prompt.text_digest }, section);
    });
  }
  return section;
}

function showNotice(notice) {
  const section = byId("notice").content.cloneNode(true).firstElementChild;
  section.querySelector("h1").textContent = ends[notice.end] ?? "Vehicle update";
  section.querySelector(".text").textContent = notice.text;
  section.querySelector("button").addEventListener("click", () => send("/acknowledge", { path: notice.path }, section));
  return section;
}

// Keeps the sections that are still there, so that a time being chosen is not lost.
function sync(list, items, show) {
  const key = (item) => JSON.stringify(item);
  const wanted = new Set(items.map(key));
  for (const section of [...list.children]) if (!wanted.has(section.dataset.key)) section.remove();
  const there = new Set([...list.children].map((section) => section.dataset.key));
  for (const item of items.filter((item) => !there.has(key(item)))) {
    const section = show(item);
    section.dataset.key = key(item);
    list.append(section);
  }
}

// What stands above the messages, or in place of them.
function stateOf({ connected, failure, prompts, notices }) {
  if (failure) return `The update service cannot be asked: ${failure.text} (${failure.advice}).`;
  if (!connected) return "The update service does not answer.";
  return prompts.length + notices.length > 0 ? "" : "No messages.";
}

function show(screen) {
  sync(byId("prompts"), screen.prompts, showPrompt);
  sync(byId("notices"), screen.notices, showNotice);
  byId("state").textContent = stateOf(screen);
}

const events = new EventSource("/events");
events.onmessage = (event) => show(JSON.parse(event.data));
events.onerror = () => show({ connected: false, failure: null, prompts: [], notices: [] });
