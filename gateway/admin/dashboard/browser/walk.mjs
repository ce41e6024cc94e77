// Walks every page of the dashboard as its users do, in light and dark, on desks and phones, and says what is wrong with it.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fault, figure, firstPaint, launch } from './browser.mjs';

const { URL_PLAIN, URL_TOKEN, URL_MANY, TOKEN } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

// Answers that the browser itself reports as errors, and that the walk asks for.
const expected = [/\/api\/usage\b.*(404|409|501)/, /\/api\/top.*404/, /\/keys.*(404|409|501)/, /\/endpoints.*409/, /\/api\/stats\?top=0.*401/, /\/developer\/api\/self.*401/, /\/api\/stats.*401/, /\/api\/config\/reload.*400/];

const browser = await launch();

// open gives a page that reports every error, and every request that leaves the listener.
async function open(address, options = {}, base = address) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20000);
  page.on('pageerror', (e) => fault(`${page.url()}: ${e.stack}`));
  page.on('console', (m) => {
    const text = `${m.location().url} ${m.text()}`;
    if (['error', 'warning'].includes(m.type()) && !expected.some((e) => e.test(text))) fault(`${page.url()}: console: ${text}`);
  });
  page.on('request', (r) => { if (!r.url().startsWith(base)) fault(`${page.url()}: asks ${r.url()}`); });
  await page.goto(address);
  await alive(page);
  return page;
}

// alive waits until a page's scripts, which are loaded behind the first paint, have taken over.
const alive = (page) => page.locator('main h1[tabindex], main form').first().waitFor();

// What axe looks at. The colours are all that differs between light and dark, and all that a phone does not change.
const everything = {};
const colours = { runOnly: ['color-contrast'] };
const structure = { rules: { 'color-contrast': { enabled: false } } };

async function audit(page, state, looked = everything) {
  if (!await page.evaluate(() => "axe" in window)) await page.evaluate(axe);
  const { violations } = await page.evaluate((options) => window.axe.run(document, options), { resultTypes: ['violations'], ...looked });
  for (const v of violations) {
    if (['serious', 'critical', 'moderate'].includes(v.impact)) fault(`${state}: axe: ${v.id} (${v.impact}): ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.html).join(' ')}`);
  }
  const [wide, room] = await page.evaluate(() => [document.scrollingElement.scrollWidth, window.innerWidth]);
  if (wide > room) fault(`${state}: is ${wide} pixels wide where there are ${room}`);
}

const check = (ok, text) => { if (!ok) fault(text); };
const go = (page, hash) => page.evaluate((to) => { location.hash = to; }, hash);
const row = (page, text) => page.locator('tbody tr', { hasText: text });
const dialog = (page) => page.locator('dialog[open]');

// pages are all of them, each with what shows that it has its data.
const pages = [
  ['#/overview', (p) => row(p.locator('section', { hasText: 'Busiest routes' }), 'users').waitFor()],
  ['#/routes', (p) => row(p, 'products').waitFor()],
  ['#/routes/users', async (p) => {
    await p.locator('summary', { hasText: 'rate_limit' }).click();
    await p.locator('code', { hasText: 'requests' }).first().waitFor();
  }],
  ['#/routes/shop', (p) => p.getByText('rollout').first().waitFor()],
  ['#/explain', async (p) => {
    await p.getByLabel('Paste a request').fill("curl -X GET 'http://localhost/api/v1/users/7?x=1' \\\n  -H 'X-API-Key: k' -H \"Accept: a/b\"");
    await p.getByRole('button', { name: 'Explain' }).click();
    await p.locator('section', { hasText: 'Result' }).getByRole('link', { name: 'users' }).waitFor();
    check(await p.getByLabel('Headers').inputValue() === 'X-API-Key: k\nAccept: a/b', 'the headers of a curl line were not taken over');
    check((await p.locator('main').textContent()).includes('GET http://localhost/api/v1/users/7?x=1'), 'does not say how the request is seen');
  }],
  ['#/services', (p) => row(p, 'orders').first().waitFor()],
  ['#/releases', (p) => p.locator('.steps [aria-current]').waitFor()],
  ['#/limits', (p) => row(p, 'consumer:alice').first().waitFor()],
  ['#/consumers', (p) => row(p, 'alice').waitFor()],
  ['#/consumers/alice', (p) => p.getByRole('heading', { name: 'Keys' }).waitFor()],
  ['#/usage', (p) => p.getByText(/Not available|rows?\b/).first().waitFor()],
  ['#/cache', (p) => row(p, 'products').waitFor()],
  ['#/certificates', (p) => row(p, 'secure.example').waitFor()],
  ['#/configuration', async (p) => {
    await p.locator('.pill', { hasText: 'failed' }).first().waitFor();
    await p.locator('.tree summary', { hasText: 'services' }).click();
    await p.locator('.tree summary', { hasText: 'users' }).first().waitFor();
  }],
];

async function walk(page, state, looked) {
  for (const [hash, ready] of pages) {
    await go(page, hash);
    try {
      await ready(page);
    } catch (error) {
      fault(`${state} ${hash}: ${error.message.split('\n').slice(0, 3).join(' ')}: ${(await page.locator('main').innerText()).slice(0, 400)}`);
      continue;
    }
    await audit(page, `${state} ${hash}`, looked);
  }
}

async function actions(page) {
  // A dialog that is given up changes nothing, and the keyboard is enough for it.
  await go(page, '#/services');
  const up = row(page, 'users').filter({ hasText: 'up' });
  await up.first().waitFor();
  await page.getByRole('button', { name: /^Drain .* of users/ }).first().focus();
  await page.keyboard.press('Enter');
  await dialog(page).waitFor();
  await audit(page, 'a dialog');
  await page.keyboard.press('Escape');
  await dialog(page).waitFor({ state: 'detached' });
  check(await row(page, 'draining').count() === 0, 'an endpoint drains although nobody said so');

  await page.getByRole('button', { name: /^Drain .* of users/ }).first().click();
  await dialog(page).getByRole('button', { name: 'Drain' }).click();
  await row(page, 'draining').waitFor();
  // The last one only after a second question.
  await page.getByRole('button', { name: /^Drain .* of users/ }).first().click();
  await dialog(page).getByRole('button', { name: 'Drain' }).click();
  await dialog(page).getByText('answered with 503').waitFor();
  await dialog(page).getByRole('button', { name: 'Cancel' }).click();
  check(await row(page, 'draining').count() === 1, 'the last endpoint drains');
  await page.getByRole('button', { name: /^Take back .* of users/ }).click();
  await dialog(page).getByRole('button', { name: 'Take back' }).click();
  await row(page, 'draining').waitFor({ state: 'detached' });

  await go(page, '#/releases');
  await page.getByRole('button', { name: 'Advance' }).click();
  await dialog(page).getByRole('button', { name: 'Advance' }).click();
  await page.locator('.steps [aria-current]', { hasText: '50%' }).waitFor();
  await page.getByRole('button', { name: 'Set weights' }).click();
  await dialog(page).getByLabel('canary').fill('30');
  await dialog(page).getByLabel('stable').fill('70');
  await dialog(page).getByRole('button', { name: 'Set' }).click();
  await page.getByText('30% (weight 30)').waitFor();
  await page.getByRole('button', { name: 'Switch' }).click();
  await dialog(page).getByLabel('stable').check();
  await dialog(page).getByRole('button', { name: 'Switch' }).click();
  await page.getByText(/100% \(weight/).waitFor();

  await go(page, '#/cache');
  await page.getByLabel('Value').fill('products');
  await page.getByRole('button', { name: 'Purge' }).click();
  await dialog(page).getByRole('button', { name: 'Purge' }).click();
  await page.locator('.toast', { hasText: 'purged' }).waitFor();

  await go(page, '#/configuration');
  await page.getByRole('button', { name: 'Reload' }).click();
  await dialog(page).getByRole('button', { name: 'Reload' }).click();
  await dialog(page).waitFor({ state: 'detached' });
  const latest = page.locator('details.fold', { hasText: 'Generation 2' });
  await latest.getByText('difference').first().waitFor();
  await latest.locator('summary').click();
  await latest.getByText('1600').first().waitFor();
  await audit(page, 'differences');
}

// contract has the pages of keys and usage show answers as the contract has them, whether or not this gateway keeps any.
async function contract(page) {
  let revoked = false;
  await page.route('**/api/consumers/alice/keys', (route) => route.fulfill({ json: { keys: [
    { id: 'k1', source: 'configuration', state: 'expired', expires: '2025-06-01T00:00:00Z' },
    { id: 'k2', name: 'for the app', source: 'api', state: revoked ? 'revoked' : 'active', created: '2026-01-01T00:00:00Z', last_used: '2026-02-01T00:00:00Z', cidrs: ['10.0.0.0/8'] },
  ] } }));
  await page.route('**/api/consumers/alice/keys/k2', (route) => {
    revoked = route.request().method() === 'DELETE';
    return route.fulfill({ status: 204 });
  });
  const latency = { p50: 1.5, p95: 12.5, p99: 30 };
  await page.route('**/api/usage*', (route) => route.fulfill({ json: {
    step: 'total', by: ['consumer'], gaps: [{ instance: 'a', from: '2026-01-01T00:00:00Z', to: '2026-01-01T00:01:00Z' }],
    rows: [{ consumer: 'alice', requests: 12345, by_class: { '2xx': 12000, '4xx': 345 }, denied: 345, bytes_in: 1, bytes_out: 1048576, latency_ms: latency }],
    total: { requests: 12345, by_class: {}, denied: 345, bytes_in: 1, bytes_out: 1048576, latency_ms: latency },
  } }));
  await page.route('**/api/top', (route) => route.fulfill({ json: {
    since: '2026-01-01T00:00:00Z', consumers: [{ consumer: 'bob', requests: 777, denied: 7, errors: 1, bytes_in: 1, bytes_out: 2048 }],
    denied: [{ route: 'users', reason: 'rate_limited', requests: 70 }], slow_routes: [{ route: 'users', requests: 700, p50_ms: 1, p95_ms: 2, p99_ms: 3 }],
  } }));
  await go(page, '#/consumers/alice');
  await page.getByRole('button', { name: 'Revoke k2' }).click();
  await dialog(page).getByRole('button', { name: 'Revoke' }).click();
  await row(page, 'k2').getByText('revoked').waitFor();
  await audit(page, 'keys');
  await go(page, '#/usage');
  await row(page, '12,345').getByText('1.0 MiB').waitFor();
  await row(page, 'rate_limited').getByText('70').waitFor();
  await row(page, 'bob').getByText('777').waitFor();
  const saved = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Export CSV' }).click();
  check((await saved).suggestedFilename() === 'usage.csv', 'the export is not saved as usage.csv');
  await audit(page, 'usage');
}

// minting makes a key and a link in the operators' page, and has the link's page opened by somebody who has nothing else.
async function minting(page) {
  await go(page, '#/consumers/alice');
  await page.getByRole('button', { name: 'Make a key' }).click();
  await dialog(page).getByLabel('What it is for').fill('for the walk');
  await audit(page, 'making a key');
  await page.keyboard.press('Enter');
  const key = await page.locator('#shown-once').innerText();
  check(/^slk_\w{40,}$/.test(key), `${key} is no key`);
  await audit(page, 'a new key');
  await dialog(page).getByRole('button', { name: 'I have kept it' }).click();
  await row(page, 'for the walk').getByText('active').waitFor();
  check(!(await page.content()).includes(key), 'the key stands in the page after it was shown');

  const linkOf = async (change) => {
    await page.getByRole('button', { name: 'Make a link' }).click();
    if (change) await dialog(page).getByLabel('May rotate').check();
    await dialog(page).getByRole('button', { name: 'Make' }).click();
    const link = await page.locator('#shown-once').innerText();
    await dialog(page).getByRole('button', { name: 'I have kept it' }).click();
    return link;
  };
  const [looks, changes] = [await linkOf(false), await linkOf(true)];

  for (const [state, options, looked] of [['light', { colorScheme: 'light' }, everything], ['dark', { colorScheme: 'dark' }, colours], ['phone', phone, structure]]) {
    const own = await open(looks, options, new URL(looks).origin);
    await row(own, 'for the walk').getByText('active').waitFor();
    await own.locator('section', { hasText: 'Limits' }).getByText('per').first().waitFor();
    await own.getByText(/In all [\d,]+ request/).waitFor();
    check(new URL(own.url()).hash === '', 'the token of a link stays in the address');
    check(await own.getByRole('button', { name: /Rotate|Revoke/ }).count() === 0, 'a link that may only look changes keys');
    check(!(await own.content()).includes('bob'), 'a page shows another consumer');
    await audit(own, `a consumer's page, ${state}`, looked);
    await own.context().close();
  }

  // Who has sent nothing yet sees what there will be to keep to.
  await go(page, '#/consumers/dora');
  await page.getByRole('heading', { name: 'dora' }).waitFor();
  const idle = await linkOf(false);
  const fresh = await open(idle, phone, new URL(idle).origin);
  for (const [scope, requests] of [['plans.gold', /^1,000,000/], ['routes.users', /^1,[56]00/]]) { // another step of the walk reloads
    const limit = fresh.locator('section', { hasText: 'Limits' }).locator('tr', { hasText: scope });
    await limit.waitFor();
    const cells = await limit.getByRole('cell').allInnerTexts();
    check(cells.filter((t) => requests.test(t)).length === 2 && cells.includes('0'), `an unused limit of ${scope} is shown as ${cells}`);
  }
  await audit(fresh, 'a page without use', structure);
  await fresh.context().close();

  const own = await open(changes, {}, new URL(changes).origin);
  await own.getByRole('button', { name: /^Rotate/ }).first().focus();
  await own.keyboard.press('Enter');
  await dialog(own).getByLabel('The old one').selectOption('1h');
  await audit(own, 'rotating');
  await dialog(own).getByRole('button', { name: 'Rotate' }).click();
  await own.locator('#new-key').waitFor();
  check(/^slk_/.test(await own.locator('#new-key').innerText()), 'a rotation shows no key');
  await dialog(own).getByRole('button', { name: 'I have kept it' }).click();
  await own.locator('tbody tr', { hasText: 'for the walk' }).nth(1).waitFor();
  await own.getByRole('button', { name: /^Revoke/ }).first().click();
  await own.keyboard.press('Escape');
  await dialog(own).waitFor({ state: 'detached' });
  check(await row(own, 'revoked').count() === 0, 'a key is revoked although nobody said so');
  await own.getByRole('button', { name: /^Revoke/ }).first().click();
  await dialog(own).getByRole('button', { name: 'Revoke' }).click();
  await row(own, 'revoked').waitFor();
  await own.reload();
  await row(own, 'revoked').waitFor();
  await own.evaluate(() => { location.hash = 'not.whole'; });
  await own.getByText('Ask those who run the gateway').waitFor();
  await audit(own, 'a link that is over');
  check(await own.evaluate(() => sessionStorage.length) === 0, 'the token of a link is kept after its end');
  await own.context().close();
}

async function keyboard(page) {
  await page.goto(`${URL_PLAIN}/#/overview`);
  await page.reload();
  await alive(page);
  await page.keyboard.press('Tab');
  check(await page.evaluate(() => document.activeElement.id) === 'skip', 'the first stop is not the way to the content');
  await page.keyboard.press('Enter');
  check(await page.evaluate(() => document.activeElement.id) === 'main', 'skipping does not lead to the content');
  await page.getByRole('link', { name: 'Routes', exact: true }).focus();
  await page.keyboard.press('Enter');
  await row(page, 'products').waitFor();
  check(await page.evaluate(() => document.activeElement.tagName) === 'H1', 'the heading of a page that was gone to has no focus');
  const sort = page.getByRole('button', { name: 'Requests/s' });
  await sort.focus();
  await page.keyboard.press('Space');
  check(await page.locator('th[aria-sort=descending]').innerText().then((t) => t.startsWith('Requests/s')), 'a column can not be sorted by key');
  await page.getByRole('button', { name: /^Theme/ }).click();
  await page.getByRole('button', { name: /^Theme: light/ }).click();
  check(await page.evaluate(() => getComputedStyle(document.body).backgroundColor) === 'rgb(13, 18, 24)', 'dark was chosen and it is not');
  await page.reload();
  await alive(page);
  check(await page.getByRole('button', { name: 'Theme: dark' }).isVisible(), 'the scheme that was chosen is forgotten');
}

async function login(page) {
  await page.getByLabel('Admin token').fill('wrong');
  await audit(page, 'login');
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByText('does not take this token').waitFor();
  await page.getByLabel('Admin token').fill(TOKEN);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  await page.reload();
  await alive(page);
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  check(!(await page.content()).includes(TOKEN), 'the token stands in the page');
  const kept = await page.evaluate(() => [Object.values({ ...localStorage }).join(), document.cookie].join());
  check(!kept.includes(TOKEN), 'the token is kept beyond the tab');
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByLabel('Admin token').waitFor();
  check(await page.evaluate(() => sessionStorage.length) === 0, 'the token is kept after logging out');
}

async function many(page) {
  await page.evaluate(() => {
    window.longest = 0;
    new PerformanceObserver((list) => { for (const e of list.getEntries()) window.longest = Math.max(window.longest, e.duration); }).observe({ type: 'longtask' });
  });
  const begun = Date.now();
  await page.evaluate(() => { location.hash = '#/routes'; });
  await page.getByText('1,000 routes').waitFor();
  figure('1,000 routes listed', Date.now() - begun, 'ms');
  check(await page.locator('tbody tr').count() === 50, 'more than a page of rows stands in the document');
  await page.getByRole('button', { name: 'Next' }).click();
  await row(page, 'route-0099').waitFor();
  const typed = Date.now();
  await page.getByLabel('Search routes').fill('route-0777');
  await row(page, 'route-0777').waitFor();
  figure('searched among 1,000 routes', Date.now() - typed, 'ms');
  await page.getByText('1 of 1,000 routes').waitFor();
  await page.getByLabel('Search routes').fill('/p/500');
  await row(page, 'route-0500').waitFor();
  await page.getByLabel('Search routes').fill('');
  await page.getByRole('button', { name: 'p95' }).click();
  figure('longest task of the page with 1,000 routes', await page.evaluate(() => window.longest), 'ms');
  await audit(page, '1,000 routes');
  for (const hash of ['#/configuration', '#/services', '#/overview']) {
    await go(page, hash);
    await page.locator('main h1').waitFor();
  }
}

// step does a part, on a page of its own.
async function step(name, base, options, act) {
  const begun = Date.now();
  const page = await open(base, options);
  try {
    await act(page);
  } catch (error) {
    fault(`${name}, at ${page.url()}: ${error.message}`);
  }
  await page.context().close();
  figure(name, (Date.now() - begun) / 1000, 's');
}

const phone = { viewport: { width: 390, height: 800 }, hasTouch: true };

await firstPaint(browser, URL_MANY); // the first page of a browser waits for the browser
figure('first paint', (await firstPaint(browser, URL_MANY)).paint, 'ms');
await Promise.all([
  step('pages in light', URL_PLAIN, { colorScheme: 'light' }, (page) => walk(page, 'light', everything)),
  step('pages in dark', URL_PLAIN, { colorScheme: 'dark' }, (page) => walk(page, 'dark', colours)),
  step('pages on a phone', URL_PLAIN, phone, async (page) => {
    await page.getByRole('button', { name: 'Menu' }).click();
    await page.getByRole('link', { name: 'Services' }).waitFor();
    await walk(page, 'phone', structure);
  }),
]);
await Promise.all([
  step('keyboard', URL_PLAIN, {}, keyboard),
  step('login', URL_TOKEN, {}, login),
  step('actions', URL_PLAIN, { colorScheme: 'dark' }, actions),
  step('keys and usage', URL_PLAIN, {}, contract),
  step('a key, and a consumer\'s page', URL_PLAIN, {}, minting),
]);
await step('many routes', URL_MANY, {}, many);
await browser.close();
