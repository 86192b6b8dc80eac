// How do people use node-postgres (`pg`)?

import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'

import pg from 'pg'
import copyStreams from 'pg-copy-streams'
import Cursor from 'pg-cursor'

import { copyText, run } from './checks.mjs'

const options = (seat, tenant, user) => ({
  host: seat.host, port: seat.port, user, password: seat.password, database: tenant, connectionTimeoutMillis: 30_000,
})

class Session {
  constructor(client, given) {
    this.client = client
    this.given = given
    this.names = new Map()
  }

  async rows(text, ...values) {
    const done = this.client.query({ text, values: values.length ? values : undefined, rowMode: 'array' })
    return (await done).rows
  }

  async prepared(text, ...values) {
    if (!this.names.has(text)) this.names.set(text, `statement_${this.names.size + 1}`) // the same in each client
    return (await this.client.query({ name: this.names.get(text), text, values, rowMode: 'array' })).rows
  }

  async copyIn(table, bodies) {
    await pipeline(Readable.from([copyText(bodies)]), this.client.query(copyStreams.from(`COPY ${table} (body) FROM STDIN`)))
  }

  async copyOut(query) {
    return text(this.client.query(copyStreams.to(`COPY (${query}) TO STDOUT`)))
  }

  async listen(channel) {
    const heard = new Promise((resolve) => this.client.once('notification', ({ payload }) => resolve(payload)))
    await this.client.query(`LISTEN ${channel}`)
    return () => heard
  }

  async cancel() {
    new pg.Client(this.given).cancel(this.client, this.client._activeQuery)
  }

  async size(query) {
    const cursor = this.client.query(new Cursor(query, [], { rowMode: 'array' }))
    let total = 0
    for (let rows = await cursor.read(5); rows.length; rows = await cursor.read(5)) {
      for (const [body] of rows) total += body.length
    }
    await cursor.close()
    return total
  }

  close() {
    return this.client.end()
  }
}

await run({
  async connect(seat, tenant, user) {
    const given = options(seat, tenant, user)
    const client = new pg.Client(given)
    await client.connect()
    return new Session(client, given)
  },
  state: (error) => error.code,
})
