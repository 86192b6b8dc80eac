// How do people use pg-boss? It makes its own schema under an advisory lock, and polls for jobs.

import assert from 'node:assert/strict'

import PgBoss from 'pg-boss'

import { each, url } from './orms.mjs'

async function jobs(_orm, seat) {
  const boss = new PgBoss({ connectionString: url(seat, seat.tenant, seat.user), schema: `boss_${seat.mode}`, max: 3 })
  boss.on('error', (error) => { throw error })
  await boss.start()
  try {
    await boss.createQueue('work')
    const ids = []
    for (let n = 0; n < 10; n += 1) ids.push(await boss.send('work', { n }))
    const fetched = await boss.fetch('work', { batchSize: 20 })
    assert.deepEqual(new Set(fetched.map(({ id }) => id)), new Set(ids))
    await boss.complete('work', ids.slice(1))
    await boss.fail('work', ids[0], { why: 'is tried again' })
    const heard = new Promise((resolve) => boss.work('later', { pollingIntervalSeconds: 0.5 }, async ([job]) => resolve(job.data)))
    await boss.createQueue('later')
    await boss.send('later', { said: 'hello' })
    assert.deepEqual(await heard, { said: 'hello' })
    assert.equal((await boss.getJobById('work', ids[1])).state, 'completed')
  } finally {
    await boss.stop({ graceful: false, wait: true })
  }
}

await each({ jobs }, null, (seat) => seat.kind === 'database')
