import { h } from '../lib/dom.js';
import { get } from '../lib/api.js';
import { every } from '../lib/poll.js';
import { table } from '../lib/table.js';
import { chips, head, link, panel, trouble } from '../lib/parts.js';

export const title = 'Consumers';

export function show(main, { signal }) {
  const wrong = trouble();
  const list = table({
    caption: 'Consumers', noun: 'consumer', key: (c) => c.consumer, empty: 'The configuration names no consumer.', sorted: [0, false],
    text: (c) => [c.consumer, c.tenant, c.plan, ...(c.groups ?? []), credentials(c)].join(' '),
    columns: [
      { label: 'Consumer', value: (c) => c.consumer, cell: (c) => h('a', { href: link('consumers', c.consumer) }, c.consumer) },
      { label: 'Tenant', value: (c) => c.tenant ?? '', cell: (c) => c.tenant },
      { label: 'Plan', value: (c) => c.plan ?? '', cell: (c) => c.plan },
      { label: 'Groups', cell: (c) => c.groups?.length > 0 && chips(c.groups) },
      { label: 'Credentials', value: credentials, cell: credentials },
      { label: 'Own policies', cell: (c) => c.policies?.length > 0 && chips(c.policies) },
    ],
  });
  main.append(head('Consumers', { sub: 'Known callers. Their credentials are never shown.' }), h('div', { class: 'stack' }, wrong.node, panel('', list.node, { bare: true })));
  every(10000, signal, async () => {
    const { consumers } = await get('/api/consumers', signal);
    wrong.clear();
    list.update(consumers);
  }, wrong.show);
}

function credentials(c) {
  const kinds = [[c.api_keys, 'API key', 'API keys'], [c.jwt_issuers, 'JWT issuer', 'JWT issuers'], [c.basic_auth_usernames, 'password', 'passwords']];
  return kinds.filter(([list]) => list?.length).map(([list, one, many]) => `${list.length} ${list.length === 1 ? one : many}`).join(', ');
}
