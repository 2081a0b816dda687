// The live part of the page is fetched every second, as the same HTML that the server put into the page at first. Only differences
// are changed in place, so that focus, selection and open details stay. Nothing is fetched while the page is hidden.

const EVERY = 1000;
const SLOWER = 5000;
const PATIENCE = 8000;

// The response is parsed as a separate document, in which no script runs; the page's policy allows no other way to write HTML.
const policy = window.trustedTypes?.createPolicy("ecomflow", { createHTML: (html) => html });
const live = document.getElementById("live");
const connection = document.getElementById("connection");
let shown = null;
let timer = null;

function parsed(html) {
  return new DOMParser().parseFromString(policy ? policy.createHTML(html) : html, "text/html").body;
}

function morph(old, now) {
  if (old.nodeType !== now.nodeType || old.nodeName !== now.nodeName) {
    old.replaceWith(document.importNode(now, true));
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== now.data) old.data = now.data;
    return;
  }
  if (old.isEqualNode(now)) return;
  if (old.nodeType === Node.ELEMENT_NODE) morphAttributes(old, now);
  morphChildren(old, now);
}

function morphAttributes(old, now) {
  for (const { name, value } of [...now.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    // The reader decides which details are open.
    if (!now.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
}

function morphChildren(old, now) {
  const before = [...old.childNodes];
  const after = [...now.childNodes];
  after.forEach((node, place) => {
    if (place < before.length) morph(before[place], node);
    else old.append(document.importNode(node, true));
  });
  before.slice(after.length).forEach((node) => node.remove());
}

function say(sentence) {
  connection.hidden = !sentence;
  if (connection.textContent !== sentence) connection.textContent = sentence;
  document.body.classList.toggle("stale", Boolean(sentence));
}

async function refresh() {
  try {
    const answer = await fetch(live.dataset.from, { signal: AbortSignal.timeout(PATIENCE), credentials: "same-origin" });
    if (answer.status === 403) {
      say("This page's server was restarted. Open the address that ecomflow ui printed.");
      return SLOWER;
    }
    const html = await answer.text();
    if (html !== shown) morphChildren(live, parsed(html));
    shown = html;
    say("");
    return EVERY;
  } catch {
    say("This page's server does not respond. Start it again: ecomflow ui");
    return SLOWER;
  }
}

async function tick() {
  timer = null;
  if (document.visibilityState !== "visible") return;
  const pause = await refresh();
  clearTimeout(timer);
  timer = setTimeout(tick, pause);
}

if (live) {
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && timer === null) tick();
    if (document.visibilityState !== "visible") {
      clearTimeout(timer);
      timer = null;
    }
  });
  timer = setTimeout(tick, EVERY);
}

// A submitted form says so, and can't be submitted twice.
document.addEventListener("submit", (event) => {
  const button = event.target.querySelector("button");
  if (!button || button.getAttribute("aria-disabled") === "true") {
    event.preventDefault();
    return;
  }
  button.setAttribute("aria-disabled", "true");
  button.dataset.label = button.textContent;
  button.textContent = "One moment…";
});

// After going back to the page its forms can be submitted again.
window.addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("button[aria-disabled]")) {
    button.removeAttribute("aria-disabled");
    if (button.dataset.label) button.textContent = button.dataset.label;
  }
});
