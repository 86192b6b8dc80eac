// GET: what is for sale. POST {sku, name, price, stock}: one more.
import { handler, sqlOf } from '../tenant.mjs'

export default handler(async (request) => {
  const sql = sqlOf(request)
  if (request.method !== 'POST') {
    return Response.json(await sql`select sku, name, price, stock from products where is_active order by sku`)
  }
  const { sku, name, price = 0, stock = 0 } = await request.json()
  const [made] = await sql`
    insert into products (sku, name, price, stock) values (${sku}, ${name}, ${price}, ${stock}) returning sku, name`
  return Response.json(made, { status: 201 })
})
