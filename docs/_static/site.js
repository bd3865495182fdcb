// What the theme leaves to be said to those who hear the page, or have no mouse.
function complete() {
  // A part of the table of contents that can be unfolded has no name of its own.
  for (const fold of document.querySelectorAll("summary:not([aria-label])")) {
    const entry = fold.closest("li")?.querySelector("a");
    if (entry && !fold.textContent.trim()) {
      fold.setAttribute("aria-label", entry.textContent.trim());
    }
  }
  // What is wider than the page has to be scrolled with the keyboard.
  for (const box of document.querySelectorAll(".bd-article table, .bd-article pre, .text_html")) {
    if (box.scrollWidth > box.clientWidth && !box.hasAttribute("tabindex")) {
      box.tabIndex = 0;
    }
  }
}
window.addEventListener("DOMContentLoaded", complete);
window.addEventListener("load", complete);
window.addEventListener("resize", complete);
