// GET: the open tasks of the team. It was `supabase.from('team_tasks').select('title, priority').eq('status', 'open')`.
import { handler, sqlOf } from '../tenant.mjs'

export default handler(async (request) => {
  const sql = sqlOf(request)
  const data = await sql`select title, priority from team_tasks where status = 'open' order by due_on, title`
  return Response.json(data)
})
