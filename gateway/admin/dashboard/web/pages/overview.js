import { h, refresh } from '../lib/dom.js';
import { get } from '../lib/api.js';
import { every } from '../lib/poll.js';
import { chart } from '../lib/chart.js';
import { table } from '../lib/table.js';
import { endpointState, head, inOrder, link, panel, pill, tile, trouble } from '../lib/parts.js';
import * as f from '../lib/format.js';

export const title = 'Overview';

const EVERY = 2000;

export function show(main, { signal }) {
  const wrong = trouble();
  const state = h('span', {});
  const warning = h('div', { role: 'status' });
  const tiles = {
    requests: tile('Requests per second'), errors: tile('Failed (5xx)'), refused: tile('Refused (4xx)'), latency: tile('Median latency'),
    overhead: tile('Median overhead'), flight: tile('In flight'), connections: tile('Connections'), cache: tile('Cache'),
  };
  const rates = chart({ title: 'Requests per second', names: ['all', '4xx', '5xx'], format: f.rate });
  const latencies = chart({ title: 'Latency', names: ['p50', 'p95', 'p99'], format: f.ms });
  const overheads = chart({ title: 'Gateway overhead', names: ['p50', 'p95', 'p99'], format: f.ms });
  const busiest = busiestTable();
  const troubled = table({
    caption: 'Endpoints that get no requests', noun: 'endpoint', key: (e) => `${e.service} ${e.endpoint}`, page: 10,
    empty: 'Every endpoint is in order.',
    columns: [
      { label: 'Service', cell: (e) => h('a', { href: link('services') }, e.service) },
      { label: 'Endpoint', cell: (e) => h('code', {}, e.endpoint) },
      { label: 'State', cell: endpointState },
    ],
  });
  const open = table({
    caption: 'Listeners', noun: 'listener', key: (l) => `${l.name} ${l.address}`, page: 10,
    columns: [
      { label: 'Listener', cell: (l) => l.name },
      { label: 'Address', cell: (l) => h('code', {}, l.address) },
      { label: 'At work', number: true, cell: (l) => f.count(l.active) },
      { label: 'Idle', number: true, cell: (l) => f.count(l.idle) },
      { label: 'Refused', number: true, cell: (l) => f.count(l.refused) },
    ],
  });
  const services = h('span', { class: 'note' });

  main.append(
    head('Overview', { mark: state }), h('div', { class: 'stack' }, wrong.node, warning,
      h('div', { class: 'tiles' }, Object.values(tiles).map((t) => t.node)),
      h('div', { class: 'charts' }, rates.node, latencies.node, overheads.node),
      panel('Busiest routes', busiest.node, { bare: true, note: 'Latencies of routes are since they have been known.', actions: h('a', { href: link('routes') }, 'All routes') }),
      h('div', { class: 'columns' },
        panel('Endpoints out of order', troubled.node, { bare: true, note: services }),
        panel('Listeners', open.node, { bare: true }))));

  let before = null;
  every(EVERY, signal, async () => {
    const s = await get('/api/stats?top=8', signal);
    wrong.clear();
    const now = between(before, s);
    before = s;
    const { total } = s;
    tiles.requests.set(f.rate(now.requests), '', `${f.count(total.requests)} since the start`);
    tiles.errors.set(f.percent(now.requests ? now.failed / now.requests : 0), '', `${f.rate(now.failed)} per second`, now.failed > 0 && 'bad');
    tiles.refused.set(f.percent(now.requests ? now.refused / now.requests : 0), '', `${f.rate(now.refused)} per second`);
    tiles.latency.set(...f.msParts(total.latency_ms.p50), `p95 ${f.ms(total.latency_ms.p95)}, p99 ${f.ms(total.latency_ms.p99)}`);
    tiles.overhead.set(...f.msParts(total.overhead_ms.p50), `p95 ${f.ms(total.overhead_ms.p95)}, p99 ${f.ms(total.overhead_ms.p99)}`);
    tiles.flight.set(f.count(total.in_flight), '', 'requests');
    const active = sum(s.listeners, (l) => l.active);
    tiles.connections.set(f.count(active + sum(s.listeners, (l) => l.idle)), '', `${f.count(active)} at work`);
    tiles.cache.set(...f.bytes(s.cache.bytes).split(' '), f.plural(s.cache.entries, 'entry', 'entries'));
    rates.push([now.requests, now.refused, now.failed]);
    latencies.push([total.latency_ms.p50, total.latency_ms.p95, total.latency_ms.p99]);
    overheads.push([total.overhead_ms.p50, total.overhead_ms.p95, total.overhead_ms.p99]);
    busiest.update(s.routes.filter((r) => r.requests > 0));
    const endpoints = s.services.flatMap((v) => (v.endpoints ?? []).map((e) => ({ ...e, service: v.service })));
    troubled.update(endpoints.filter((e) => !inOrder(e)));
    const opened = s.services.filter((v) => v.breaker === 'open').length;
    refresh(services, `${f.plural(s.services.length, 'service')}, ${f.plural(endpoints.length, 'endpoint')}`, opened > 0 && `, ${opened} broken`);
    open.update(s.listeners);
    refresh(state, s.draining ? pill('draining', 'warn') : pill('serving', 'good'),
      h('span', { class: 'muted small' }, `  up ${f.span((Date.parse(s.at) - Date.parse(s.started)) / 1000)}, configuration ${s.generation}`));
    refresh(warning, s.last_error && h('p', { class: 'notice bad' }, 'The last reload failed, and the configuration before it stays in force. ',
      h('a', { href: link('configuration') }, 'What went wrong')));
  }, wrong.show);
}

// between gives the rates between two looks; the first look has those of the gateway's own window.
function between(before, now) {
  const seconds = before && (Date.parse(now.at) - Date.parse(before.at)) / 1000;
  const { total } = now;
  if (!seconds || now.started !== before.started || total.requests < before.total.requests) {
    return { requests: total.per_second, refused: total.client_errors_per_second, failed: total.server_errors_per_second };
  }
  const per = (of) => Math.max(0, (of(now.total) - of(before.total)) / seconds);
  return { requests: per((t) => t.requests), refused: per((t) => t.by_class['4xx'] ?? 0), failed: per((t) => t.by_class['5xx'] ?? 0) };
}

function busiestTable() {
  return table({
    caption: 'Busiest routes', noun: 'route', key: (r) => r.route, empty: 'No request yet.',
    columns: [
      { label: 'Route', cell: (r) => (r.route === '-' ? h('span', { class: 'muted' }, 'no route') : h('a', { href: link('routes', r.route) }, r.route)) },
      { label: 'Requests/s', number: true, cell: (r) => f.rate(r.per_second) },
      { label: '4xx/s', number: true, cell: (r) => f.rate(r.client_errors_per_second) },
      { label: '5xx/s', number: true, cell: (r) => f.rate(r.server_errors_per_second) },
      { label: 'In flight', number: true, cell: (r) => f.count(r.in_flight) },
      { label: 'p50', number: true, cell: (r) => f.ms(r.latency_ms?.p50) },
      { label: 'p95', number: true, cell: (r) => f.ms(r.latency_ms?.p95) },
      { label: 'p99', number: true, cell: (r) => f.ms(r.latency_ms?.p99) },
      { label: 'Overhead p50', number: true, cell: (r) => f.ms(r.overhead_ms?.p50) },
    ],
  });
}

const sum = (list, of) => list.reduce((n, v) => n + of(v), 0);

