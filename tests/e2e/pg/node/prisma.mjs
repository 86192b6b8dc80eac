// How do people use Prisma? Its client over @prisma/adapter-pg. The client here is what `prisma generate` would write, for two
// models: the generator itself wants to download an engine.

import { PrismaPg } from '@prisma/adapter-pg'
import { getPrismaClient } from '@prisma/client/runtime/client'
import * as compiler from '@prisma/client/runtime/query_compiler_fast_bg.postgresql.mjs'
import { wasm } from '@prisma/client/runtime/query_compiler_fast_bg.postgresql.wasm-base64.mjs'

import { run, url } from './orms.mjs'

const id = { name: 'id', kind: 'scalar', type: 'BigInt' }
const of = (name) => ({ dbName: null, fields: [id, { name, kind: 'scalar', type: 'String' }], uniqueIndexes: [], uniqueFields: [], primaryKey: null })
const Client = getPrismaClient({
  previewFeatures: [], clientVersion: '7.10.0', engineVersion: '7.10.0', activeProvider: 'postgresql',
  inlineSchema: `
    datasource db {
      provider = "postgresql"
    }
    model projects {
      id   BigInt @id @default(autoincrement())
      name String @unique
    }
    model notes {
      id   BigInt @id @default(autoincrement())
      body String
    }`,
  runtimeDataModel: { models: { projects: of('name'), notes: of('body') }, enums: {}, types: {} },
  parameterizationSchema: { strings: [], graph: 'AAAA' },
  compilerWasm: {
    getRuntime: async () => compiler,
    getQueryCompilerWasmModule: async () => new WebAssembly.Module(Buffer.from(wasm, 'base64')),
    importName: './query_compiler_fast_bg.js',
  },
})

const face = (db) => ({
  names: async () => (await db.projects.findMany({ orderBy: { name: 'asc' } })).map(({ name }) => name),
  insert: (body) => db.notes.create({ data: { body } }),
  count: (body) => db.notes.count({ where: { body } }),
  remove: (body) => db.notes.deleteMany({ where: { body } }),
  project: async (name) => (await db.projects.findFirstOrThrow({ where: { name } })).name,
  add: (name) => db.projects.create({ data: { name } }),
})

await run({
  open: (seat, tenant, user) => {
    const schema = seat.kind === 'schema' ? tenant : 'public' // it names the schema in every query
    const db = new Client({ adapter: new PrismaPg({ connectionString: url(seat, tenant, user), max: 3 }, { schema }) })
    return {
      ...face(db), close: () => db.$disconnect(),
      transaction: (work) => db.$transaction((tx) => work(face(tx)), { timeout: 20_000, maxWait: 20_000 }),
    }
  },
  isDuplicate: (error) => error.code === 'P2002',
})
