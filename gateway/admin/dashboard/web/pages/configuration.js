import { h, refresh, replace } from '../lib/dom.js';
import { get, getTagged, send } from '../lib/api.js';
import { every } from '../lib/poll.js';
import { ask, problemNotice, toast } from '../lib/dialog.js';
import { facts, head, panel, pill, trouble } from '../lib/parts.js';
import * as f from '../lib/format.js';

export const title = 'Configuration';

export function show(main, { signal }) {
  const wrong = trouble();
  const about = h('div', {});
  const reloads = h('div', {});
  const tree = h('div', { class: 'tree' });
  const reload = h('button', { type: 'button', class: 'primary', onclick: () => reloadNow() }, 'Reload');
  main.append(head('Configuration', { actions: reload }), h('div', { class: 'stack' }, wrong.node,
    panel('In force', about), panel('Last reloads', reloads, { bare: true, note: 'The latest first, with what each has changed for requests.' }),
    panel('Settings', tree, { note: 'Defaults included. Secrets read ***.' })));

  let generation = -1;
  let seen = '';
  const look = every(3000, signal, async () => {
    const list = (await get('/api/reloads', signal)).reloads;
    // Folds that are open stay open until there is something new.
    const now = JSON.stringify(list.map((r) => [r.at, r.compared]));
    if (now !== seen) {
      replace(reloads, list.length ? list.map(reloadView) : h('p', { class: 'muted body' }, 'None yet.'));
      seen = now;
    }
    const latest = list.find((r) => r.generation)?.generation ?? 0;
    if (latest !== generation) {
      const { value: c, etag } = await getTagged('/api/config', signal);
      refresh(about, facts([
        ['Generation', f.count(c.generation)], ['In force since', f.time(c.since)], ['Process started', f.time(c.started)],
        ['Files', c.files.length > 0 && c.files.map((file) => h('div', {}, h('code', {}, file)))],
        ['Writable', c.writable ? 'yes, by PUT /api/config' : 'no: it does not come from a single file'],
        ['ETag', h('code', {}, etag)],
      ]));
      replace(tree, c.config ? branches(c.config) : h('p', { class: 'muted' }, 'No configuration is in force.'));
      generation = latest;
    }
    wrong.clear();
  }, wrong.show);

  async function reloadNow() {
    const done = await ask({
      title: 'Reload the configuration?', confirm: 'Reload',
      text: 'It is loaded from its source again and put in force, all of it or nothing. Requests in flight are not disturbed.', act: () => send('POST', '/api/config/reload'),
    });
    if (done) toast(`Generation ${done.generation} is in force.`);
    look();
  }
}

function reloadView(r) {
  const good = r.result === 'success';
  const all = r.differences.length + (r.omitted ?? 0);
  const what = good ? (r.compared ? (all ? f.plural(all, 'difference') : 'nothing changed for requests') : 'not compared') : 'the configuration before it stayed in force';
  return h('details', { class: 'fold', open: !good },
    h('summary', {}, pill(good ? 'applied' : 'failed', good ? 'good' : 'bad'), r.generation && h('strong', {}, `Generation ${r.generation}`), h('span', {}, what),
      h('span', { class: 'end muted small' }, f.time(r.at))),
    h('div', { class: 'inside' }, good ? differences(r) : problemNotice({ message: r.errors?.length ? 'The configuration is not valid.' : r.error, errors: r.errors })));
}

const signs = { added: '+', removed: '−', changed: '~' };

function differences(r) {
  if (!r.compared) return h('p', { class: 'muted' }, 'There was none before it, or reloads came faster than they could be compared.');
  if (!r.differences.length) return h('p', { class: 'muted' }, 'Routes, services and all else are as before.');
  return h('div', { class: 'stack' }, h('ul', { class: 'diff' }, r.differences.map((d) => h('li', {},
    h('strong', { class: d.change }, `${signs[d.change]} ${d.kind} ${d.name ?? ''}`), h('span', { class: 'unseen' }, ` ${d.change}`),
    d.settings?.length > 0 && h('ul', {}, d.settings.map((s) => h('li', {}, h('code', {}, setting(s)))))))),
  r.omitted > 0 && h('p', { class: 'muted' }, `And ${f.plural(r.omitted, 'more difference')}.`));
}

// setting writes one change as `sluice diff` does.
function setting({ path, old, new: next }) {
  const name = path || 'all of it';
  if (old === undefined) return `+ ${name}: ${plain(next)}`;
  if (next === undefined) return `− ${name}: ${plain(old)}`;
  const [a, b] = [plain(old), plain(next)];
  return a === b ? `~ ${name}: another secret` : `~ ${name}: ${a} → ${b}`;
}

// plain leaves out where values come from.
function plain(v) {
  return f.value(stripped(v));
}

function stripped(v) {
  if (Array.isArray(v)) return v.map(stripped);
  if (isLeaf(v)) return v.value;
  return v && typeof v === 'object' ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, stripped(x)])) : v;
}

const isLeaf = (v) => v !== null && typeof v === 'object' && !Array.isArray(v) && 'value' in v && 'source' in v && Object.keys(v).length === 2;

// branches are made when they are opened: a configuration can have ten thousand routes.
function branches(block) {
  return Object.entries(block).map(([name, v]) => branch(name, v));
}

function branch(name, v) {
  if (isLeaf(v)) {
    return h('div', { class: 'leaf' }, h('code', {}, `${name}: ${f.value(v.value)}`), h('span', { class: 'source' }, v.source));
  }
  if (v === null || typeof v !== 'object') return h('div', { class: 'leaf' }, h('code', {}, `${name}: ${f.value(v)}`));
  const size = Object.keys(v).length;
  const inside = h('div', { class: 'inside' });
  const fold = h('details', { class: 'fold' }, h('summary', {}, h('code', {}, name), h('span', { class: 'muted small' }, size ? String(size) : 'empty')), inside);
  let shown = 0;
  fold.addEventListener('toggle', () => { if (fold.open && !shown) more(); });
  const more = () => {
    inside.querySelector(':scope > button')?.remove();
    const next = Object.entries(v).slice(shown, shown + 200);
    shown += next.length;
    inside.append(...next.map(([k, x]) => branch(k, x)));
    if (shown < size) inside.append(h('button', { type: 'button', class: 'slim', onclick: more }, `${size - shown} more`));
  };
  return fold;
}
