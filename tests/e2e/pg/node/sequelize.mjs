// How do people use Sequelize? With models; its transactions in transactions are savepoints.

import { DataTypes, Sequelize } from 'sequelize'

import { run, to } from './orms.mjs'

await run({
  open: (seat, tenant, user) => {
    const { user: username, ...where } = to(seat, tenant, user)
    const db = new Sequelize({ ...where, username, dialect: 'postgres', logging: false, pool: { max: 3 } })
    const id = { type: DataTypes.BIGINT, primaryKey: true, autoIncrement: true, autoIncrementIdentity: true }
    const own = { timestamps: false }
    const project = db.define('projects', { id, name: DataTypes.TEXT }, own)
    const note = db.define('notes', { id, body: DataTypes.TEXT }, own)
    const face = (transaction) => ({
      names: async () => (await project.findAll({ order: ['name'], transaction })).map(({ name }) => name),
      insert: (body) => note.create({ body }, { transaction }),
      count: (body) => note.count({ where: { body }, transaction }),
      remove: (body) => note.destroy({ where: { body }, transaction }),
      project: async (name) => (await project.findOne({ where: { name }, transaction })).name,
      add: (name) => project.create({ name }, { transaction }),
      nested: (work) => db.transaction({ transaction }, (inner) => work(face(inner))),
    })
    return { ...face(null), transaction: (work) => db.transaction((tx) => work(face(tx))), close: () => db.close() }
  },
  isDuplicate: (error) => error.name === 'SequelizeUniqueConstraintError' && error.original.code === '23505',
})
