// A consumer's own page: its keys, its usage, its limits.

import { h, replace } from './lib/dom.js';
import { get, getText, segment, send } from './lib/api.js';
import { ask, problemNotice, toast } from './lib/dialog.js';
import { table } from './lib/table.js';
import { chips, head, panel, pill } from './lib/parts.js';
import { forget, take, token } from './lib/session.js';
import * as f from './lib/format.js';

const main = document.getElementById('main');

take();
addEventListener('hashchange', () => { // another link in the same tab
  take();
  show();
});
document.addEventListener('sluice:login', over);
show();

// over says that the link opens nothing.
function over() {
  forget();
  for (const open of document.querySelectorAll('dialog[open]')) open.close();
  replace(main, head('Keys and usage'), h('p', { class: 'notice bad', role: 'alert' },
    'This page opens with a link, which has expired, was revoked, or is not whole. Ask those who run the gateway for a new one.'));
}

async function show() {
  if (!token()) {
    over();
    return;
  }
  let self;
  try {
    self = await get('/developer/api/self');
  } catch (error) {
    if (error.status !== 401) replace(main, head('Keys and usage'), problemNotice(error));
    return;
  }
  document.title = `${self.consumer}: keys and usage`;
  replace(main,
    head(self.consumer, { sub: [self.plan && `Plan ${self.plan}. `, `This page is open until ${f.time(self.until)}.`], mark: !self.may_change && pill('read only') }),
    h('div', { class: 'stack' }, keysOf(self), limitsOf(self), usage()));
}

function keysOf(self) {
  const list = table({
    caption: 'Keys', noun: 'key', key: (k) => `${k.source} ${k.id}`, empty: 'No key.', sorted: [3, true],
    columns: [
      { label: 'Key', value: (k) => k.name ?? k.id, cell: (k) => [h('code', {}, k.id), k.name && h('div', { class: 'muted small' }, k.name)] },
      { label: 'Begins', cell: (k) => k.hint && h('code', {}, `${k.hint}…`) },
      { label: 'State', value: (k) => k.state, cell: (k) => pill(k.state, k.state === 'active' ? 'good' : 'bad') },
      { label: 'Made', value: (k) => k.created ?? '', cell: (k) => (k.created ? f.time(k.created) : 'in the configuration') },
      { label: 'Expires', value: (k) => k.expires ?? '', cell: (k) => (k.expires ? f.time(k.expires) : 'never') },
      { label: 'Last used', value: (k) => k.last_used ?? '', cell: (k) => (k.last_used ? f.ago(k.last_used) : k.source === 'configuration' ? '–' : 'never') },
      { label: 'Only', cell: (k) => chips([...(k.cidrs ?? []), ...(k.methods ?? []), ...(k.paths ?? [])]) },
      ...(self.may_change ? [{ label: 'Change', act: true, cell: (k) => k.state === 'active' && k.source !== 'configuration' && [
        !k.replaced_by && h('button', { type: 'button', class: 'slim', 'aria-label': `Rotate ${k.id}`, onclick: () => rotate(k) }, 'Rotate'), ' ',
        h('button', { type: 'button', class: 'slim', 'aria-label': `Revoke ${k.id}`, onclick: () => revoke(k) }, 'Revoke')] }] : []),
    ],
  });
  list.update(self.keys);
  return panel('Keys', list.node, { bare: true });
}

async function rotate(k) {
  const overlap = h('select', { id: 'overlap', name: 'overlap' },
    [['a day', '24h'], ['an hour', '1h'], ['a week', '7d'], ['not at all', '0s']].map(([text, value]) => h('option', { value }, text)));
  const made = await ask({
    title: 'Rotate this key?', confirm: 'Rotate',
    text: [h('p', {}, h('code', {}, k.id)), 'A new key takes its place, with the same limits and the same end.'],
    fields: h('div', { class: 'field' }, h('label', { for: 'overlap' }, 'The old one stays valid for'), overlap),
    act: (form) => send('POST', `/developer/api/keys/${segment(k.id)}/rotate`, { overlap: form.get('overlap') }),
  });
  if (!made) return;
  await ask({
    title: 'The new key', confirm: 'I have kept it', act: () => true,
    text: ['It is shown this once.', h('p', {}, h('code', { id: 'new-key' }, made.key))],
  });
  await show();
}

async function revoke(k) {
  const done = await ask({
    title: 'Revoke this key?', danger: true, confirm: 'Revoke',
    text: [h('p', {}, h('code', {}, k.id)), 'Requests with it are refused from now on. It can not be taken back.'],
    act: () => send('DELETE', `/developer/api/keys/${segment(k.id)}`),
  });
  if (!done) return;
  toast(`The key ${k.id} was revoked.`);
  await show();
}

function limitsOf(self) {
  const kinds = { rate_limit: 'rate', response_rate_limit: 'answers', quota: 'quota' };
  const rows = self.limits.flatMap((e) => e.windows.map((w, i) => ({ ...w, i, policy: e.policy, scope: e.scope })));
  const list = table({
    caption: 'Limits', noun: 'limit', key: (w) => [w.policy, w.scope, w.i].join(' '), empty: 'No limit counts this consumer\'s requests.',
    text: rows.length > 20 && ((w) => `${kinds[w.policy]} ${w.scope} ${w.name}`),
    columns: [
      { label: 'Limit', cell: (w) => kinds[w.policy] ?? w.policy },
      { label: 'Of', cell: (w) => h('code', {}, w.scope) },
      { label: 'Requests', number: true, cell: (w) => `${f.count(w.requests)} per ${w.period || f.per(w.per)}` },
      { label: 'Used', number: true, cell: (w) => f.count(w.used) },
      { label: 'Left', number: true, cell: (w) => f.count(w.remaining) },
      { label: 'Whole again in', number: true, cell: (w) => (w.used > 0 ? f.span(w.reset) : '–') },
    ],
  });
  list.update(rows);
  return [panel('Limits', list.node, { bare: true }), self.more_limits && h('p', { class: 'muted' }, 'There are more limits than are shown.')];
}

// usage shows what was recorded, by route.
function usage() {
  const span = h('select', { id: 'span' }, [['Last hour', 3600], ['Last day', 86400], ['Last week', 604800], ['Last 30 days', 2592000]].map(([text, value]) => h('option', { value }, text)));
  span.value = 86400;
  const step = h('select', { id: 'step' }, [['in all', 'total'], ['by day', 'day'], ['by hour', 'hour'], ['by minute', 'minute']].map(([text, value]) => h('option', { value }, text)));
  const place = h('div', { class: 'stack' });
  const field = (label, input) => h('div', { class: 'field w2' }, h('label', { for: input.id }, label), input);
  const form = h('form', { class: 'form' }, field('Time', span), field('Rows', step),
    h('div', { class: 'w4 chips' }, h('button', { type: 'submit' }, 'Show'), h('button', { type: 'button', onclick: save }, 'Export CSV')));

  const path = (format) => {
    const to = new Date();
    const from = new Date(to.getTime() - Number(span.value) * 1000);
    const plain = (t) => t.toISOString().replace(/\.\d+/, '');
    return `/developer/api/usage?${new URLSearchParams({ from: plain(from), to: plain(to), step: step.value, format })}`;
  };

  async function look() {
    try {
      replace(place, rowsOf(await get(path('json'))));
    } catch (error) {
      replace(place, error.missing ? h('p', { class: 'notice' }, 'This gateway keeps no usage.') : problemNotice(error));
    }
  }

  async function save() {
    try {
      const url = URL.createObjectURL(new Blob([await getText(path('csv'))], { type: 'text/csv' }));
      h('a', { href: url, download: 'usage.csv' }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    } catch (error) {
      replace(place, problemNotice(error));
    }
  }

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    look();
  });
  look();
  return h('div', { class: 'stack' }, panel('Usage', form), place);
}

function rowsOf({ rows, total, step, gaps, waiting }) {
  const counted = (label, of, write = f.count) => ({ label, number: true, value: of, cell: (r) => write(of(r)) });
  const list = table({
    caption: 'Usage', noun: 'row', key: (r) => `${r.at} ${r.route}`, empty: 'Nothing was used in this time.', sorted: step === 'total' ? [1, true] : [0, true],
    columns: [
      ...(step === 'total' ? [] : [{ label: 'Time', value: (r) => r.at ?? '', cell: (r) => f.time(r.at) }]),
      { label: 'Route', value: (r) => r.route, cell: (r) => r.route },
      counted('Requests', (r) => r.requests), counted('4xx', (r) => r.by_class['4xx'] ?? 0), counted('5xx', (r) => r.by_class['5xx'] ?? 0), counted('Denied', (r) => r.denied),
      counted('Received', (r) => r.bytes_in, f.bytes), counted('Sent', (r) => r.bytes_out, f.bytes),
      counted('p50', (r) => r.latency_ms.p50, f.ms), counted('p95', (r) => r.latency_ms.p95, f.ms),
    ],
  });
  list.update(rows);
  return [
    waiting && h('p', { class: 'notice warn' }, 'What was counted last is not in here yet.'),
    gaps.length > 0 && h('p', { class: 'notice warn' }, `Usage may be missing: ${gaps.map((g) => `${f.time(g.from)} to ${f.time(g.to)}`).join(', ')}.`),
    panel('', list.node, { bare: true }),
    h('p', { class: 'muted' }, `In all ${f.plural(total.requests, 'request')}, ${f.count(total.denied)} denied, ${f.bytes(total.bytes_out)} sent.`),
  ];
}
