"use strict";

// The key that the service may ask for: typed in once, kept by this tab only, sent as a header.

const KEY_NAME = "fedfleet-key";

const key = {
  entered: () => {}, // called when a key was typed in
  asking: false,

  headers() {
    const text = sessionStorage.getItem(KEY_NAME);
    return text ? { "x-api-key": text } : {};
  },

  ask(reason) {
    sessionStorage.removeItem(KEY_NAME);
    document.getElementById("key-reason").textContent = reason;
    document.getElementById("key").hidden = false;
    key.asking = true;
    key.mark();
    document.getElementById("key-text").focus();
  },

  // Links carry no header: what needs the key is not offered as one.
  mark() {
    document.body.classList.toggle("locked", key.asking);
    const isUsed = key.asking || sessionStorage.getItem(KEY_NAME) !== null;
    for (const element of document.querySelectorAll(".keyless")) element.hidden = isUsed;
    document.getElementById("forget").hidden = key.asking || !isUsed;
    const header = isUsed ? '-H "X-API-Key: $KEY" ' : "";
    const curl = document.getElementById("curl"); // on one of the pages only
    if (curl) curl.textContent = `curl ${header}-F file=@image.png ${new URL("predict", location.href)}`;
  },
};

document.getElementById("key").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = document.getElementById("key-text");
  const text = field.value.trim();
  field.value = "";
  if (!/^[!-~]+$/.test(text)) { // a header cannot carry it
    key.ask("That is not a key: one reads flk_..._...");
    return;
  }
  sessionStorage.setItem(KEY_NAME, text);
  document.getElementById("key").hidden = true;
  key.asking = false;
  key.mark();
  key.entered();
});
document.getElementById("forget").addEventListener("click", () => {
  key.ask("The key is forgotten. Enter one to go on.");
});
key.mark();
