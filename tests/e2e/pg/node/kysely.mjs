// How do people use kysely? Over a pool of node-postgres.

import { Kysely, PostgresDialect } from 'kysely'
import pg from 'pg'

import { run, to } from './orms.mjs'

const face = (db) => ({
  names: async () => (await db.selectFrom('projects').select('name').orderBy('name').execute()).map(({ name }) => name),
  insert: (body) => db.insertInto('notes').values({ body }).execute(),
  count: async (body) => {
    const counted = db.selectFrom('notes').select((of) => of.fn.countAll().as('n')).where('body', '=', body)
    return Number((await counted.executeTakeFirstOrThrow()).n)
  },
  remove: (body) => db.deleteFrom('notes').where('body', '=', body).execute(),
  project: async (name) =>
    (await db.selectFrom('projects').selectAll().where('name', '=', name).executeTakeFirstOrThrow()).name,
  add: (name) => db.insertInto('projects').values({ name }).execute(),
})

await run({
  open: (seat, tenant, user) => {
    const db = new Kysely({ dialect: new PostgresDialect({ pool: new pg.Pool({ ...to(seat, tenant, user), max: 3 }) }) })
    const within = (tx) => ({
      ...face(tx),
      nested: async (work) => {
        const point = await tx.savepoint('here').execute()
        try {
          await work(face(point))
        } catch (error) {
          await point.rollbackToSavepoint('here').execute()
          throw error
        }
      },
    })
    const transaction = async (work) => {
      const tx = await db.startTransaction().execute()
      try {
        await work(within(tx))
        await tx.commit().execute()
      } catch (error) {
        await tx.rollback().execute()
        throw error
      }
    }
    return { ...face(db), transaction, close: () => db.destroy() }
  },
  isDuplicate: (error) => error.code === '23505',
})
