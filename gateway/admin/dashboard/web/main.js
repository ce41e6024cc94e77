// The dashboard: sections on the left, and the page that the address names.

import { h, replace } from './lib/dom.js';
import { forget, tenant, token } from './lib/session.js';
import { problemNotice } from './lib/dialog.js';
import * as overview from './pages/overview.js';
import * as routes from './pages/routes.js';
import * as route from './pages/route.js';
import * as explain from './pages/explain.js';
import * as services from './pages/services.js';
import * as releases from './pages/releases.js';
import * as limits from './pages/limits.js';
import * as consumers from './pages/consumers.js';
import * as consumer from './pages/consumer.js';
import * as usage from './pages/usage.js';
import * as cache from './pages/cache.js';
import * as certificates from './pages/certificates.js';
import * as configuration from './pages/configuration.js';
import * as login from './pages/login.js';

// A page has title and show(main, {args, query, signal}); what it starts ends with the signal.
const pages = { overview, routes, explain, services, releases, limits, consumers, usage, cache, certificates, configuration };
const details = { routes: route, consumers: consumer };

// What the token of a tenant opens.
const ofTenants = ['consumers', 'limits', 'usage'];

const main = document.getElementById('main');
const nav = document.getElementById('nav');
const menu = document.getElementById('menu');
const logout = document.getElementById('logout');
let current = new AbortController();

// navigate shows the page of the address. `moved` says that somebody went there, who is to hear its heading.
function navigate(moved) {
  current.abort();
  current = new AbortController();
  const [path, search] = location.hash.replace(/^#\/?/, '').split('?');
  const [name, ...args] = path.split('/').filter(Boolean).map(decode);
  const may = tenant() ? ofTenants : Object.keys(pages);
  const section = may.includes(name) ? name : may[0];
  const page = args.length && details[section] ? details[section] : pages[section];
  for (const a of nav.querySelectorAll('li a')) {
    const to = a.getAttribute('href').slice(2);
    a.parentElement.hidden = !may.includes(to);
    if (to === section) a.setAttribute('aria-current', 'page');
    else a.removeAttribute('aria-current');
  }
  fold(false);
  logout.hidden = !token();
  replace(main);
  document.title = `${args[0] && page !== pages[section] ? `${args[0]} · ` : ''}${page.title} · Sluice`;
  const context = { args, query: new URLSearchParams(search), signal: current.signal };
  try {
    page.show(main, context);
  } catch (error) {
    replace(main, problemNotice(error));
  }
  if (moved) {
    window.scrollTo(0, 0);
    (main.querySelector('h1') ?? main).focus({ preventScroll: true });
  }
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function fold(open) {
  nav.classList.toggle('open', open);
  menu.setAttribute('aria-expanded', String(open));
}

function logIn() {
  if (main.querySelector('.login')) return;
  current.abort();
  forget();
  logout.hidden = true;
  document.title = 'Log in · Sluice';
  login.show(main, () => navigate(true));
}

const themes = ['system', 'light', 'dark'];
const themeButton = document.getElementById('theme');

function showTheme() {
  themeButton.textContent = `Theme: ${document.documentElement.dataset.theme ?? 'system'}`;
}

themeButton.addEventListener('click', () => {
  const now = document.documentElement.dataset.theme ?? 'system';
  const next = themes[(themes.indexOf(now) + 1) % themes.length];
  if (next === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem('sluice.theme', next);
  } catch { /* then it lasts as long as the page */ }
  showTheme();
});
menu.addEventListener('click', () => fold(menu.getAttribute('aria-expanded') !== 'true'));
logout.addEventListener('click', logIn);
document.getElementById('skip').addEventListener('click', (event) => {
  event.preventDefault(); // the address names the page
  main.focus();
});
document.addEventListener('sluice:login', logIn);
window.addEventListener('hashchange', () => navigate(true));
showTheme();
navigate(false);
