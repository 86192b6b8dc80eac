// How do people use postgres.js (`postgres`)?

import assert from 'node:assert/strict'
import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'

import postgres from 'postgres'

import { copyText, run } from './checks.mjs'

class Session {
  constructor(open, pool, sql) {
    this.open = open
    this.pool = pool
    this.sql = sql // one connection of the pool
    this.running = undefined
  }

  async rows(query, ...values) {
    this.running = this.sql.unsafe(query, values).values()
    return [...(await this.running)]
  }

  async prepared(query, ...values) {
    return [...(await this.sql.unsafe(query, values, { prepare: true }).values())]
  }

  async copyIn(table, bodies) {
    await pipeline(Readable.from([copyText(bodies)]), await this.sql.unsafe(`COPY ${table} (body) FROM STDIN`).writable())
  }

  async copyOut(query) {
    // Over a connection that is not used again: the driver may leave its socket paused behind a stream.
    const other = this.open()
    try {
      return await text(await other.unsafe(`COPY (${query}) TO STDOUT`).readable())
    } finally {
      await other.end({ timeout: 0 })
    }
  }

  async listen(channel) {
    let resolve
    const heard = new Promise((found) => {
      resolve = found
    })
    await this.pool.listen(channel, resolve) // over a connection of its own
    return () => heard
  }

  async cancel() {
    this.running.cancel()
  }

  async size(query) {
    let total = 0
    await this.sql.unsafe(query).cursor(5, (rows) => {
      for (const row of rows) total += Object.values(row)[0].length
    })
    return total
  }

  async close() {
    this.sql.release()
    await this.pool.end({ timeout: 20 })
  }
}

// It sends queries without waiting for answers, and prepares each of them.
async function pipelines(_client, seat) {
  const open = () => postgres({
    host: seat.host, port: seat.port, user: seat.user, password: seat.password, database: seat.crowded, max: 1,
  })
  const clients = [open(), open()]
  const query = (sql, base, n) => {
    if (n % 7 === 3) return sql`SELECT 1 / ${0}::int + ${base}::int AS v`
    if (n % 5 === 1) return sql`SELECT count(*)::int AS v FROM projects WHERE ${base}::int = ${base}`
    return sql`SELECT ${n}::int + ${base}::int AS v`
  }
  const expected = (base, n) => (n % 7 === 3 ? '22012' : n % 5 === 1 ? 3 : base + n)
  const many = async (sql, base) => {
    const said = await Promise.allSettled(Array.from({ length: 60 }, (_, n) => query(sql, base, n)))
    const found = said.map(({ value, reason }) => (reason ? reason.code : value[0].v))
    assert.deepEqual(found, said.map((_, n) => expected(base, n)))
  }
  try {
    for (let turn = 0; turn < 4; turn += 1) {
      await Promise.all(clients.map((sql, number) => many(sql, 1000 * number)))
      await clients[0].begin((sql) => Promise.all([query(sql, 5, 0), query(sql, 5, 1), query(sql, 5, 2)]))
    }
    // What a prepared SET sets is kept as well.
    await clients[0]`SET extra_float_digits = 0`
    await many(clients[1], 2000)
    assert.equal((await clients[0]`SHOW extra_float_digits`)[0].extra_float_digits, '0')
    assert.equal((await clients[1]`SHOW extra_float_digits`)[0].extra_float_digits, '1')
  } finally {
    for (const sql of clients) await sql.end({ timeout: 20 })
  }
}

await run({
  checks: { pipelines },
  async connect(seat, tenant, user) {
    const open = () => postgres({
      host: seat.host, port: seat.port, user, password: seat.password, database: tenant, max: 1, connect_timeout: 30,
      onnotice() {},
    })
    const pool = open()
    try {
      return new Session(open, pool, await pool.reserve())
    } catch (error) {
      await pool.end({ timeout: 1 })
      throw error
    }
  },
  state: (error) => error.code,
})
