// The admin API.

import { token } from './session.js';

// Problem is an answer that says what is wrong (RFC 9457), or that there was none (status 0).
export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail || body?.title || (status ? `The gateway answered ${status}.` : 'The gateway does not answer.'));
    this.status = status;
    this.reason = (body?.type ?? '').replace('urn:sluice:', '');
    this.errors = body?.errors ?? [];
  }

  // missing tells a reader that this gateway, as it is built and configured, does not have what was asked for.
  get missing() { return [404, 409, 501].includes(this.status); }

  // operators tells that the token is a tenant's, and that what was asked for is not.
  get operators() { return this.status === 403 && this.reason === 'operators_only'; }
}

export const get = async (path, signal) => (await ask('GET', path, { signal })).json();

export const getText = async (path, signal) => (await ask('GET', path, { signal })).text();

// getTagged gives the answer with its ETag.
export async function getTagged(path, signal) {
  const response = await ask('GET', path, { signal });
  return { value: await response.json(), etag: response.headers.get('ETag') };
}

export async function send(method, path, body, headers) {
  const response = await ask(method, path, { body, headers });
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

async function ask(method, path, { body, headers = {}, signal } = {}) {
  const carried = token();
  if (carried) headers = { ...headers, Authorization: `Bearer ${carried}` };
  if (body !== undefined) {
    headers = { ...headers, 'Content-Type': 'application/json' };
    body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal, credentials: 'omit' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0);
  }
  if (response.ok) return response;
  let problem = null;
  try {
    problem = await response.json();
  } catch { /* whatever stands between may answer with anything */ }
  if (response.status === 401) document.dispatchEvent(new CustomEvent('sluice:login'));
  throw new Problem(response.status, problem);
}

export const segment = encodeURIComponent;
