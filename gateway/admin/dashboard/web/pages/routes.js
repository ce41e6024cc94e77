import { h } from '../lib/dom.js';
import { get } from '../lib/api.js';
import { every } from '../lib/poll.js';
import { table } from '../lib/table.js';
import { chips, conditions, head, link, panel, trouble } from '../lib/parts.js';
import * as f from '../lib/format.js';

export const title = 'Routes';

export function show(main, { signal }) {
  const wrong = trouble();
  const list = table({
    caption: 'Routes', noun: 'route', key: (r) => r.route, empty: 'The configuration has no route.', sorted: [0, false],
    text: (r) => r.words,
    columns: [
      { label: 'Route', value: (r) => r.route, cell: (r) => h('a', { href: link('routes', r.route) }, r.route) },
      { label: 'Takes', wide: true, cell: (r) => h('code', {}, r.takes) },
      { label: 'Goes to', value: (r) => r.target, cell: (r) => r.target },
      { label: 'Policies', cell: (r) => (r.policies.length > 4 ? chips([...r.policies.slice(0, 3), `${r.policies.length - 3} more`]) : chips(r.policies)) },
      { label: 'Requests/s', number: true, value: (r) => r.stats?.per_second ?? 0, cell: (r) => f.rate(r.stats?.per_second) },
      { label: '4xx/s', number: true, value: (r) => r.stats?.client_errors_per_second ?? 0, cell: (r) => f.rate(r.stats?.client_errors_per_second) },
      { label: '5xx/s', number: true, value: (r) => r.stats?.server_errors_per_second ?? 0, cell: (r) => f.rate(r.stats?.server_errors_per_second) },
      { label: 'p95', number: true, value: (r) => r.stats?.latency_ms?.p95 ?? 0, cell: (r) => f.ms(r.stats?.latency_ms?.p95) },
    ],
  });
  main.append(head('Routes', { sub: 'What the gateway takes, and where it goes. The most specific match wins, never the order of the file.' }),
    h('div', { class: 'stack' }, wrong.node, panel('', list.node, { bare: true })));

  let generation = 0;
  let routes = [];
  every(3000, signal, async () => {
    const stats = await get('/api/stats', signal);
    if (stats.generation !== generation) {
      ({ routes } = await get('/api/routes', signal));
      for (const r of routes) {
        r.takes = conditions(r.match).join('  ');
        r.target = r.services?.length ? r.services.join(', ') : r.action;
        r.words = [r.route, r.takes, r.target, r.action, ...r.policies].join(' ');
      }
      generation = stats.generation;
    }
    const by = new Map(stats.routes.map((r) => [r.route, r]));
    for (const r of routes) r.stats = by.get(r.route);
    wrong.clear();
    list.update(routes);
  }, wrong.show);
}
