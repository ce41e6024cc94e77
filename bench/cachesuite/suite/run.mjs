// Runs tests of the HTTP cache test suite and prints, as JSON, each one with its
// outcome: `node run.mjs SUITE BASE [ID…]`, where SUITE is the suite's folder and
// BASE the URL of the cache under test. Tests for browsers alone have no outcome.
import { existsSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import fetch from 'node-fetch'

const [suite, base, ...ids] = process.argv.slice(2)
const load = file => import(pathToFileURL(path.join(suite, file)).href)
const engine = existsSync(path.join(suite, 'test-engine')) ? 'test-engine' : '.'
const { runTests, getResults } = await load(path.join(engine, 'client/runner.mjs'))

const groups = [...(await load('tests/index.mjs')).default]
const surrogate = (await load('tests/surrogate-control.mjs')).default
if (!groups.some(group => group.id === surrogate.id)) groups.push(surrogate)

const chosen = groups.map(group => ({
  ...group, tests: group.tests.filter(test => ids.length === 0 || ids.includes(test.id))
}))
const log = console.log
console.log = console.error // the suite talks
await runTests(chosen, fetch, false, base)
const results = getResults()

log(JSON.stringify(chosen.flatMap(group => group.tests.map(test => ({
  group: group.name,
  id: test.id,
  name: test.name,
  kind: test.kind || 'required',
  depends_on: test.depends_on || [],
  ran: test.id in results,
  passed: results[test.id] === true,
  setup: Array.isArray(results[test.id]) && results[test.id][0] === 'Setup',
  message: Array.isArray(results[test.id]) ? String(results[test.id][1]) : ''
})))))
