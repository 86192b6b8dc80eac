// How do people use Neon's serverless driver? By HTTP, one statement or one transaction a request, and by its Pool and Client over
// a WebSocket. The packages are as they are published; only their settings say where the service is.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'

import { Client, neon, neonConfig, Pool } from '@neondatabase/serverless'
import { drizzle } from 'drizzle-orm/neon-http'
import { drizzle as drizzleServerless } from 'drizzle-orm/neon-serverless'
import { eq } from 'drizzle-orm'
import { bigint, pgTable, text } from 'drizzle-orm/pg-core'
import { Kysely } from 'kysely'
import { NeonDialect } from 'kysely-neon'
import ws from 'ws'

import { each } from './orms.mjs'

export function at(seat) {
  neonConfig.fetchEndpoint = () => `http://${seat.public}/sql`
  neonConfig.wsProxy = () => `${seat.public}/v2`
  neonConfig.useSecureWebSocket = false
  neonConfig.webSocketConstructor = ws
}

export const dsn = (seat, tenant = seat.tenant, user = seat.user, password = seat.password) =>
  `postgresql://${user}:${encodeURIComponent(password)}@ep-cool-wind.neon.example/${tenant}?sslmode=require`

const NAMES = 'SELECT name FROM projects ORDER BY name'
const mark = () => randomBytes(6).toString('hex')
const projects = pgTable('projects', { id: bigint({ mode: 'number' }), name: text().notNull() })
const notes = pgTable('notes', {
  id: bigint({ mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
  body: text().notNull(),
})
const named = (rows) => rows.map(({ name }) => name)

async function queries(_, seat) {
  at(seat)
  const sql = neon(dsn(seat))
  const found = await Promise.all([1, 2, 3, 4].map(() => sql`SELECT name FROM projects WHERE name <> ${'x'} ORDER BY name`))
  for (const rows of found) assert.deepEqual(named(rows), seat.rows)
  const other = neon(dsn(seat, seat.other, seat.guest))
  assert.deepEqual(named(await other.query(NAMES)), seat.other_rows)
  const when = new Date('2024-02-29T12:34:56.789Z')
  const [row] = await sql.query(
    'SELECT $1::int AS i, $2::timestamptz AS t, $3::jsonb AS j, $4::text[] AS a, $5::bytea AS b, $6::bool AS y, $7::text AS n,'
    + ' 9007199254740993::int8 AS big, 1.50::numeric AS num', [7, when, { a: [1, null] }, ['x', 'y,"\\'], Buffer.from([0, 255]), true, null])
  assert.deepEqual({ ...row, b: [...row.b], t: new Date(row.t) }, { // which drizzle has made a text for the whole process
    i: 7, t: when, j: { a: [1, null] }, a: ['x', 'y,"\\'], b: [0, 255], y: true, n: null, big: '9007199254740993', num: '1.50',
  })
}

async function modes(_, seat) {
  at(seat)
  const arrays = neon(dsn(seat), { arrayMode: true })
  assert.deepEqual(await arrays.query('SELECT 1 AS a, 2 AS a'), [[1, 2]])
  const full = await neon(dsn(seat), { fullResults: true }).query(NAMES)
  assert.deepEqual([full.command, full.rowCount, full.fields.map(({ name }) => name)], ['SELECT', 3, ['name']])
  assert.deepEqual(named(full.rows), seat.rows)
  const both = await arrays.query(NAMES, [], { fullResults: true, arrayMode: true })
  assert.deepEqual([both.rowAsArray, both.rows], [true, seat.rows.map((name) => [name])])
}

async function batches(_, seat) {
  at(seat)
  const sql = neon(dsn(seat))
  const setting = (name) => sql.query(`SELECT current_setting('transaction_${name}') AS is`)
  const modes = { isolationLevel: 'Serializable', readOnly: true, deferrable: true }
  const told = await sql.transaction([setting('isolation'), setting('read_only'), setting('deferrable')], modes)
  assert.deepEqual(told.map(([{ is }]) => is), ['serializable', 'on', 'on'])
  const body = mark()
  const insert = () => sql`INSERT INTO notes (body) VALUES (${body})`
  const left = async () => Number((await sql`SELECT count(*) AS n FROM notes WHERE body = ${body}`)[0].n)
  await assert.rejects(sql.transaction([insert(), sql`SELECT 1/0`]), (error) => error.code === '22012')
  assert.equal(await left(), 0)
  await sql.transaction((tx) => [tx`INSERT INTO notes (body) VALUES (${body})`, tx`SELECT 1`])
  assert.equal(await left(), 1)
  await assert.rejects(sql.transaction([insert()], { readOnly: true }), (error) => error.code === '25006')
  await sql`DELETE FROM notes WHERE body = ${body}`
}

async function errors(_, seat) {
  at(seat)
  const sql = neon(dsn(seat))
  const { name, code, constraint, severity } = await sql`INSERT INTO projects (name) VALUES (${seat.rows[0]})`.catch((error) => error)
  assert.deepEqual([name, code, severity], ['NeonDbError', '23505', 'ERROR'])
  assert.match(constraint, /^projects_/)
  await assert.rejects(sql.query('SELECT 1; SELECT 2'), (error) => error.code === '42601')
  await assert.rejects(sql.query('SELEC'), (error) => error.code === '42601' && error.position === '1')
  for (const text of [dsn(seat, seat.other), dsn(seat, 'nowhere'), dsn(seat, seat.tenant, seat.user, 'guess')]) {
    await assert.rejects(neon(text).query(NAMES), (error) => error.code === '28P01' && /password authentication failed/.test(error.message))
  }
}

async function pools(_, seat) {
  at(seat)
  const pool = new Pool({ connectionString: dsn(seat), max: 3 })
  try {
    for (const { rows } of await Promise.all([1, 2, 3, 4, 5, 6].map(() => pool.query(NAMES)))) assert.deepEqual(named(rows), seat.rows)
    const client = await pool.connect()
    const body = mark()
    await client.query('BEGIN')
    await client.query('INSERT INTO notes (body) VALUES ($1)', [body])
    assert.equal((await client.query('SELECT count(*)::int AS n FROM notes WHERE body = $1', [body])).rows[0].n, 1)
    assert.equal((await pool.query('SELECT count(*)::int AS n FROM notes WHERE body = $1', [body])).rows[0].n, 0)
    await client.query('ROLLBACK')
    await assert.rejects(client.query('SELECT 1/0'), (error) => error.code === '22012')
    const large = await client.query("SELECT repeat('x', 3000000) AS x")
    assert.equal(large.rows[0].x.length, 3000000)
    client.release()
  } finally {
    await pool.end()
  }
}

async function clients(_, seat) {
  at(seat)
  for (const pipelineConnect of ['password', false]) {
    const client = new Client({ connectionString: dsn(seat) })
    client.neonConfig.pipelineConnect = pipelineConnect
    await client.connect()
    for (let turn = 0; turn < 3; turn += 1) {
      const { rows } = await client.query({ name: 'find', text: 'SELECT name FROM projects WHERE name = $1', values: [seat.rows[turn]] })
      assert.deepEqual(named(rows), [seat.rows[turn]])
    }
    await client.end()
  }
  for (const text of [dsn(seat, seat.other), dsn(seat, seat.tenant, seat.user, 'guess')]) {
    const client = new Client({ connectionString: text })
    client.on('error', () => {})
    await assert.rejects((async () => { await client.connect(); await client.query('SELECT 1') })(), (error) => error.code === '28P01')
  }
}

async function of_drizzle(db, seat) {
  for (const rows of await Promise.all([1, 2, 3].map(() => db.select({ name: projects.name }).from(projects).orderBy(projects.name)))) {
    assert.deepEqual(named(rows), seat.rows)
  }
  const body = mark()
  const [{ id }] = await db.insert(notes).values({ body }).returning({ id: notes.id })
  assert.equal(typeof id, 'number')
  assert.equal(await db.$count(notes, eq(notes.body, body)), 1)
  await assert.rejects(db.insert(projects).values({ name: seat.rows[0] }), (error) => (error.cause ?? error).code === '23505')
  return body
}

async function drizzle_http(_, seat) {
  at(seat)
  const db = drizzle(neon(dsn(seat)))
  const body = await of_drizzle(db, seat)
  const wrong = db.batch([db.insert(notes).values({ body }), db.insert(projects).values({ name: seat.rows[0] })])
  await assert.rejects(wrong, (error) => (error.cause ?? error).code === '23505')
  const [gone, left] = await db.batch([
    db.delete(notes).where(eq(notes.body, body)).returning({ body: notes.body }), db.select().from(notes).where(eq(notes.body, body)),
  ])
  assert.deepEqual([gone, left], [[{ body }], []])
}

async function drizzle_websocket(_, seat) {
  at(seat)
  const pool = new Pool({ connectionString: dsn(seat), max: 2 })
  try {
    const db = drizzleServerless(pool)
    const body = await of_drizzle(db, seat)
    await assert.rejects(db.transaction(async (tx) => {
      await tx.delete(notes).where(eq(notes.body, body))
      tx.rollback()
    }))
    assert.equal(await db.$count(notes, eq(notes.body, body)), 1)
    await db.delete(notes).where(eq(notes.body, body))
  } finally {
    await pool.end()
  }
}

async function kysely(_, seat) {
  at(seat)
  const db = new Kysely({ dialect: new NeonDialect({ neon: neon(dsn(seat)) }) })
  assert.deepEqual(named(await db.selectFrom('projects').select('name').orderBy('name').execute()), seat.rows)
  const body = mark()
  const { body: written } = await db.insertInto('notes').values({ body }).returning('body').executeTakeFirstOrThrow()
  assert.equal(written, body)
  const { numDeletedRows } = await db.deleteFrom('notes').where('body', '=', body).executeTakeFirstOrThrow()
  assert.equal(numDeletedRows, 1n)
  await assert.rejects(db.insertInto('projects').values({ name: seat.rows[0] }).execute(), (error) => error.code === '23505')
  await db.destroy()
}

const checks = { queries, modes, batches, errors, pools, clients, drizzle_http, drizzle_websocket, kysely }
if (process.argv[1] === import.meta.filename) await each(checks, null)
