import { h, refresh } from '../lib/dom.js';
import { get, getTagged, segment, send } from '../lib/api.js';
import { every } from '../lib/poll.js';
import { ask, toast } from '../lib/dialog.js';
import { table } from '../lib/table.js';
import { facts, head, link, panel, pill, trouble } from '../lib/parts.js';
import * as f from '../lib/format.js';

export const title = 'Releases';

export function show(main, { signal }) {
  const wrong = trouble();
  const splits = h('div', { class: 'columns' });
  const copies = table({
    caption: 'Copies of requests', noun: 'mirror', key: (m) => `${m.route} ${m.service}`, empty: 'No route sends copies.',
    columns: [
      { label: 'Route', cell: (m) => h('a', { href: link('routes', m.route) }, m.route) },
      { label: 'To', cell: (m) => m.service },
      { label: 'Results', cell: (m) => counts(m.results) || 'none yet' },
      { label: 'Differences', cell: (m) => counts(m.mismatches) || 'none' },
      { label: 'Waiting', number: true, cell: (m) => f.count(m.waiting) },
      { label: 'In flight', number: true, cell: (m) => f.count(m.in_flight) },
    ],
  });
  main.append(head('Releases', { sub: 'Routes whose requests are split between services, with their weights and rollouts. Changes last until the next reload that has other weights.' }),
    h('div', { class: 'stack' }, wrong.node, splits, panel('Copies of requests', copies.node, { bare: true })));

  let routes = [];
  const look = every(2000, signal, async () => {
    const [{ routes: all }, { mirrors }] = await Promise.all([get('/api/routes', signal), get('/api/mirrors', signal)]);
    routes = all.filter((r) => r.split);
    wrong.clear();
    refresh(splits, routes.length ? routes.map(card) : h('p', { class: 'notice' }, 'No route splits its requests.'));
    copies.update(mirrors);
  }, wrong.show);

  function card(r) {
    const { services, source, since, rollout } = r.split;
    const first = services[services.length - 1].service;
    return panel(['Route ', h('a', { href: link('routes', r.route) }, r.route)], h('div', { class: 'stack' },
      h('div', { class: 'bar', 'aria-hidden': 'true' }, services.map((s) => width(h('div', { class: 'bar-fill' }), s.share))),
      facts(services.map((s) => [s.service, `${f.percent(s.share)} (weight ${s.weight})`])),
      rollout && rolloutView(rollout, first),
      h('p', { class: 'muted small' }, `Weights set by ${source}, ${f.time(since)}.`)), {
      actions: [
        rollout?.state === 'running' && button('Pause', () => steer(r, 'pause', 'Pause the rollout?', 'The weights stay as they are until it is resumed.')),
        rollout?.state === 'paused' && button('Resume', () => steer(r, 'resume', 'Resume the rollout?', 'It goes on by itself from the present step.')),
        ['running', 'paused'].includes(rollout?.state) && button('Advance', () => steer(r, 'advance', 'Advance the rollout?', `${first} gets the share of the next step at once, whatever the last window showed.`)),
        ['running', 'paused'].includes(rollout?.state) && button('Abort', () => steer(r, 'abort', 'Abort the rollout?', `${first} gets no more requests but those that ask for it.`, true)),
        rollout && !['running', 'paused'].includes(rollout.state) && button('Restart', () => steer(r, 'restart', 'Restart the rollout?', 'It begins again with its first step.')),
        button('Set weights', () => weigh(r)), button('Switch', () => change(r)),
      ],
    });
  }

  function button(text, act) {
    return h('button', { type: 'button', class: 'slim', onclick: act }, text);
  }

  async function put(r, body) {
    const path = `/api/routes/${segment(r.route)}/split`;
    const { etag } = await getTagged(path);
    await send('PUT', path, body, etag ? { 'If-Match': etag } : {});
    toast(`The split of ${r.route} was changed.`);
  }

  async function steer(r, step, question, text, danger = false) {
    await ask({ title: question, text: [`Route ${r.route}.`, text], confirm: step[0].toUpperCase() + step.slice(1), danger, act: () => put(r, { rollout: step }) });
    look();
  }

  async function weigh(r) {
    const { services } = routes.find((now) => now.route === r.route)?.split ?? r.split;
    await ask({
      title: 'Set the weights?', text: [`Route ${r.route}. What each service gets is its weight beside the others.`, r.split.rollout && 'A rollout that is under way ends with it.'].filter(Boolean), confirm: 'Set',
      fields: services.map((s, i) => h('div', { class: 'field' }, h('label', { for: `weight-${i}` }, s.service),
        h('input', { id: `weight-${i}`, name: s.service, type: 'number', min: 0, max: 1000000, required: true, value: s.weight }))),
      act: (form) => put(r, { weights: Object.fromEntries(services.map((s) => [s.service, Number(form.get(s.service))])) }),
    });
    look();
  }

  async function change(r) {
    const { services } = r.split;
    await ask({
      title: 'Switch to one service?', text: `Route ${r.route}. It gets all requests at once.`, confirm: 'Switch', danger: true,
      fields: h('fieldset', { class: 'field' }, h('legend', {}, 'Service'), services.map((s, i) => h('label', {},
        h('input', { type: 'radio', name: 'service', value: s.service, required: true, checked: i === 0 }), ` ${s.service}`))),
      act: (form) => put(r, { switch: form.get('service') }),
    });
    look();
  }
}

function rolloutView(r, first) {
  const kinds = { running: 'accent', paused: 'warn', complete: 'good', overridden: 'warn' };
  return h('div', { class: 'stack' },
    h('div', {}, 'Rollout of ', h('strong', {}, first), ' ', pill(r.state.replace('_', ' '), kinds[r.state] ?? 'bad')),
    h('ol', { class: 'steps', 'aria-label': 'Steps' }, r.steps.map((share, i) => h('li', {
      class: i + 1 < r.step ? 'done' : null, 'aria-current': i + 1 === r.step ? 'step' : null,
    }, `${share}%`))),
    r.reason && h('p', { class: 'notice bad' }, r.reason),
    r.waits && h('p', { class: 'muted small' }, `Waits: ${r.waits}`),
    r.window && facts([
      ['Last window', `${first}: ${f.plural(r.window.new.requests, 'request')}, ${f.percent(r.window.new.error_ratio)} failed, p95 ${f.ms(r.window.new.p95_ms)}`],
      ['Others', `${f.plural(r.window.others.requests, 'request')}, ${f.percent(r.window.others.error_ratio)} failed, p95 ${f.ms(r.window.others.p95_ms)}`],
    ]));
}

const counts = (of) => Object.entries(of).filter(([, n]) => n > 0).map(([k, n]) => `${k} ${f.count(n)}`).join(', ');

function width(node, share) {
  node.style.width = `${share * 100}%`;
  return node;
}
