// Stands in the page and runs before it is painted: it chooses the colours, so that the page does not flash in the wrong ones, and has
// the page's modules loaded behind the first paint, which their number would hold up, all at once.
(function () {
  let theme = null;
  try {
    theme = localStorage.getItem('sluice.theme');
  } catch { /* storage may be forbidden; then the system decides */ }
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;

  function load() {
    const modules = document.querySelector('meta[name=modules]').content.split(' ');
    for (const href of modules) document.head.append(Object.assign(document.createElement('link'), { rel: 'modulepreload', href }));
    import(modules[0]);
  }

  // Nothing is painted of a page that nobody sees.
  addEventListener('DOMContentLoaded', () => (document.hidden ? load() : requestAnimationFrame(() => setTimeout(load))));
})();
