// The token of the link stands behind the # of the address, which browsers send to nobody. It is kept as long as the tab, and
// taken out of the address, so that whoever is shown the page or copies its address gets none.

const KEY = 'sluice.link';

export const token = () => sessionStorage.getItem(KEY);

// take keeps the token of the address, if there is one.
export function take() {
  const given = location.hash.slice(1);
  if (!given) return;
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, '', location.pathname);
}

export function forget() {
  sessionStorage.removeItem(KEY);
}
