import { h, replace } from '../lib/dom.js';
import { get, segment } from '../lib/api.js';
import { chips, facts, head, link, panel, pill, policies, settings, targets, trouble } from '../lib/parts.js';
import * as f from '../lib/format.js';

export const title = 'Route';

export async function show(main, { args: [name], signal }) {
  const wrong = trouble();
  const rest = h('div', { class: 'stack' });
  main.append(head(name), h('div', { class: 'stack' }, wrong.node, rest));
  let route;
  try {
    route = await get(`/api/routes/${segment(name)}`, signal);
  } catch (error) {
    if (!signal.aborted) wrong.show(error);
    return;
  }
  const { match } = route;
  replace(main.querySelector('.head .actions'), h('a', { href: `#/explain?${new URLSearchParams({ method: match.methods?.[0] ?? 'GET', url: example(match) })}` }, 'Explain a request'));
  replace(rest,
    panel('Takes', facts([
      ...Object.entries(match).map(([what, wanted]) => [f.value(what), typeof wanted === 'object' && !Array.isArray(wanted)
        ? Object.entries(wanted).map(([k, v]) => h('div', {}, h('code', {}, `${k}: ${f.value(v)}`))) : chips(wanted)]),
      Object.keys(match).length === 0 && ['Everything', 'that no other route takes'],
      ['Defined at', h('code', {}, route.source)],
    ])),
    panel('Policies', policies(route.effective), { bare: true, note: 'In the order in which they run, with the settings in force. Those of consumers and tenants come on top.' }),
    panel(['Ends in ', pill(route.ends.action, 'accent')], settings(route.ends.settings), { note: route.ends.source,
      actions: route.split && h('a', { href: link('releases') }, 'Weights and rollout') }),
    h('div', { class: 'columns' }, targets(route.targets)));
}

// example is a URL that the route takes, as far as that can be told.
function example({ hosts, paths, schemes }) {
  const host = (hosts?.[0] ?? 'localhost').replace('*', 'www');
  let path = paths?.[0] ?? '/';
  if (path.startsWith('=')) path = path.slice(1);
  if (path.startsWith('~')) path = '/';
  return `${schemes?.[0] ?? 'http'}://${host}${path.replace(/\{[^}]*\}/g, '1')}`;
}
