import { h, replace } from '../lib/dom.js';
import { get } from '../lib/api.js';
import { table } from '../lib/table.js';
import { head, panel, trouble } from '../lib/parts.js';
import * as f from '../lib/format.js';

export const title = 'Usage';

const spans = [['Last hour', 3600], ['Last day', 86400], ['Last week', 604800], ['Last 30 days', 2592000]];

export function show(main, { signal }) {
  const wrong = trouble();
  const place = h('div', {});
  const consumer = h('input', { id: 'consumer', placeholder: 'all', autocomplete: 'off' });
  const span = h('select', { id: 'span' }, spans.map(([name, seconds]) => h('option', { value: seconds }, name)));
  const form = h('form', { class: 'form' },
    h('div', { class: 'field w4' }, h('label', { for: 'consumer' }, 'Consumer'), consumer),
    h('div', { class: 'field w4' }, h('label', { for: 'span' }, 'Time'), span),
    h('div', { class: 'w4' }, h('button', { type: 'submit' }, 'Show')));
  main.append(head('Usage', { sub: 'What consumers have used, as it was recorded.' }), h('div', { class: 'stack' }, panel('', form), wrong.node, place));

  async function look() {
    const to = new Date();
    const from = new Date(to.getTime() - Number(span.value) * 1000);
    const asked = new URLSearchParams({ from: from.toISOString(), to: to.toISOString() });
    if (consumer.value.trim()) asked.set('consumer', consumer.value.trim());
    try {
      const answer = await get(`/api/usage?${asked}`, signal);
      wrong.clear();
      replace(place, panel('', rowsOf(answer), { bare: true }));
    } catch (error) {
      if (signal.aborted) return;
      replace(place);
      wrong.show(error);
    }
  }
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    look();
  });
  look();
}

// rowsOf shows the rows of an answer with the columns that they have.
function rowsOf(answer) {
  const rows = (Array.isArray(answer) ? answer : Object.values(answer).find(Array.isArray)) ?? [];
  const names = [...new Set(rows.flatMap((r) => Object.keys(r)))];
  const numeric = (name) => rows.every((r) => r[name] === undefined || typeof r[name] === 'number');
  const list = table({
    caption: 'Usage', noun: 'row', key: (r) => rows.indexOf(r), empty: 'Nothing was used in this time.', text: (r) => Object.values(r).join(' '),
    sorted: names.includes('requests') ? [names.indexOf('requests'), true] : undefined,
    columns: names.length ? names.map((name) => ({ label: name.replaceAll('_', ' '), number: numeric(name), value: (r) => r[name] ?? (numeric(name) ? 0 : ''), cell: (r) => shown(name, r[name]) }))
      : [{ label: 'Usage', cell: () => '' }],
  });
  list.update(rows);
  return list.node;
}

function shown(name, v) {
  if (v === undefined || v === null) return '';
  if (typeof v === 'number') return /bytes/.test(name) ? f.bytes(v) : /_ms$|^p\d+/.test(name) ? f.ms(v) : f.count(v);
  return /^\d{4}-\d\d-\d\dT/.test(v) ? f.time(v) : f.value(v);
}
