// What must hold for every ORM and query builder behind the port. Each brings `open(seat, tenant, user)`: a pool of three
// connections as an object with names(), insert(body), count(body), remove(body), project(name), add(name), one(), close(),
// and transaction(work), which gives `work` the same within a transaction, with nested(work) for a savepoint.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { text } from 'node:stream/consumers'

const GONE = new Error('to be rolled back')

async function within(orm, seat, work, tenant = seat.tenant, user = seat.user) {
  const db = await orm.open(seat, tenant, user)
  try {
    return await work(db)
  } finally {
    await db.close()
  }
}

async function own_rows(orm, seat) {
  const reads = (tenant, expected) =>
    within(orm, seat, async (db) => {
      for (const found of await Promise.all([1, 2, 3, 4, 5, 6].map(() => db.names()))) assert.deepEqual(found, expected)
    }, tenant, seat.guest)
  await Promise.all([reads(seat.tenant, seat.rows), reads(seat.other, seat.other_rows)])
}

async function transactions(orm, seat) {
  const body = randomBytes(6).toString('hex')
  const given_up = (error) => assert.equal(error, GONE)
  await within(orm, seat, async (db) => {
    await db.transaction(async (tx) => {
      await tx.insert(body)
      assert.equal(await tx.count(body), 1)
      assert.equal(await db.count(body), 0)
      throw GONE
    }).catch(given_up)
    assert.equal(await db.count(body), 0)
    await db.transaction(async (tx) => {
      await tx.insert(body)
      if (tx.nested) {
        await tx.nested(async (inner) => {
          await inner.insert(body)
          throw GONE
        }).catch(given_up)
      }
    })
    assert.equal(await db.count(body), 1)
    await db.remove(body)
    assert.equal(await db.count(body), 0)
  })
}

async function prepared(orm, seat) {
  const opened = [await orm.open(seat, seat.crowded, seat.user), await orm.open(seat, seat.crowded, seat.user)]
  try {
    for (let turn = 0; turn < 6; turn += 1) {
      const names = [1, 2, 3].map((n) => `${seat.crowded} ${n}`)
      for (const db of opened) assert.deepEqual(await Promise.all(names.map((name) => db.project(name))), names)
    }
  } finally {
    for (const db of opened) await db.close()
  }
}

async function errors(orm, seat) {
  await within(orm, seat, async (db) => {
    for (let turn = 0; turn < 2; turn += 1) {
      await assert.rejects(db.add(seat.rows[0]), (error) => orm.isDuplicate(error))
      await assert.rejects(db.transaction(async (tx) => tx.add(seat.rows[0])), (error) => orm.isDuplicate(error))
      assert.deepEqual(await db.names(), seat.rows)
    }
  })
}

async function other_tenants(orm, seat) {
  await assert.rejects(within(orm, seat, (db) => db.names(), seat.other), (error) =>
    /password authentication failed|AuthenticationFailed/.test(`${error} ${error.meta ? JSON.stringify(error.meta) : ''} ${error.cause ?? ''}`))
}

// Runs `checks` at every seat, or at those where `suits` says so.
export async function each(checks, orm, suits = () => true) {
  for (const seat of JSON.parse(await text(process.stdin)).seats.filter(suits)) {
    for (const [name, check] of Object.entries(checks)) {
      const said = { check: name, kind: seat.kind, mode: seat.mode, ok: true }
      try {
        await check(orm, seat)
      } catch (error) {
        said.ok = false
        said.error = String(error?.stack ?? error)
      }
      console.log(JSON.stringify(said))
    }
  }
}

export const run = (orm) => each({ own_rows, transactions, prepared, errors, other_tenants }, orm)

export const to = (seat, tenant, user) => ({
  host: seat.host, port: seat.port, user, password: seat.password, database: tenant,
})

export const url = (seat, tenant, user) =>
  `postgres://${user}:${encodeURIComponent(seat.password)}@${seat.host}:${seat.port}/${tenant}`
