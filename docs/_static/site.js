// Whoever has no mouse must be able to scroll what is wider than the page.
function reachable() {
  for (const box of document.querySelectorAll(".bd-article table, .bd-article pre, .text_html")) {
    const scrolls = box.scrollWidth > box.clientWidth;
    if (scrolls && !box.hasAttribute("tabindex")) {
      box.tabIndex = 0;
    }
  }
}
window.addEventListener("load", reachable);
window.addEventListener("resize", reachable);
