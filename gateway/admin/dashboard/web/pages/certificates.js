import { h } from '../lib/dom.js';
import { get } from '../lib/api.js';
import { every } from '../lib/poll.js';
import { table } from '../lib/table.js';
import { chips, head, panel, pill, trouble } from '../lib/parts.js';
import * as f from '../lib/format.js';

export const title = 'Certificates';

const DAY = 86400;

export function show(main, { signal }) {
  const wrong = trouble();
  const list = table({
    caption: 'Certificates', noun: 'certificate', key: (c) => `${c.listener} ${c.certificate}`, empty: 'No listener speaks TLS.', sorted: [5, false],
    text: (c) => [c.listener, c.certificate, c.subject, c.issuer, ...(c.names ?? [])].join(' '),
    columns: [
      { label: 'Listener', value: (c) => c.listener, cell: (c) => c.listener },
      { label: 'Certificate', wide: true, value: (c) => c.certificate, cell: (c) => [h('code', {}, c.certificate), c.from === 'acme' && [' ', pill('ACME', 'accent')]] },
      { label: 'Names', cell: (c) => chips(c.names?.length ? c.names : [c.subject].filter(Boolean)) },
      { label: 'Issuer', value: (c) => c.issuer ?? '', cell: (c) => c.issuer },
      { label: 'State', value: (c) => remaining(c), cell: state },
      { label: 'Ends', value: (c) => remaining(c), cell: (c) => c.not_after && h('span', { class: 'nowrap' }, f.date(c.not_after)) },
      { label: 'OCSP', cell: (c) => c.stapled && 'stapled' },
    ],
  });
  main.append(head('Certificates', { sub: 'What listeners show their clients, those that end first on top.' }), h('div', { class: 'stack' }, wrong.node, panel('', list.node, { bare: true })));
  every(10000, signal, async () => {
    const { certificates } = await get('/api/certificates', signal);
    wrong.clear();
    list.update(certificates);
  }, wrong.show);
}

const remaining = (c) => (c.pending ? 0 : (Date.parse(c.not_after) - Date.now()) / 1000);

function state(c) {
  if (c.pending) return pill('to be obtained', 'warn');
  const left = remaining(c);
  if (left <= 0) return pill(`ended ${f.span(-left)} ago`, 'bad');
  if (Date.parse(c.not_before) > Date.now()) return pill('not valid yet', 'bad');
  return pill(`${f.span(left)} left`, left < 7 * DAY ? 'bad' : left < 30 * DAY ? 'warn' : 'good');
}
