// The database of a request, by the driver of Neon over `/sql`, as it is published.
//
// The access token is verified by the sidecar; what is read of it here only says which tenant to ask for.
import { neon, neonConfig } from '@neondatabase/serverless'

neonConfig.fetchEndpoint = process.env.SQL_URL // https://db.bitnexus.example/sql

export const sqlOf = (request) => {
  const token = request.headers.get('authorization')?.replace(/^Bearer /, '')
  if (!token) throw new Refused(401, 'an access token is needed')
  let tenant
  try {
    tenant = JSON.parse(Buffer.from(token.split('.')[1], 'base64url').toString()).tenant
  } catch {
    throw new Refused(401, 'this is no access token')
  }
  return neon(`postgresql://jwt@db.bitnexus.example/${encodeURIComponent(tenant)}`, { authToken: token })
}

export class Refused extends Error {
  constructor(status, message) {
    super(message)
    this.status = status
  }
}

// A handler whose errors are answers: refused logins are 403, values that no row may have 422.
export const handler = (serve) => async (request) => {
  try {
    return await serve(request)
  } catch (error) {
    if (error instanceof Refused) return Response.json({ error: error.message }, { status: error.status })
    if (/^28/.test(error.code)) return Response.json({ error: 'refused' }, { status: 403 })
    if (/^2[23]/.test(error.code)) return Response.json({ error: error.message }, { status: 422 })
    throw error
  }
}
