// How do people use Prisma? Its client over @prisma/adapter-pg.

import { PrismaPg } from '@prisma/adapter-pg'

import { run, url } from './orms.mjs'
import { Client, face } from './prisma_client.mjs'

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
