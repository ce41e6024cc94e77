// Runs before the page is painted, so that it does not flash in the wrong colours.
(function () {
  let theme = null;
  try {
    theme = localStorage.getItem('sluice.theme');
  } catch { /* storage may be forbidden; then the system decides */ }
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
})();
