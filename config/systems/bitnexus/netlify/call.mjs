// Calls functions as `netlify dev` does: with a Request, for a Response. Reads a list of {name, method, token, body} from
// standard input, and writes a line of JSON for each: {status, body}.
import { text } from 'node:stream/consumers'

for (const { name, method = 'GET', token, body } of JSON.parse(await text(process.stdin))) {
  const { default: serve } = await import(`./functions/${name}.mjs`)
  const request = new Request(`http://localhost/.netlify/functions/${name}`, {
    method,
    headers: token ? { authorization: `Bearer ${token}` } : {},
    body: body && JSON.stringify(body),
  })
  const response = await serve(request)
  console.log(JSON.stringify({ status: response.status, body: await response.json() }))
}
