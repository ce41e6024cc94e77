import { h, replace } from '../lib/dom.js';
import { get, getText } from '../lib/api.js';
import { every } from '../lib/poll.js';
import { problemNotice } from '../lib/dialog.js';
import { table } from '../lib/table.js';
import { head, link, panel, trouble } from '../lib/parts.js';
import * as f from '../lib/format.js';

export const title = 'Usage';

const spans = [['Last hour', 3600], ['Last day', 86400], ['Last week', 604800], ['Last 30 days', 2592000]];
const steps = [['in all', 'total'], ['by day', 'day'], ['by hour', 'hour'], ['by minute', 'minute']];
const dimensions = ['consumer', 'tenant', 'route', 'version'];

export function show(main, { signal }) {
  main.append(head('Usage', { sub: 'Who calls most, what is refused and what is slow in the last minutes, and what was recorded for longer.' }),
    h('div', { class: 'stack' }, recent(signal), recorded(signal)));
}

const callerLink = (name) => (name ? h('a', { href: link('consumers', name) }, name) : h('span', { class: 'muted' }, 'nobody known'));
const routeLink = (name) => (name && name !== '-' ? h('a', { href: link('routes', name) }, name) : h('span', { class: 'muted' }, 'no route'));
const counted = (label, of, write = f.count) => ({ label, number: true, value: of, cell: (r) => write(of(r)) });

// recent shows the last minutes, which the gateway always knows.
function recent(signal) {
  const wrong = trouble();
  const callers = table({
    caption: 'Who calls most', noun: 'caller', key: (c) => `${c.tenant ?? ''} ${c.consumer}`, page: 10, empty: 'Nobody called.', sorted: [1, true],
    columns: [
      { label: 'Consumer', value: (c) => c.consumer, cell: (c) => [callerLink(c.consumer), c.tenant && h('span', { class: 'muted' }, ` of ${c.tenant}`)] },
      counted('Requests', (c) => c.requests), counted('Denied', (c) => c.denied), counted('5xx', (c) => c.errors), counted('Sent', (c) => c.bytes_out, f.bytes),
    ],
  });
  const denials = table({
    caption: 'What is refused', noun: 'reason', key: (d) => `${d.route} ${d.reason}`, page: 10, empty: 'Nothing was refused.', sorted: [2, true],
    columns: [{ label: 'Route', value: (d) => d.route, cell: (d) => routeLink(d.route) }, { label: 'Reason', value: (d) => d.reason, cell: (d) => d.reason }, counted('Requests', (d) => d.requests)],
  });
  const slow = table({
    caption: 'What is slow', noun: 'route', key: (r) => r.route, page: 10, empty: 'No request.', sorted: [2, true],
    columns: [{ label: 'Route', value: (r) => r.route, cell: (r) => routeLink(r.route) }, counted('p50', (r) => r.p50_ms, f.ms), counted('p95', (r) => r.p95_ms, f.ms), counted('Requests', (r) => r.requests)],
  });
  const panels = h('div', { class: 'columns', hidden: true },
    panel('Who calls most', callers.node, { bare: true }), panel('What is refused', denials.node, { bare: true }), panel('What is slow', slow.node, { bare: true }));
  const vain = new AbortController();
  every(5000, AbortSignal.any([signal, vain.signal]), async () => {
    let top;
    try {
      top = await get('/api/top', signal);
    } catch (error) {
      if (!error.missing) throw error;
      vain.abort();
      replace(panels.parentElement, h('p', { class: 'notice' }, 'Not available: this gateway does not keep the last minutes.'));
      return;
    }
    wrong.clear();
    panels.hidden = false;
    callers.update(top.consumers);
    denials.update(top.denied);
    slow.update(top.slow_routes);
  }, wrong.show);
  return h('div', { class: 'stack' }, wrong.node, panels);
}

// recorded asks for what is kept of a longer time.
function recorded(signal) {
  const wrong = trouble();
  const place = h('div', { class: 'stack' });
  const choice = (id, options, chosen) => {
    const select = h('select', { id }, options.map(([text, value]) => h('option', { value }, text)));
    select.value = chosen;
    return select;
  };
  const consumer = h('input', { id: 'consumer', placeholder: 'all', autocomplete: 'off' });
  const span = choice('span', spans, 86400);
  const step = choice('step', steps, 'total');
  const by = choice('by', dimensions.map((d) => [d, d]), 'consumer');
  const field = (label, input) => h('div', { class: 'field w2' }, h('label', { for: input.id }, label), input);
  const form = h('form', { class: 'form' }, field('Consumer', consumer), field('Time', span), field('Rows', step), field('For each', by),
    h('div', { class: 'w4 chips' }, h('button', { type: 'submit' }, 'Show'), h('button', { type: 'button', onclick: () => save() }, 'Export CSV')));

  function path(format) {
    const to = new Date();
    const asked = new URLSearchParams({ from: new Date(to.getTime() - Number(span.value) * 1000).toISOString().replace(/\.\d+/, ''), to: to.toISOString().replace(/\.\d+/, ''), step: step.value, by: by.value });
    if (consumer.value.trim()) asked.set('consumer', consumer.value.trim());
    if (format) asked.set('format', format);
    return `/api/usage?${asked}`;
  }

  async function look() {
    try {
      const answer = await get(path(), signal);
      wrong.clear();
      replace(place, rowsOf(answer));
    } catch (error) {
      if (signal.aborted) return;
      replace(place);
      wrong.show(error);
    }
  }

  async function save() {
    try {
      const url = URL.createObjectURL(new Blob([await getText(path('csv'), signal)], { type: 'text/csv' }));
      h('a', { href: url, download: 'usage.csv' }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    } catch (error) {
      if (!signal.aborted) replace(place, problemNotice(error));
    }
  }

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    look();
  });
  look();
  return h('div', { class: 'stack' }, panel('Recorded', form), wrong.node, place);
}

// rowsOf shows an answer of /api/usage.
function rowsOf({ rows, total, by, step, gaps, waiting }) {
  const latency = (p) => (r) => r.latency_ms?.[p];
  const columns = [
    ...(step === 'total' ? [] : [{ label: 'Time', value: (r) => r.at ?? '', cell: (r) => f.time(r.at) }]),
    ...by.map((d) => ({ label: d[0].toUpperCase() + d.slice(1), value: (r) => r[d] ?? '', cell: (r) => (d === 'consumer' ? callerLink(r[d]) : d === 'route' ? routeLink(r[d]) : r[d] || '–') })),
    counted('Requests', (r) => r.requests), counted('4xx', (r) => r.by_class['4xx'] ?? 0), counted('5xx', (r) => r.by_class['5xx'] ?? 0), counted('Denied', (r) => r.denied),
    counted('Received', (r) => r.bytes_in, f.bytes), counted('Sent', (r) => r.bytes_out, f.bytes),
    counted('p50', latency('p50'), f.ms), counted('p95', latency('p95'), f.ms), counted('p99', latency('p99'), f.ms),
  ];
  const list = table({
    caption: 'Usage', noun: 'row', key: (r) => [r.at, ...by.map((d) => r[d])].join(' '), columns, empty: 'Nothing was used in this time.',
    text: (r) => [r.at, ...by.map((d) => r[d])].join(' '), sorted: step === 'total' ? [by.length, true] : [0, true],
  });
  list.update(rows);
  return [
    waiting && h('p', { class: 'notice warn' }, `What was counted last is not in here yet: ${waiting}`),
    gaps?.length > 0 && h('p', { class: 'notice warn' }, `Usage may be missing: ${gaps.map((g) => `${f.time(g.from)} to ${f.time(g.to)} (${g.instance})`).join(', ')}.`),
    panel('', list.node, { bare: true }),
    h('p', { class: 'muted' }, `In all ${f.plural(total.requests, 'request')}, ${f.count(total.denied)} denied, ${f.bytes(total.bytes_out)} sent.`),
  ];
}
