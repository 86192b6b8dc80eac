// Does Neon's driver, as it is published, follow a sidecar to the tenant's region? `node regions.mjs ENDPOINT DSN`

import { neon, neonConfig } from '@neondatabase/serverless'

const [endpoint, dsn] = process.argv.slice(2)
neonConfig.fetchEndpoint = endpoint
const sql = neon(dsn)
const one = await sql`SELECT ${'followed'} AS said`
const [two] = await sql.transaction([sql`SELECT 'in a transaction' AS said`], { readOnly: true })
const refused = await sql`SELECT nowhere`.catch((error) => error)
console.log(JSON.stringify([one[0].said, two[0].said, refused.code]))
