// What `prisma generate` would write for two models: the generator itself wants to download an engine.

import { getPrismaClient } from '@prisma/client/runtime/client'
import * as compiler from '@prisma/client/runtime/query_compiler_fast_bg.postgresql.mjs'
import { wasm } from '@prisma/client/runtime/query_compiler_fast_bg.postgresql.wasm-base64.mjs'

const id = { name: 'id', kind: 'scalar', type: 'BigInt' }
const of = (name) => ({ dbName: null, fields: [id, { name, kind: 'scalar', type: 'String' }], uniqueIndexes: [], uniqueFields: [], primaryKey: null })
export const Client = getPrismaClient({
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

export const face = (db) => ({
  names: async () => (await db.projects.findMany({ orderBy: { name: 'asc' } })).map(({ name }) => name),
  insert: (body) => db.notes.create({ data: { body } }),
  count: (body) => db.notes.count({ where: { body } }),
  remove: (body) => db.notes.deleteMany({ where: { body } }),
  project: async (name) => (await db.projects.findFirstOrThrow({ where: { name } })).name,
  add: (name) => db.projects.create({ data: { name } }),
})
