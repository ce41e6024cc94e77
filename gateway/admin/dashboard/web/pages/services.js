import { h } from '../lib/dom.js';
import { get, segment, send } from '../lib/api.js';
import { every } from '../lib/poll.js';
import { ask, Closing, toast } from '../lib/dialog.js';
import { table } from '../lib/table.js';
import { breaker, endpointState, head, inOrder, panel, trouble } from '../lib/parts.js';
import * as f from '../lib/format.js';

export const title = 'Services';

export function show(main, { signal }) {
  const wrong = trouble();
  const only = h('input', { type: 'checkbox', id: 'troubled', onchange: () => draw() });
  const list = table({
    caption: 'Endpoints by service', noun: 'endpoint', key: (e) => `${e.service} ${e.endpoint}`, empty: 'No endpoint.', sorted: [0, false],
    text: (e) => `${e.service} ${e.endpoint} ${e.protocol}`,
    extra: [h('label', { for: 'troubled' }, only, ' only those out of order')],
    columns: [
      { label: 'Service', value: (e) => e.service, cell: (e) => [h('strong', {}, e.service), h('div', { class: 'muted small nowrap' }, `${e.protocol}, ${e.strategy}`)] },
      { label: 'Breaker', value: (e) => e.state, cell: (e) => breaker(e.state) },
      { label: 'Endpoint', wide: true, value: (e) => e.endpoint, cell: (e) => h('code', {}, e.endpoint) },
      { label: 'State', value: (e) => (inOrder(e) ? 1 : 0), cell: endpointState },
      { label: 'Weight', number: true, value: (e) => e.weight, cell: (e) => f.count(e.weight) },
      { label: 'In flight', number: true, value: (e) => e.in_flight, cell: (e) => f.count(e.in_flight) },
      { label: 'Latency', number: true, value: (e) => e.latency_ms, cell: (e) => f.ms(e.latency_ms) },
      { label: 'Connections', number: true, value: (e) => e.connections, cell: (e) => f.count(e.connections) },
      { label: 'Change', act: true, cell: (e) => e.endpoint && !e.leaving && drainButton(e) },
    ],
  });
  main.append(head('Services', { sub: 'Backends with their endpoints: health, circuit breakers, ejections. An endpoint that drains gets no new requests; those in flight are completed.' }),
    h('div', { class: 'stack' }, wrong.node, panel('', list.node, { bare: true })));

  let endpoints = [];
  const draw = () => list.update(only.checked ? endpoints.filter((e) => !inOrder(e)) : endpoints);
  const look = every(2000, signal, async () => {
    const { services } = await get('/api/services', signal);
    endpoints = services.flatMap((s) => (s.endpoints?.length ? s.endpoints : [{ up: false, endpoint: '', weight: 0 }])
      .map((e) => ({ ...e, service: s.service, protocol: s.protocol, strategy: s.strategy, state: s.breaker })));
    wrong.clear();
    draw();
  }, wrong.show);

  // The element is compared and kept while nothing changes, so what it acts on is looked up when it is pressed.
  function drainButton({ service, endpoint, draining }) {
    return h('button', { type: 'button', class: 'slim', 'aria-label': `${draining ? 'Take back' : 'Drain'} ${endpoint} of ${service}`,
      onclick: () => change(endpoints.find((e) => e.service === service && e.endpoint === endpoint)) }, draining ? 'Take back' : 'Drain');
  }

  async function change(e) {
    if (!e) return;
    const draining = !e.draining;
    const put = (force) => send('PUT', `/api/services/${segment(e.service)}/endpoints`, { endpoint: e.endpoint, draining, force });
    const done = await ask({
      title: draining ? 'Drain this endpoint?' : 'Take this endpoint back?',
      text: [h('p', {}, h('code', {}, e.endpoint), ' of ', h('strong', {}, e.service)),
        draining ? `New requests go to the other endpoints; ${f.plural(e.in_flight, 'request')} in flight will be completed. It lasts until it is taken back or the gateway restarts.`
          : 'It gets requests again, with a slow start where the service has one.'],
      confirm: draining ? 'Drain' : 'Take back',
      act: async () => {
        try {
          return await put(false);
        } catch (error) {
          if (error.reason !== 'last_endpoint') throw error;
          throw new Closing(() => force(e, put));
        }
      },
    });
    if (done) toast(draining ? `${e.endpoint} is draining.` : `${e.endpoint} gets requests again.`);
    look();
  }

  async function force(e, put) {
    const done = await ask({
      title: 'Drain the last endpoint?', danger: true, confirm: 'Drain it all the same',
      text: `No other endpoint of ${e.service} takes requests. All requests to the service would be answered with 503.`, act: () => put(true),
    });
    if (done) toast(`${e.endpoint} is draining; ${e.service} answers 503.`);
    look();
  }
}
