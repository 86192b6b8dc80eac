// How do people use graphile-worker? It migrates its own schema, hears of jobs by LISTEN, and runs them.

import assert from 'node:assert/strict'

import { Logger, makeWorkerUtils, run as runWorker } from 'graphile-worker'

import { each, url } from './orms.mjs'

async function jobs(_orm, seat) {
  const logger = new Logger(() => () => {})
  const options = { connectionString: url(seat, seat.tenant, seat.user), schema: `worker_${seat.mode}`, logger }
  const utils = await makeWorkerUtils(options)
  await utils.migrate()
  const [seen, failed] = [new Set(), new Set()]
  let done
  const all = new Promise((resolve) => { done = resolve })
  const work = ({ n }) => {
    if (n === 3 && !failed.has(n)) {
      failed.add(n)
      throw new Error('is tried again')
    }
    seen.add(n)
    if (seen.size === (failed.has(3) ? 19 : 20)) done()
  }
  const runner = await runWorker({ ...options, concurrency: 3, pollInterval: 60_000, noHandleSignals: true, taskList: { work } })
  try {
    for (let n = 0; n < 20; n += 1) await utils.addJob('work', { n }, { jobKey: `job ${n}` })
    await all // by LISTEN: nothing is looked for within 60 s
    assert(seen.size >= 19)
  } finally {
    await runner.stop()
    await utils.release()
  }
}

await each({ jobs }, null, (seat) => seat.kind === 'database')
