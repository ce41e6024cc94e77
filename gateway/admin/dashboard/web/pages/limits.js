import { h } from '../lib/dom.js';
import { get } from '../lib/api.js';
import { every } from '../lib/poll.js';
import { table } from '../lib/table.js';
import { head, panel, pill, trouble } from '../lib/parts.js';
import { read } from '../lib/metrics.js';
import { tenant } from '../lib/session.js';
import * as f from '../lib/format.js';

export const title = 'Limits';

const SHOWN = 1000;

export function show(main, { signal }) {
  const wrong = trouble();
  const prefix = h('input', { type: 'search', id: 'key', placeholder: 'consumer:alice, ip:192.0.2.', 'aria-label': 'Callers whose key begins with', autocomplete: 'off', spellcheck: 'false', oninput: () => look() });
  const more = h('p', { class: 'notice', hidden: true }, `Only the first ${f.count(SHOWN)} callers are shown. Search for others by the beginning of their key.`);
  const list = table({
    caption: 'Limits and quotas in use', noun: 'window', key: (w) => w.id, empty: 'No caller has used any of a limit.', sorted: [5, false],
    extra: [h('label', { for: 'key' }, 'Callers '), prefix],
    columns: [
      { label: 'Caller', value: (w) => w.key, cell: (w) => h('code', {}, w.key) },
      { label: 'Policy', value: (w) => w.policy, cell: (w) => [pill(w.policy), w.shadow && pill('shadow', 'warn')] },
      { label: 'Of', value: (w) => w.scope, cell: (w) => [w.scope, w.tenant && h('span', { class: 'muted' }, ` (tenant ${w.tenant})`)] },
      { label: 'Window', value: (w) => w.per, cell: (w) => w.period ?? `${f.count(w.requests)} per ${f.per(w.per)}` },
      { label: 'Limit', number: true, value: (w) => w.requests, cell: (w) => f.count(w.burst || w.requests) },
      { label: 'Left', number: true, value: left, cell: (w) => [f.count(w.remaining), meter(left(w))] },
      { label: 'Full again in', number: true, value: (w) => w.reset, cell: (w) => f.span(w.reset) },
    ],
  });
  const refused = table({
    caption: 'Requests that policies refused', noun: 'reason', key: (r) => r.id, empty: 'Nothing was refused.', page: 20, sorted: [2, true],
    columns: [
      { label: 'Route', value: (r) => r.route, cell: (r) => r.route },
      { label: 'By', value: (r) => r.by, cell: (r) => r.by },
      { label: 'Requests', number: true, value: (r) => r.value, cell: (r) => f.count(r.value) },
    ],
  });
  main.append(head('Limits', { sub: 'Who has how much left of which limit, those with the least first.' }),
    h('div', { class: 'stack' }, wrong.node, more, panel('', list.node, { bare: true }),
      !tenant() && panel('Refused since the start', refused.node, { bare: true, note: 'By limits and by authentication.' })));

  const look = every(2000, signal, async () => {
    const answer = await get(`/api/limits?max=${SHOWN}&key=${encodeURIComponent(prefix.value.trim())}`, signal);
    wrong.clear();
    more.hidden = !answer.more;
    list.update(answer.limits.flatMap((l) => l.windows.map((w, i) => ({ ...l, ...w, id: `${l.scope} ${l.tenant ?? ''} ${l.policy} ${l.key} ${i}` }))));
  }, wrong.show);
  if (tenant()) return;
  every(10000, signal, async () => {
    const samples = await read(['sluice_rate_limited_total', 'sluice_auth_failures_total'], signal);
    refused.update(samples.filter((s) => s.value > 0).map(({ labels, value }) => {
      const by = labels.policy ?? `authentication: ${labels.reason}`;
      return { id: `${labels.route} ${by}`, route: labels.route, by, value };
    }));
  }, wrong.show);
}

const left = (w) => Math.max(0, Math.min(1, w.remaining / (w.burst || w.requests || 1)));

function meter(share) {
  const fill = h('span', { class: `meter-fill ${share < 0.1 ? 'low' : ''}` });
  fill.style.width = `${Math.round(share * 100)}%`;
  return h('span', { class: 'meter', 'aria-hidden': 'true' }, fill);
}
