// Runs before the page is painted, so that a chosen theme never flashes the other. Without a choice the system's holds.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const read = () => { try { return localStorage.getItem("raremap.theme"); } catch { return null; } };
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const chosen = read();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  // The map is focused by clicks too; only who moves by keys needs to see that.
  addEventListener("keydown", () => { root.dataset.by = "keys"; }, true);
  addEventListener("pointerdown", () => { root.dataset.by = "pointer"; }, true);

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => button.setAttribute("aria-pressed", String(dark()));
    system.addEventListener("change", show);
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("raremap.theme", root.dataset.theme); } catch { /* the choice lasts as long as the page */ }
      show();
    });
    show();
  });
})();
