// How do people use TypeORM? With entities and an entity manager.

import { DataSource, EntitySchema } from 'typeorm'

import { run, to } from './orms.mjs'

const id = { type: 'bigint', primary: true, generated: 'identity' }
const Project = new EntitySchema({ name: 'projects', columns: { id, name: { type: 'text' } } })
const Note = new EntitySchema({ name: 'notes', columns: { id, body: { type: 'text' } } })

const face = (manager) => ({
  names: async () => (await manager.find(Project, { order: { name: 'ASC' } })).map(({ name }) => name),
  insert: (body) => manager.insert(Note, { body }),
  count: (body) => manager.countBy(Note, { body }),
  remove: (body) => manager.delete(Note, { body }),
  project: async (name) => (await manager.findOneByOrFail(Project, { name })).name,
  add: (name) => manager.insert(Project, { name }),
  transaction: (work) => manager.transaction((tx) => work({ ...face(tx), nested: face(tx).transaction })),
})

await run({
  open: async (seat, tenant, user) => {
    const { user: username, ...where } = to(seat, tenant, user)
    const source = new DataSource({ type: 'postgres', ...where, username, entities: [Project, Note], poolSize: 3, installExtensions: false })
    await source.initialize()
    return { ...face(source.manager), close: () => source.destroy() }
  },
  isDuplicate: (error) => error.driverError?.code === '23505',
})
