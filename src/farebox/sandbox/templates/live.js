/* Everything works without this. With it, what is marked data-live follows the sandbox, and some buttons save typing. */
"use strict";
const live = document.getElementById("live");
const regions = () => document.querySelectorAll("[data-live]");
const busy = (region) => region.contains(document.activeElement) && document.activeElement.matches("input, select, pre")
  || (!getSelection().isCollapsed && region.contains(getSelection().anchorNode));

async function refresh() {
  if (document.hidden || live.getAttribute("aria-pressed") !== "true") return;
  let answer;
  try {
    answer = await fetch(location.href, { headers: { "X-Live": "1" } });
    live.textContent = "Live";
  } catch {
    live.textContent = "Not reached";
    return;
  }
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const region of regions()) {
    const next = fresh.getElementById(region.id);
    if (!next || next.innerHTML === region.innerHTML || busy(region)) continue;
    const at = document.activeElement && region.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const scrolled = region.querySelector("pre")?.scrollLeft;
    region.replaceChildren(...next.childNodes);
    if (at) region.querySelector(`[href="${CSS.escape(at)}"]`)?.focus();
    if (scrolled) region.querySelector("pre").scrollLeft = scrolled;
  }
}

if (live && regions().length && document.querySelector("main")) {
  live.hidden = false;
  live.addEventListener("click", () => {
    const on = live.getAttribute("aria-pressed") !== "true";
    live.setAttribute("aria-pressed", on);
    live.textContent = on ? "Live" : "Paused";
    if (on) refresh();
  });
  setInterval(refresh, 2000);
}

document.addEventListener("keydown", (event) => {
  const field = document.querySelector(".search input");
  if (event.key === "/" && field && !event.ctrlKey && !event.metaKey && !event.altKey && !event.target.matches("input, select, textarea")) {
    event.preventDefault();
    field.focus();
  }
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

for (const number of document.querySelectorAll("[data-card]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "link mono";
  button.textContent = number.textContent;
  number.replaceChildren(button);
  button.addEventListener("click", () => {
    const { form } = number.closest("section, main").querySelector("[name=card_number]");
    form.elements.card_number.value = number.dataset.card;
    for (const [name, value] of [["exp", "12/34"], ["cvc", "123"]]) form.elements[name].value ||= value;
    form.elements.card_number.focus();
  });
}
