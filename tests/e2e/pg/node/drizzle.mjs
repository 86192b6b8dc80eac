// How do people use drizzle? Over a node-postgres client, with a schema of its own.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'

import { eq, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/node-postgres'
import { bigint, pgTable, text } from 'drizzle-orm/pg-core'
import pg from 'pg'

import { run } from './checks.mjs'

const projects = pgTable('projects', { id: bigint({ mode: 'number' }), name: text().notNull() })
const notes = pgTable('notes', {
  id: bigint({ mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
  body: text().notNull(),
})

async function withPool(seat, tenant, work) {
  const pool = new pg.Pool({
    host: seat.host, port: seat.port, user: seat.user, password: seat.password, database: tenant, max: 3,
  })
  try {
    return await work(drizzle(pool))
  } finally {
    await pool.end()
  }
}

async function own_rows(_client, seat) {
  await withPool(seat, seat.tenant, async (db) => {
    const names = db.select({ name: projects.name }).from(projects).orderBy(projects.name)
    for (const rows of await Promise.all([names, names, names, names])) {
      assert.deepEqual(rows.map(({ name }) => name), seat.rows)
    }
  })
}

async function transactions(_client, seat) {
  const body = randomBytes(6).toString('hex')
  await withPool(seat, seat.tenant, async (db) => {
    const left = () => db.$count(notes, eq(notes.body, body))
    await assert.rejects(db.transaction(async (tx) => {
      await tx.insert(notes).values({ body })
      tx.rollback()
    }))
    assert.equal(await left(), 0)
    await db.transaction(async (tx) => {
      await tx.insert(notes).values({ body })
      await tx.transaction((inner) => inner.insert(notes).values({ body }))
    })
    assert.equal(await left(), 2)
    const gone = await db.delete(notes).where(eq(notes.body, body)).returning({ body: notes.body })
    assert.deepEqual(gone, [{ body }, { body }])
  })
}

async function prepared(_client, seat) {
  await withPool(seat, seat.crowded, async (db) => {
    const find = db.select({ name: projects.name }).from(projects)
      .where(eq(projects.name, sql.placeholder('name'))).prepare('find')
    for (let turn = 0; turn < 10; turn += 1) {
      const found = await Promise.all([1, 2, 3].map((n) => find.execute({ name: `${seat.crowded} ${n}` })))
      assert.deepEqual(found.map(([row]) => row.name), [1, 2, 3].map((n) => `${seat.crowded} ${n}`))
    }
  })
}

async function errors(_client, seat) {
  await withPool(seat, seat.tenant, async (db) => {
    await assert.rejects(db.insert(projects).values({ name: seat.rows[0] }), (error) => error.cause.code === '23505')
    assert.equal((await db.execute(sql`SELECT 7 AS n`)).rows[0].n, 7)
  })
}

await run({
  checks: { own_rows, transactions, prepared, errors },
  lacks: ['cancel', 'copy', 'settings', 'listen', 'big_results', 'other_tenants'],
})
