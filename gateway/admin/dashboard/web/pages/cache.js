import { h } from '../lib/dom.js';
import { get, send } from '../lib/api.js';
import { every } from '../lib/poll.js';
import { ask, toast } from '../lib/dialog.js';
import { table } from '../lib/table.js';
import { head, panel, tile, trouble } from '../lib/parts.js';
import { read } from '../lib/metrics.js';
import * as f from '../lib/format.js';

export const title = 'Cache';

const HITS = new Set(['hit', 'stale', 'revalidated']);

const kinds = [
  ['route', 'Route', 'the name of a route'], ['prefix', 'Prefix', 'example.com/images/, or /images/ on any host'],
  ['url', 'URL', 'https://example.com/page'], ['tag', 'Tag', 'as the backend names it in Cache-Tag'], ['all', 'Everything', ''],
];

export function show(main, { signal }) {
  const wrong = trouble();
  const tiles = { ratio: tile('Answered from the cache'), size: tile('Size'), entries: tile('Entries'), stores: tile('Stores') };
  const list = table({
    caption: 'Cache by route', noun: 'route', key: (r) => r.route, empty: 'No request has met a cache.', sorted: [2, true], text: (r) => r.route,
    columns: [
      { label: 'Route', value: (r) => r.route, cell: (r) => r.route },
      { label: 'From the cache', number: true, value: (r) => r.hits / r.all, cell: (r) => f.percent(r.hits / r.all) },
      { label: 'Requests', number: true, value: (r) => r.all, cell: (r) => f.count(r.all) },
      { label: 'Results', cell: (r) => Object.entries(r.results).sort(([, a], [, b]) => b - a).map(([k, n]) => `${k} ${f.count(n)}`).join(', ') },
    ],
  });
  const kind = h('select', { id: 'kind', onchange: () => choose() }, kinds.map(([value, name]) => h('option', { value }, name)));
  const what = h('input', { id: 'what', required: true, autocomplete: 'off', spellcheck: 'false' });
  const form = h('form', { class: 'form' },
    h('div', { class: 'field w3' }, h('label', { for: 'kind' }, 'Purge by'), kind),
    h('div', { class: 'field w6' }, h('label', { for: 'what' }, 'Value'), what),
    h('div', { class: 'w3' }, h('button', { type: 'submit' }, 'Purge')));
  main.append(head('Cache'), h('div', { class: 'stack' }, wrong.node,
    h('div', { class: 'tiles' }, Object.values(tiles).map((t) => t.node)),
    panel('Purge', form), panel('By route', list.node, { bare: true, note: 'Since the start.' })));

  function choose() {
    const [value, , hint] = kinds.find(([k]) => k === kind.value);
    what.placeholder = hint;
    what.disabled = value === 'all';
    if (what.disabled) what.value = '';
  }
  choose();

  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const all = kind.value === 'all';
    const result = await ask({
      title: all ? 'Purge everything?' : 'Purge these entries?', danger: true, confirm: 'Purge',
      text: [all ? 'All stored answers of all routes are removed.' : h('p', {}, `${kind.selectedOptions[0].text}: `, h('code', {}, what.value)), 'The next requests for them go to the backends.'],
      act: () => send('DELETE', all ? '/api/cache' : `/api/cache?${kind.value}=${encodeURIComponent(what.value)}`),
    });
    if (result) toast(`${f.plural(result.purged, 'entry', 'entries')} purged.`);
    look();
  });

  const look = every(3000, signal, async () => {
    const [stats, samples] = await Promise.all([get('/api/stats?top=0', signal), read(['sluice_cache_requests_total'], signal)]);
    wrong.clear();
    const routes = new Map();
    for (const { labels: { route, result }, value } of samples) {
      if (!value) continue;
      const r = routes.get(route) ?? { route, hits: 0, all: 0, results: {} };
      r.all += value;
      if (HITS.has(result)) r.hits += value;
      r.results[result] = (r.results[result] ?? 0) + value;
      routes.set(route, r);
    }
    const rows = [...routes.values()];
    const all = rows.reduce((n, r) => n + r.all, 0);
    tiles.ratio.set(all ? f.percent(rows.reduce((n, r) => n + r.hits, 0) / all) : '–', '', `of ${f.plural(all, 'request')}`);
    tiles.size.set(...f.bytes(stats.cache.bytes).split(' '));
    tiles.entries.set(f.count(stats.cache.entries));
    tiles.stores.set(f.count(stats.cache.caches));
    list.update(rows);
  }, wrong.show);
}
