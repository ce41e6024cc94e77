// The token lives as long as the tab. No cookie carries it, so that no other site can make a browser send it.

const KEY = 'sluice.token';
const TENANT = 'sluice.tenant';

export const token = () => sessionStorage.getItem(KEY);

// tenant tells that the token is one of a tenant, which opens what is the tenant's own.
export const tenant = () => sessionStorage.getItem(TENANT) === 'yes';

export function keep(value) {
  sessionStorage.setItem(KEY, value);
}

export function narrow() {
  sessionStorage.setItem(TENANT, 'yes');
}

export function forget() {
  sessionStorage.removeItem(KEY);
  sessionStorage.removeItem(TENANT);
}
