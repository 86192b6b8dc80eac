// How do people use knex? With its own pool, and transactions within transactions.

import makeKnex from 'knex'

import { run, to } from './orms.mjs'

const face = (db) => ({
  names: () => db('projects').orderBy('name').pluck('name'),
  insert: (body) => db('notes').insert({ body }),
  count: async (body) => Number((await db('notes').where({ body }).count({ n: '*' }))[0].n),
  remove: (body) => db('notes').where({ body }).delete(),
  project: async (name) => (await db('projects').where({ name }).first()).name,
  add: (name) => db('projects').insert({ name }),
  transaction: (work) => db.transaction((tx) => work({ ...face(tx), nested: face(tx).transaction })),
})

await run({
  open: (seat, tenant, user) => {
    const db = makeKnex({ client: 'pg', connection: to(seat, tenant, user), pool: { min: 0, max: 3 }, log: { warn() {} } })
    return { ...face(db), close: () => db.destroy() }
  },
  isDuplicate: (error) => error.code === '23505',
})
