// Shows the copy buttons and makes them work. Without it the key can still be selected with one click.
"use strict";
for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    const said = document.getElementById("said");
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
      said.textContent = "Copied to the clipboard.";
    } catch {
      getSelection().selectAllChildren(source);
      said.textContent = "Press Ctrl+C (or ⌘C) to copy the selected text.";
    }
  });
}
