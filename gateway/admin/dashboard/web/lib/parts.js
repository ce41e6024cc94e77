// Pieces that several pages have.

import { h, replace } from './dom.js';
import { problemNotice } from './dialog.js';
import * as f from './format.js';

// head begins a page; it has the one first-level heading.
export const head = (title, { sub, actions = [], mark } = {}) => h('div', { class: 'head' },
  h('h1', { tabindex: '-1' }, title), mark, h('div', { class: 'actions' }, actions), sub && h('p', { class: 'sub' }, sub));

export const panel = (title, body, { note, actions, bare = false } = {}) => h('section', { class: 'panel' },
  title && h('div', { class: 'title' }, h('h2', {}, title), note && h('span', { class: 'note' }, note), actions && h('div', { class: 'actions' }, actions)),
  bare ? body : h('div', { class: 'body' }, body));

export const pill = (text, kind) => h('span', { class: `pill ${kind ?? ''}` }, text);
export const chips = (list) => h('span', { class: 'chips' }, list.map((t) => h('span', { class: 'chip' }, t)));
export const facts = (pairs) => h('dl', { class: 'facts' }, pairs.filter((p) => p && p[1] !== undefined && p[1] !== null && p[1] !== '')
  .map(([term, what]) => [h('dt', {}, term), h('dd', {}, what)]));
export const link = (page, ...parts) => `#/${[page, ...parts].map(encodeURIComponent).join('/')}`;

// tile is a figure that is updated in place.
export function tile(label) {
  const value = h('div', { class: 'value' }, '–');
  const more = h('div', { class: 'more' });
  const node = h('div', { class: 'tile' }, h('div', { class: 'label' }, label), value, more);
  return {
    node,
    set(text, unit, extra, kind) {
      replace(value, text, unit && h('span', { class: 'unit' }, unit));
      replace(more, extra);
      node.className = `tile ${kind ?? ''}`;
    },
  };
}

// trouble is where a page says what it could not learn; it goes when that has passed.
export function trouble() {
  const node = h('div', { role: 'status', hidden: true });
  return {
    node,
    show(error) {
      node.hidden = false;
      replace(node, error.missing ? h('p', { class: 'notice' }, `Not available: ${error.message}`) : problemNotice(error));
    },
    clear() {
      if (node.hidden) return;
      node.hidden = true;
      replace(node);
    },
  };
}

const breakers = { closed: 'good', open: 'bad', 'half-open': 'warn' };

export const breaker = (state) => pill(state, breakers[state]);

// endpointState says whether an endpoint gets requests, and why not.
export function endpointState(e) {
  if (e.draining) return pill('draining', 'warn');
  if (e.unhealthy) return pill('unhealthy', 'bad');
  if (e.ejected_for) return pill(`ejected, ${e.ejected_for.replace(/\.\d+s/, 's')} left`, 'bad');
  if (e.breaker === 'open') return pill('breaker open', 'bad');
  if (e.breaker === 'half-open') return pill('breaker half-open', 'warn');
  return e.weight === 0 ? pill('weight 0') : pill('up', 'good');
}

export const inOrder = (e) => e.up && e.breaker !== 'open';

// settings are the values in force with where each comes from.
export function settings(list) {
  if (!list?.length) return h('p', { class: 'muted' }, 'No settings.');
  return h('div', { class: 'scroll' }, h('table', { class: 'cards' },
    h('thead', {}, h('tr', {}, ['Setting', 'Value', 'From'].map((t) => h('th', { scope: 'col' }, t)))),
    h('tbody', {}, list.map((s) => h('tr', {},
      h('td', { 'data-label': 'Setting' }, h('code', {}, s.setting || '(itself)')),
      h('td', { 'data-label': 'Value' }, h('code', {}, f.value(s.value))),
      h('td', { 'data-label': 'From', class: 'muted small' }, s.source))))));
}

// policies are in the order in which they run.
export function policies(list) {
  if (!list?.length) return h('p', { class: 'muted body' }, 'No policies.');
  return h('div', {}, list.map((p) => h('details', { class: 'fold' },
    h('summary', {}, h('strong', {}, p.policy), pill(p.stage), p.finds && h('span', { class: 'small' }, p.finds),
      h('span', { class: 'end muted small' }, `${p.from}${p.source && p.source !== p.from ? `, ${p.source}` : ''}`)),
    h('div', { class: 'inside' }, settings(p.settings)))));
}

// targets are the services that requests may go to.
export const targets = (list) => (list ?? []).map((s) => panel(['Service ', h('a', { href: link('services') }, s.service)], [
  facts([
    ['Protocol', s.protocol], ['Balancing', s.strategy], ['Breaker', breaker(s.breaker)], ['Connect timeout', s.connect_timeout],
    ['Response timeout', s.response_timeout], ['Retries', s.retries ? `${s.retries} on ${f.value(s.retry_when)}` : 'none'], ['Defined at', h('code', {}, s.source)],
    ['Endpoints', h('span', {}, (s.endpoints ?? []).map((e) => h('div', {}, h('code', {}, e.endpoint), ' ', endpointState(e))))],
  ]),
  s.policies?.length > 0 && h('div', {}, h('h3', {}, 'Policies of this service alone'), policies(s.policies)),
]));

// conditions says what a route takes, in a line.
export function conditions(match) {
  const { hosts, paths, methods, headers, query, listeners, schemes, snis } = match;
  const named = (map) => Object.entries(map ?? {}).map(([k, v]) => `${k}: ${f.value(v)}`);
  return [
    methods?.join(', '), (hosts ?? []).join(', '), (paths ?? ['any path']).join(', '), ...named(headers), ...named(query),
    listeners && `listener ${listeners.join(', ')}`, schemes?.join(', '), snis && `SNI ${snis.join(', ')}`,
  ].filter(Boolean);
}
