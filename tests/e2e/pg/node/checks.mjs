// What must hold for every client behind the port: the checks of checks.py, for clients of Node.
// A program reads its seats as JSON from stdin and prints one JSON object per check.

import assert from 'node:assert/strict'
import { randomBytes, randomInt } from 'node:crypto'
import { text } from 'node:stream/consumers'

const BIG = 50 * 1024 * 1024
const NAMES = 'SELECT name FROM projects ORDER BY name'
const AWKWARD = ['a\tb', 'back\\slash', 'quo"te', 'Ünïcode 漢字', '', '\\N', '\\.']

const mark = () => randomBytes(6).toString('hex')
const key = () => randomInt(2 ** 40)
const one = (rows) => rows[0][0]

async function within(promise, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`after 20 s still not: ${what}`)), 20_000)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

async function until(condition, what) {
  const deadline = Date.now() + 20_000
  while (!(await condition())) {
    assert(Date.now() < deadline, `after 20 s still not: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

async function withSessions(client, seat, count, tenant, work, user) {
  const opened = []
  try {
    for (let n = 0; n < count; n += 1) opened.push(await client.connect(seat, tenant, user ?? seat.user))
    return await work(...opened)
  } finally {
    for (const each of opened) await each.close()
  }
}

async function fails(client, running, state) {
  let failed
  await running.catch((error) => {
    failed = error
  })
  assert(failed, `it did not fail with ${state}`)
  assert.equal(client.state(failed), state, failed.message)
}

// Writes `bodies` as COPY's text format has them.
export const copyText = (bodies) =>
  bodies
    .map((body) => body.replace(/[\\\t\n\r]/g, (c) => ({ '\\': '\\\\', '\t': '\\t', '\n': '\\n', '\r': '\\r' })[c]) + '\n')
    .join('')

async function own_rows(client, seat) {
  const reads = (tenant, expected) =>
    withSessions(client, seat, 1, tenant, async (conn) => {
      for (let turn = 0; turn < 8; turn += 1) {
        assert.deepEqual(await conn.rows(NAMES), expected.map((name) => [name]))
        assert.deepEqual(await conn.prepared(NAMES), expected.map((name) => [name]))
      }
    }, seat.guest)
  await Promise.all([
    reads(seat.tenant, seat.rows), reads(seat.other, seat.other_rows),
    reads(seat.tenant, seat.rows), reads(seat.other, seat.other_rows),
  ])
}

async function transactions(client, seat) {
  const body = mark()
  const count = 'SELECT CAST(count(*) AS int) FROM notes WHERE body = $1'
  const insert = 'INSERT INTO notes (body) VALUES ($1)'
  await withSessions(client, seat, 2, seat.tenant, async (conn, other) => {
    await conn.rows('BEGIN')
    await conn.rows(insert, body)
    assert.equal(one(await conn.rows(count, body)), 1)
    assert.equal(one(await other.rows(count, body)), 0)
    await conn.rows('ROLLBACK')
    assert.equal(one(await conn.rows(count, body)), 0)
    await conn.rows('BEGIN')
    await conn.rows(insert, body)
    await conn.rows('SAVEPOINT here')
    await conn.rows(insert, body)
    await conn.rows('ROLLBACK TO here')
    await conn.rows('COMMIT')
    assert.equal(one(await other.rows(count, body)), 1)
    await other.rows('DELETE FROM notes WHERE body = $1', body)
    assert.equal(one(await conn.rows(count, body)), 0)
  })
}

async function prepared(client, seat) {
  const pids = [new Set(), new Set(), new Set()]
  await withSessions(client, seat, 3, seat.crowded, async (...conns) => {
    for (let turn = 0; turn < 12; turn += 1) {
      for (const [number, conn] of conns.entries()) {
        if (turn % 3 === 2) await conn.rows('BEGIN')
        const sql = `SELECT CAST($1 AS int) + ${1000 * number}, CAST($2 AS text), pg_backend_pid()`
        const [[total, said, pid]] = await conn.prepared(sql, turn, `text ${turn}`)
        assert.deepEqual([total, said], [turn + 1000 * number, `text ${turn}`])
        pids[number].add(pid)
        const rows = await conn.prepared(`SELECT name FROM projects WHERE name <> $1 AND ${number} = ${number}`, '-')
        assert.deepEqual(rows.map(([name]) => name).sort(), [1, 2, 3].map((n) => `${seat.crowded} ${n}`))
        if (turn % 3 === 2) await conn.rows('COMMIT')
      }
    }
  })
  if (seat.mode === 'transaction') {
    assert([...pids[0]].some((pid) => pids[1].has(pid) && pids[2].has(pid)), 'no backend was shared')
  }
}

async function errors(client, seat) {
  await withSessions(client, seat, 1, seat.tenant, async (conn) => {
    for (const [sql, state] of [
      ['SELECT 1/0', '22012'],
      ['SELECT * FROM nothing_here', '42P01'],
      ['SELEC 1', '42601'],
      [`INSERT INTO projects (name) VALUES ('${seat.rows[0]}')`, '23505'],
    ]) {
      await fails(client, conn.rows(sql), state)
      assert.equal(one(await conn.rows('SELECT 7')), 7)
    }
    const divide = 'SELECT 1 / CAST($1 AS int)'
    await fails(client, conn.prepared(divide, 0), '22012')
    assert.equal(one(await conn.prepared(divide, 1)), 1)
    await conn.rows('BEGIN')
    await fails(client, conn.prepared(divide, 0), '22012')
    await fails(client, conn.rows('SELECT 8'), '25P02')
    await conn.rows('ROLLBACK')
    assert.equal(one(await conn.prepared(divide, 1)), 1)
  })
}

async function cancel(client, seat) {
  const [victims, bystanders, held] = [key(), key(), key()]
  await withSessions(client, seat, 4, seat.tenant, async (victim, bystander, keeper, probe) => {
    await keeper.rows('BEGIN')
    await keeper.rows(`SELECT CAST(pg_advisory_xact_lock(${held}) AS text)`)
    const waits = (own, said) =>
      `SELECT CAST(pg_advisory_xact_lock(${own}) AS text) || CAST(pg_advisory_xact_lock(${held}) AS text) || '${said}'`
    const asleep = victim.rows(waits(victims, 'never'))
    asleep.catch(() => {})
    const concurrent = bystander.rows(waits(bystanders, 'unharmed'))
    concurrent.catch(() => {})
    for (const each of [victims, bystanders]) {
      await until(async () => !one(await probe.rows(`SELECT pg_try_advisory_xact_lock(${each})`)), 'both statements run')
    }
    await victim.cancel()
    await fails(client, within(asleep, 'cancelled'), '57014')
    await keeper.rows('COMMIT')
    assert.equal(one(await concurrent), 'unharmed')
    assert.equal(one(await victim.rows('SELECT 7')), 7)
    assert.equal(one(await victim.prepared('SELECT CAST($1 AS int)', 8)), 8)
  })
}

async function copy(client, seat) {
  const name = mark()
  const numbered = Array.from({ length: 3000 }, (_, n) => `${name} ${String(n).padStart(5, '0')} ${'y'.repeat(200)}`)
  const bodies = [...AWKWARD.map((body) => `${name} ${body}`), ...numbered]
  const count = 'SELECT CAST(count(*) AS int) FROM notes WHERE body LIKE $1'
  await withSessions(client, seat, 1, seat.tenant, async (conn) => {
    await conn.copyIn(seat.copy_into, bodies)
    const found = await conn.rows('SELECT body FROM notes WHERE body LIKE $1', `${name}%`)
    assert.deepEqual(new Set(found.map(([body]) => body)), new Set(bodies))
    const out = await conn.copyOut(`SELECT body FROM notes WHERE body LIKE '${name} 0%' ORDER BY body`)
    assert.deepEqual(out.trimEnd().split('\n'), numbered)
    await fails(client, conn.copyIn('nothing_here', ['x']), '42P01')
    if (seat.kind === 'row') await fails(client, conn.copyIn('notes', [name]), '0A000')
    assert.equal(one(await conn.rows(count, `${name}%`)), bodies.length)
    await conn.rows('DELETE FROM notes WHERE body LIKE $1', `${name}%`)
  })
}

async function settings(client, seat) {
  const wanted = [
    { TimeZone: 'Europe/Vienna', application_name: 'first', extra_float_digits: '0' },
    { TimeZone: 'Asia/Tokyo', application_name: 'second', extra_float_digits: '2' },
    { TimeZone: 'UTC', application_name: 'third', extra_float_digits: '-1' },
  ]
  const paths = [`${seat.crowded_schema}, pg_catalog`, seat.crowded_schema, `pg_catalog, ${seat.crowded_schema}`]
  await withSessions(client, seat, 3, seat.crowded, async (...conns) => {
    for (const [n, conn] of conns.entries()) {
      for (const [name, value] of Object.entries(wanted[n])) await conn.rows(`SET ${name} = '${value}'`)
      await conn.rows(`SET search_path TO ${paths[n]}`)
    }
    for (let turn = 0; turn < 3; turn += 1) {
      for (const [n, conn] of conns.entries()) {
        for (const [name, value] of Object.entries(wanted[n])) {
          assert.equal(one(await conn.rows(`SELECT current_setting('${name}')`)), value, name)
        }
        const path = one(await conn.rows("SELECT current_setting('search_path')"))
        assert.equal(path.replaceAll('"', ''), paths[n])
        assert.equal((await conn.rows(NAMES)).length, 3)
      }
    }
    await conns[0].rows('BEGIN')
    await conns[0].rows("SET application_name = 'not for long'")
    await conns[0].rows('ROLLBACK')
    assert.equal(one(await conns[0].rows("SELECT current_setting('application_name')")), 'first')
  })
}

async function listen(client, seat) {
  const channel = `channel_${mark()}`
  await withSessions(client, seat, 2, seat.tenant, async (listener, sender) => {
    const heard = await listener.listen(channel)
    await sender.rows('SELECT CAST(pg_notify($1, $2) AS text)', channel, 'hello')
    assert.equal(await within(heard(), 'notified'), 'hello')
  })
}

async function big_results(client, seat) {
  await withSessions(client, seat, 1, seat.tenant, async (conn) => {
    assert.equal(await conn.size("SELECT repeat('x', 1048576) FROM generate_series(1, 50)"), BIG)
    assert.equal(one(await conn.rows('SELECT 7')), 7)
  })
}

async function other_tenants(client, seat) {
  await fails(client, withSessions(client, seat, 1, seat.other, (conn) => conn.rows(NAMES)), '28P01')
  await withSessions(client, seat, 1, seat.tenant, async (conn) => {
    if (seat.trespass_state) {
      await fails(client, conn.rows(seat.trespass), seat.trespass_state)
    } else {
      assert.deepEqual(await conn.rows(seat.trespass), [])
      await conn.rows(`SELECT set_config('app.current_tenant_id', '${seat.other}', false)`)
      // On that backend it is an error, on another one, or after its reset, it finds nothing.
      const found = await conn.rows(seat.trespass).catch((error) => client.state(error))
      assert(found === '42501' || found.length === 0, String(found))
    }
  })
  await withSessions(client, seat, 1, seat.tenant, async (conn) => {
    assert.deepEqual(await conn.rows(NAMES), seat.rows.map((name) => [name]))
  })
}

const CHECKS = {
  own_rows, transactions, prepared, errors, cancel, copy, settings, listen, big_results, other_tenants,
}

// Runs every check that `client` has means for at every seat.
export async function run(client) {
  const { seats, only } = JSON.parse(await text(process.stdin))
  for (const seat of seats) {
    for (const [name, check] of Object.entries({ ...CHECKS, ...client.checks })) {
      if (client.lacks?.includes(name) || (only && name !== only)) continue
      const said = { check: name, kind: seat.kind, ok: true }
      try {
        await check(client, seat)
      } catch (error) {
        said.ok = false
        said.error = String(error?.stack ?? error)
      }
      console.log(JSON.stringify(said))
    }
  }
}
