// The token lives as long as the tab. No cookie carries it, so that no other site can make a browser send it.

const KEY = 'sluice.token';

export const token = () => sessionStorage.getItem(KEY);
export const keep = (value) => sessionStorage.setItem(KEY, value);
export const forget = () => sessionStorage.removeItem(KEY);
