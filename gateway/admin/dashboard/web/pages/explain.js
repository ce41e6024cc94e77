import { h, replace } from '../lib/dom.js';
import { send } from '../lib/api.js';
import { parse } from '../lib/request.js';
import { problemNotice } from '../lib/dialog.js';
import { table } from '../lib/table.js';
import { facts, head, link, panel, pill, policies, settings, targets } from '../lib/parts.js';

export const title = 'Explain';

export function show(main, { query, signal }) {
  const paste = h('textarea', { id: 'paste', rows: 3, spellcheck: 'false', placeholder: "curl -X POST https://api.example.com/users -H 'X-API-Key: …'" });
  const method = h('input', { id: 'method', value: query.get('method') ?? 'GET', autocomplete: 'off' });
  const url = h('input', { id: 'url', value: query.get('url') ?? '', required: true, placeholder: 'http://host/path, or /path', autocomplete: 'off', spellcheck: 'false' });
  const headers = h('textarea', { id: 'headers', rows: 3, spellcheck: 'false', placeholder: 'Name: value' });
  const ip = h('input', { id: 'ip', placeholder: '127.0.0.1', autocomplete: 'off' });
  const listener = h('input', { id: 'listener', placeholder: 'the first', autocomplete: 'off' });
  const consumer = h('input', { id: 'consumer', placeholder: 'none', autocomplete: 'off' });
  const unread = h('span', { class: 'hint', role: 'status' });
  const field = (width, label, input, hint) => h('div', { class: `field ${width}` }, h('label', { for: input.id }, label), input, hint);
  const form = h('form', { class: 'form' },
    field('', 'Paste a request', paste, unread),
    field('w2', 'Method', method), field('w10', 'URL', url), field('', 'Headers', headers),
    field('w4', 'Client address', ip), field('w4', 'Listener', listener), field('w4', 'Consumer', consumer),
    h('div', {}, h('button', { type: 'submit', class: 'primary' }, 'Explain')));
  const answer = h('div', { class: 'stack', 'aria-live': 'polite' });
  main.append(head('Explain', { sub: 'What would happen to a request: which route takes it and why others do not, and the policies with the settings in force. Nothing is sent.' }),
    h('div', { class: 'stack' }, panel('', form), answer));

  paste.addEventListener('input', () => {
    const found = parse(paste.value);
    replace(unread, paste.value.trim() && (found ? 'Taken over below.' : 'This is neither a curl line nor an HTTP request.'));
    if (!found) return;
    method.value = found.method;
    url.value = found.url;
    headers.value = found.headers.map(([k, v]) => `${k}: ${v}`).join('\n');
  });
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    try {
      const e = await send('POST', '/api/explain', question());
      if (!signal.aborted) replace(answer, explanation(e));
    } catch (error) {
      if (!signal.aborted) replace(answer, problemNotice(error));
    }
  });

  function question() {
    const many = {};
    for (const line of headers.value.split('\n')) {
      const colon = line.indexOf(':');
      if (colon > 0) (many[line.slice(0, colon).trim()] ??= []).push(line.slice(colon + 1).trim());
    }
    return { method: method.value.trim(), url: url.value.trim(), headers: many, ip: ip.value.trim(), listener: listener.value.trim(), consumer: consumer.value.trim() };
  }
  if (query.get('url')) form.requestSubmit();
}

function explanation(e) {
  const r = e.request;
  const verdict = e.status
    ? [pill(`answers ${e.status}`, e.status === 404 || e.status === 405 ? 'warn' : 'bad'), h('span', {}, ` ${e.why}`), e.allow && h('span', { class: 'muted' }, ` Allow: ${e.allow}`)]
    : [pill('route', 'good'), ' ', h('a', { href: link('routes', e.route) }, e.route), h('span', { class: 'muted small' }, ` ${e.source}`)];
  return [
    panel('Result', [h('p', { class: 'verdict' }, verdict), facts([
      ['Seen as', h('code', {}, `${r.method} ${r.scheme}://${r.host}${r.path}${r.query ? `?${r.query}` : ''}`)],
      ['Client', `${r.client}${r.peer !== r.client ? `, through ${r.peer}` : ''}`], ['Listener', r.listener], ['Consumer', r.consumer], ['Tenant', r.tenant],
      ['To the backend', e.upstream_path && h('code', {}, e.upstream_path)],
    ])]),
    panel('Candidates', candidates(e.candidates ?? []), { bare: true, note: 'The nearest first.' }),
    panel('Policies', policies(e.policies), { bare: true, note: 'In the order in which they run.' }),
    e.action && panel(['Ends in ', pill(e.action.action, 'accent')], settings(e.action.settings), { note: e.action.source }),
    e.services?.length > 0 && h('div', { class: 'columns' }, targets(e.services)),
  ];
}

function candidates(list) {
  const shown = table({
    caption: 'Candidates', noun: 'route', key: (c) => `${c.route} ${list.indexOf(c)}`, page: 10, empty: 'No route comes near.',
    columns: [
      { label: 'Route', cell: (c) => h('a', { href: link('routes', c.route) }, c.route) },
      { label: 'Matched', cell: (c) => h('code', {}, `${c.host ?? ''}${c.path ?? ''}`) },
      { label: 'Outcome', cell: (c) => (c.won ? pill('wins', 'good') : c.reason) },
    ],
  });
  shown.update(list);
  return shown.node;
}
