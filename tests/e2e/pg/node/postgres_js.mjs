// How do people use postgres.js (`postgres`)?

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

await run({
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
