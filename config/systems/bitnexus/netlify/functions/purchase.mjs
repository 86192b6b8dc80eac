// POST {sku, quantity}: takes it from the stock and writes it down, both or neither.
import { Refused, handler, sqlOf } from '../tenant.mjs'

export default handler(async (request) => {
  const sql = sqlOf(request)
  const { sku, quantity = 1 } = await request.json()
  const [taken, written] = await sql.transaction([
    sql`update products set stock = stock - ${quantity} where sku = ${sku} returning stock`,
    sql`insert into transactions (product_id, quantity, amount, status)
        select id, ${quantity}, price * ${quantity}, 'completed' from products where sku = ${sku} returning amount`,
  ])
  if (!taken.length) throw new Refused(404, 'there is no such product')
  return Response.json({ left: taken[0].stock, amount: written[0].amount }, { status: 201 })
})
