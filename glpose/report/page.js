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
})();
