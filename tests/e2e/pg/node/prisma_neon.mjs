// How do people use Prisma with Neon's driver? By its WebSocket, and by HTTP, where there are no interactive transactions.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'

import { PrismaNeon, PrismaNeonHttp } from '@prisma/adapter-neon'

import { at, dsn } from './neon.mjs'
import { each } from './orms.mjs'
import { Client, face } from './prisma_client.mjs'

async function of(adapter, seat, is_duplicate, work) {
  const db = new Client({ adapter })
  try {
    const { names, insert, count, remove, add } = face(db)
    for (const found of await Promise.all([names(), names(), names()])) assert.deepEqual(found, seat.rows)
    const body = randomBytes(6).toString('hex')
    await work(db, body)
    await insert(body)
    assert.equal(await count(body), 1)
    await remove(body)
    assert.equal(await count(body), 0)
    await assert.rejects(add(seat.rows[0]), is_duplicate)
  } finally {
    await db.$disconnect()
  }
}

const schema = (seat) => ({ schema: seat.kind === 'schema' ? seat.schema : 'public' })

async function websocket(_, seat) {
  at(seat)
  await of(new PrismaNeon({ connectionString: dsn(seat), max: 3 }, schema(seat)), seat, (error) => error.code === 'P2002', async (db, body) => {
    await assert.rejects(db.$transaction(async (tx) => {
      await tx.notes.create({ data: { body } })
      throw new Error('to be rolled back')
    }, { timeout: 20_000, maxWait: 20_000 }), /to be rolled back/)
    assert.equal(await db.notes.count({ where: { body } }), 0)
  })
}

async function http(_, seat) {
  at(seat)
  if (seat.kind === 'schema') return // its adapter for HTTP names no schema, and Prisma names one in each statement
  const is_duplicate = /duplicate key value violates/ // the adapter for HTTP passes the driver's error on as it is
  await of(new PrismaNeonHttp(dsn(seat), {}), seat, is_duplicate, async (db, body) => {
    await assert.rejects(db.$transaction((tx) => tx.notes.create({ data: { body } })), /not supported in HTTP mode/)
  })
}

await each({ websocket, http }, null)
