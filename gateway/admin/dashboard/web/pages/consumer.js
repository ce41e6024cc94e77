import { h, replace } from '../lib/dom.js';
import { get, segment, send } from '../lib/api.js';
import { ask, problemNotice, toast } from '../lib/dialog.js';
import { table } from '../lib/table.js';
import { chips, facts, head, panel, pill, trouble } from '../lib/parts.js';
import * as f from '../lib/format.js';

export const title = 'Consumer';

export async function show(main, { args: [name], signal }) {
  const wrong = trouble();
  const rest = h('div', { class: 'stack' });
  main.append(head(name), h('div', { class: 'stack' }, wrong.node, rest));
  let consumer;
  try {
    consumer = (await get('/api/consumers', signal)).consumers.find((c) => c.consumer === name);
  } catch (error) {
    if (!signal.aborted) wrong.show(error);
    return;
  }
  if (signal.aborted) return;
  const keys = h('div', {});
  replace(rest,
    consumer ? panel('Configuration', facts([
      ['Tenant', consumer.tenant], ['Plan', consumer.plan], ['Groups', consumer.groups && chips(consumer.groups)],
      ['JWT issuers', consumer.jwt_issuers?.join(', ')], ['Usernames', consumer.basic_auth_usernames?.join(', ')], ['Own policies', consumer.policies && chips(consumer.policies)],
    ])) : h('p', { class: 'notice' }, 'The configuration does not name this consumer.'),
    keys);
  await showKeys(keys, name, signal);
}

// showKeys lists the keys with what is known of them; those of the configuration are changed there.
async function showKeys(place, name, signal) {
  let answer;
  try {
    answer = await get(`/api/consumers/${segment(name)}/keys`, signal);
  } catch (error) {
    if (signal.aborted) return;
    replace(place, panel('Keys', error.missing ? h('p', { class: 'muted' }, `Not available: ${error.message}`) : problemNotice(error)));
    return;
  }
  const list = table({
    caption: `Keys of ${name}`, noun: 'key', key: (k) => `${k.source} ${k.id}`, empty: 'No key.', sorted: [0, false],
    columns: [
      { label: 'Key', value: (k) => k.id, cell: (k) => [h('code', {}, k.id), k.name && h('div', { class: 'muted small' }, k.name)] },
      { label: 'State', value: (k) => k.state, cell: (k) => pill(k.state, k.state === 'active' ? 'good' : 'bad') },
      { label: 'From', value: (k) => k.source, cell: (k) => k.source },
      { label: 'Made', value: (k) => k.created ?? '', cell: (k) => k.created && f.time(k.created) },
      { label: 'Expires', value: (k) => k.expires ?? '', cell: (k) => (k.expires ? f.time(k.expires) : 'never') },
      { label: 'Last used', value: (k) => k.last_used ?? '', cell: (k) => k.last_used && f.ago(k.last_used) },
      { label: 'Only', cell: (k) => chips([...(k.cidrs ?? []), ...(k.methods ?? []), ...(k.paths ?? [])]) },
      { label: 'Change', act: true, cell: (k) => k.state === 'active' && k.source !== 'configuration'
        && h('button', { type: 'button', class: 'slim', 'aria-label': `Revoke ${k.id}`, onclick: () => revoke(k) }, 'Revoke') },
    ],
  });
  list.update(answer.keys ?? []);
  replace(place, panel('Keys', list.node, { bare: true, note: 'Keys are made and rotated with sluice keys; those of the configuration are changed there.' }));

  async function revoke(k) {
    const done = await ask({
      title: 'Revoke this key?', danger: true, confirm: 'Revoke',
      text: [h('p', {}, h('code', {}, k.id), ' of ', h('strong', {}, name)), 'Requests with it are refused from now on. It can not be taken back.'],
      act: () => send('DELETE', `/api/consumers/${segment(name)}/keys/${segment(k.id)}`),
    });
    if (!done) return;
    toast(`The key ${k.id} was revoked.`);
    await showKeys(place, name, signal);
  }
}
