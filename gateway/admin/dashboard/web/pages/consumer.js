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

const field = (label, input) => h('div', { class: 'field' }, h('label', { for: input.id }, label), input);
const choice = (id, name, options) => h('select', { id, name }, options.map(([text, value]) => h('option', { value }, text)));

// once shows what is not shown again.
const once = (title, secret, text) => ask({ title, confirm: 'I have kept it', act: () => true, text: [text, h('p', {}, h('code', { id: 'shown-once' }, secret))] });

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
  replace(place, panel('Keys', list.node, {
    bare: true, note: 'Those of the configuration are changed there.',
    actions: [h('button', { type: 'button', onclick: share }, 'Make a link'), h('button', { type: 'button', onclick: create }, 'Make a key')],
  }));

  async function create() {
    const label = h('input', { id: 'key-name', name: 'name', maxlength: 200, autocomplete: 'off' });
    const ttl = choice('key-ttl', 'ttl', [['90 days', '90d'], ['30 days', '30d'], ['a year', '365d'], ['for ever, until it is revoked', '']]);
    const made = await ask({
      title: 'Make a key?', confirm: 'Make', text: ['For ', h('strong', {}, name)],
      fields: [field('What it is for', label), field('Good for', ttl)],
      act: (form) => send('POST', `/api/consumers/${segment(name)}/keys`, { name: form.get('name').trim(), ttl: form.get('ttl') }),
    });
    if (!made) return;
    await once('The new key', made.key, 'It is shown this once: only its hash is kept.');
    await showKeys(place, name, signal);
  }

  // share makes a link to the consumer's own page.
  async function share() {
    const ttl = choice('link-ttl', 'ttl', [['a day', '24h'], ['an hour', '1h'], ['a week', '7d'], ['30 days', '30d']]);
    const change = h('input', { type: 'checkbox', id: 'link-change', name: 'change' });
    const made = await ask({
      title: 'Make a link?', confirm: 'Make',
      text: [h('p', {}, 'Whoever has it sees the keys, usage and limits of ', h('strong', {}, name), ', without the admin token, and nothing of others.')],
      fields: [field('Good for', ttl), h('div', {}, change, ' ', h('label', { for: 'link-change' }, 'May rotate and revoke the keys'))],
      act: (form) => send('POST', `/api/consumers/${segment(name)}/links`, { ttl: form.get('ttl'), may_change: form.has('change') }),
    });
    if (made) await once('The link', location.origin + made.path, `It is good until ${f.time(made.expires)}; sluice keys unlink ends all links before.`);
  }

  async function revoke(k) {
    const done = await ask({
      title: 'Revoke this key?', danger: true, confirm: 'Revoke',
      text: [h('p', {}, h('code', {}, k.id), ' of ', h('strong', {}, name)), 'Requests with it are refused from now on. It can not be taken back.'],
      act: () => send('DELETE', `/api/consumers/${segment(name)}/keys/${segment(k.id)}`),
    });
    if (!done) return;
    toast(`The key ${k.id} was revoked.${done.others === 'later' ? ' Other instances are told when the shared store is back.' : ''}`);
    await showKeys(place, name, signal);
  }
}
