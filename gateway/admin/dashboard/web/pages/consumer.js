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
    consumer ? panel('Configured', facts([
      ['Tenant', consumer.tenant], ['Plan', consumer.plan], ['Groups', consumer.groups && chips(consumer.groups)],
      ['JWT issuers', consumer.jwt_issuers?.join(', ')], ['Usernames', consumer.basic_auth_usernames?.join(', ')], ['Own policies', consumer.policies && chips(consumer.policies)],
      ['API keys', consumer.api_keys?.map((k) => h('div', {}, h('code', {}, k.id), k.expires && ` until ${f.time(k.expires)}`))],
    ])) : h('p', { class: 'notice' }, 'The configuration does not name this consumer.'),
    keys);
  await showKeys(keys, name, signal);
}

// showKeys lists the keys that were made at run time, where this gateway keeps such.
async function showKeys(place, name, signal) {
  let answer;
  try {
    answer = await get(`/api/consumers/${segment(name)}/keys`, signal);
  } catch (error) {
    if (signal.aborted) return;
    replace(place, panel('Keys made at run time', error.missing || error.status === 409 ? h('p', { class: 'muted' }, `Not available: ${error.message}`) : problemNotice(error)));
    return;
  }
  const list = table({
    caption: `Keys of ${name}`, noun: 'key', key: (k) => k.id, empty: 'No key was made.', sorted: [0, false],
    columns: [
      { label: 'Key', value: (k) => k.id, cell: (k) => h('code', {}, k.id) },
      { label: 'State', value: state, cell: (k) => pill(state(k), state(k) === 'active' ? 'good' : 'bad') },
      { label: 'Made', value: (k) => k.created ?? '', cell: (k) => k.created && f.time(k.created) },
      { label: 'Expires', value: (k) => k.expires ?? '', cell: (k) => (k.expires ? f.time(k.expires) : 'never') },
      { label: 'Last used', value: (k) => k.last_used ?? '', cell: (k) => (k.last_used ? f.time(k.last_used) : 'never') },
      { label: 'Only', cell: (k) => chips([...(k.cidrs ?? []), ...(k.methods ?? []), ...(k.paths ?? [])]) },
      { label: 'Change', act: true, cell: (k) => state(k) === 'active' && h('button', { type: 'button', class: 'slim', 'aria-label': `Revoke ${k.id}`, onclick: () => revoke(k) }, 'Revoke') },
    ],
  });
  list.update(answer.keys ?? []);
  replace(place, panel('Keys made at run time', list.node, { bare: true, note: 'sluice keys makes and rotates them.' }));

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

function state(k) {
  if (k.revoked) return 'revoked';
  return k.expires && Date.parse(k.expires) < Date.now() ? 'expired' : 'active';
}
