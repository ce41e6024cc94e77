// Requests as people paste them: a curl line, or HTTP as it goes over the wire.

// parse gives {method, url, headers: [[name, value]]}, or null when the text is neither.
export function parse(text) {
  text = text.trim();
  if (/^(\$\s+)?curl(\s|$)/.test(text)) return parseCurl(words(text.replace(/\\\r?\n/g, ' ')));
  return parseMessage(text);
}

function parseMessage(text) {
  const [first, ...rest] = text.split(/\r?\n/);
  const start = /^([A-Z!#$%&'*+.^_`|~0-9-]+)\s+(\S+)(?:\s+HTTP\/[\d.]+)?$/i.exec(first);
  if (!start) return null;
  const headers = [];
  for (const line of rest) {
    if (line === '') break;
    const colon = line.indexOf(':');
    if (colon > 0) headers.push([line.slice(0, colon).trim(), line.slice(colon + 1).trim()]);
  }
  return { method: start[1].toUpperCase(), url: start[2], headers };
}

// Options of curl that take a value and say nothing about the request here.
const VALUED = new Set(['-o', '--output', '-m', '--max-time', '--connect-timeout', '--cacert', '--cert', '--key', '-x', '--proxy', '--resolve',
  '--connect-to', '-w', '--write-out', '--retry', '-E', '-F', '--form', '-T', '--upload-file', '--interface']);
const BODY = new Set(['-d', '--data', '--data-raw', '--data-binary', '--data-ascii', '--data-urlencode', '--json']);

function parseCurl([, ...given]) {
  const request = { method: '', url: '', headers: [] };
  let body = false;
  const args = given.flatMap((a) => {
    if (/^--[a-z-]+=/.test(a)) return [a.slice(0, a.indexOf('=')), a.slice(a.indexOf('=') + 1)];
    return /^-[XHdAebuo]./.test(a) ? [a.slice(0, 2), a.slice(2)] : [a];
  });
  for (let i = 0; i < args.length; i++) {
    const a = args[i];
    const next = () => args[++i] ?? '';
    if (a === '-X' || a === '--request') request.method = next().toUpperCase();
    else if (a === '-H' || a === '--header') {
      const header = next();
      const colon = header.indexOf(':');
      if (colon > 0) request.headers.push([header.slice(0, colon).trim(), header.slice(colon + 1).trim()]);
    } else if (a === '-A' || a === '--user-agent') request.headers.push(['User-Agent', next()]);
    else if (a === '-e' || a === '--referer') request.headers.push(['Referer', next()]);
    else if (a === '-b' || a === '--cookie') request.headers.push(['Cookie', next()]);
    else if (a === '-u' || a === '--user') request.headers.push(['Authorization', `Basic ${btoa(next())}`]);
    else if (a === '-I' || a === '--head') request.method ||= 'HEAD';
    else if (a === '--url') request.url = next();
    else if (BODY.has(a)) { body = true; next(); } else if (VALUED.has(a)) next();
    else if (!a.startsWith('-')) request.url ||= a;
  }
  request.method ||= body ? 'POST' : 'GET';
  if (request.url && !/^https?:\/\//.test(request.url) && !request.url.startsWith('/')) request.url = `http://${request.url}`;
  return request.url ? request : null;
}

// words splits as a shell does: blanks, quotes, backslashes.
function words(text) {
  const out = [];
  let word = null;
  let quote = '';
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (quote) {
      if (c === quote) quote = '';
      else if (c === '\\' && quote === '"' && '"\\$`'.includes(text[i + 1])) word += text[++i];
      else word += c;
    } else if (c === '"' || c === "'") {
      quote = c;
      word ??= '';
    } else if (/\s/.test(c)) {
      if (word !== null) out.push(word);
      word = null;
    } else {
      word = (word ?? '') + (c === '\\' ? text[++i] ?? '' : c);
    }
  }
  if (word !== null) out.push(word);
  return out;
}
