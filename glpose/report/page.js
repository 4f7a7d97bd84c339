"use strict";
(function () {
  var root = document.documentElement;
  var button = document.getElementById("theme");
  var preferred = matchMedia("(prefers-color-scheme: dark)");

  // From disk, storage may be closed to scripts: then the choice lasts as long as the page.
  function stored(value) {
    try {
      if (value === undefined) return localStorage.getItem("glpose-theme");
      localStorage.setItem("glpose-theme", value);
    } catch (error) { /* not stored */ }
    return null;
  }
  function theme() { return root.dataset.theme || (preferred.matches ? "dark" : "light"); }
  function show() {
    button.textContent = theme() === "dark" ? "Light theme" : "Dark theme";
    document.dispatchEvent(new CustomEvent("themechange", { detail: theme() }));
  }
  var chosen = stored();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  button.hidden = false;
  button.addEventListener("click", function () {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    stored(root.dataset.theme);
    show();
  });
  preferred.addEventListener("change", show);
  show();

  document.querySelectorAll(".legend button").forEach(function (pressed) {
    pressed.addEventListener("click", function () {
      var shown = pressed.getAttribute("aria-pressed") !== "true";
      pressed.setAttribute("aria-pressed", shown);
      pressed.closest(".charts").querySelectorAll(".panels .s" + pressed.dataset.series).forEach(function (mark) {
        mark.style.display = shown ? "" : "none";
      });
    });
  });

  // Pages from disk may be refused the clipboard: then the text is selected, for the reader to copy.
  document.querySelectorAll(".copied").forEach(function (block) {
    var copy = document.createElement("button"), text = block.querySelector("pre");
    copy.type = "button";
    copy.textContent = "Copy";
    block.appendChild(copy);
    copy.addEventListener("click", function () {
      var said = function (word) {
        copy.textContent = word;
        setTimeout(function () { copy.textContent = "Copy"; }, 2000);
      };
      var select = function () {
        getSelection().selectAllChildren(text);
        said("Selected");
      };
      if (navigator.clipboard) navigator.clipboard.writeText(text.textContent).then(function () { said("Copied"); }, select);
      else select();
    });
  });

  // What scrolls sideways is reached by keyboard where it does.
  function reachable() {
    document.querySelectorAll(".scroll, pre").forEach(function (box) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
  }
  addEventListener("resize", reachable);
  document.querySelectorAll("details").forEach(function (part) { part.addEventListener("toggle", reachable); });
  reachable();

  var links = document.querySelectorAll("nav a");
  function mark() {
    var current = null;
    links.forEach(function (link) {
      var section = document.getElementById(link.hash.slice(1));
      if (section.getBoundingClientRect().top < innerHeight / 3) current = link;
    });
    links.forEach(function (link) {
      if (link === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  }
  addEventListener("scroll", mark, { passive: true });
  mark();
})();
