// POST {email, name, message} from the form of a tenant's site, whose visitors have no token: by node-postgres over the
// port, as the platform's own user. Which tenant the site is of, its deployment says, and no visitor.
import pg from 'pg'
import { handler } from '../tenant.mjs'

export default handler(async (request) => {
  const { email, name = '', message = '' } = await request.json()
  const connectionString = `${process.env.DATABASE_URL}/${encodeURIComponent(process.env.SITE_TENANT)}`
  const client = new pg.Client({ connectionString })
  await client.connect()
  try {
    await client.query('insert into email_submissions (email, name, message) values ($1, $2, $3)', [email, name, message])
    return Response.json({ received: true }, { status: 201 })
  } finally {
    await client.end()
  }
})
