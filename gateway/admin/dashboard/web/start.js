// Stands in the page and runs before it is painted: it chooses the colours, so that the page does not flash in the wrong ones, and has
// the page's module loaded behind the first paint, which it would hold up.
(function () {
  let theme = null;
  try {
    theme = localStorage.getItem('sluice.theme');
  } catch { /* storage may be forbidden; then the system decides */ }
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;

  const load = () => import(document.querySelector('meta[name=module]').content);

  // Nothing is painted of a page that nobody sees.
  addEventListener('DOMContentLoaded', () => (document.hidden ? load() : requestAnimationFrame(() => setTimeout(load))));
})();
