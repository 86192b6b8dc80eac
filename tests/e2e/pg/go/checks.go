package main

import (
	"fmt"
	"math/rand"
	"sort"
	"strings"
	"time"
)

const names = "SELECT name FROM projects ORDER BY name"

func mark() string { return fmt.Sprintf("%012x", random.Int63n(1<<48)) }

var random = rand.New(rand.NewSource(time.Now().UnixNano()))

// `count` connections of one tenant, closed at the end.
func with(c client, at seat, count int, tenant, user string, work func([]session)) {
	var opened []session
	defer func() {
		for _, each := range opened {
			each.close()
		}
	}()
	for len(opened) < count {
		opened = append(opened, got(c.connect(at, tenant, user)))
	}
	work(opened)
}

func one(s session, sql string, values ...any) string { return got(s.rows(sql, values...))[0][0] }

func run(s session, sql string, values ...any) { got(s.rows(sql, values...)) }

func column(rows [][]string) []string {
	found := []string{}
	for _, row := range rows {
		found = append(found, row[0])
	}
	sort.Strings(found)
	return found
}

func fails(c client, state string, err error) {
	if err == nil {
		panic("it did not fail with " + state)
	}
	same(c.state(err)+" "+err.Error(), state+" "+err.Error())
}

func ownRows(c client, at seat) {
	ended := make(chan string)
	read := func(tenant string, expected []string) {
		ended <- attempt(func() {
			with(c, at, 1, tenant, at.Guest, func(s []session) {
				for turn := 0; turn < 8; turn++ {
					same(column(got(s[0].rows(names))), expected)
					same(column(got(s[0].prepared(names))), expected)
				}
			})
		})
	}
	for n := 0; n < 2; n++ {
		go read(at.Tenant, at.Rows)
		go read(at.Other, at.OtherRows)
	}
	for n := 0; n < 4; n++ {
		same(<-ended, "")
	}
}

func transactions(c client, at seat) {
	body, insert := mark(), "INSERT INTO notes (body) VALUES ($1)"
	count := "SELECT count(*) FROM notes WHERE body = $1"
	with(c, at, 2, at.Tenant, at.User, func(s []session) {
		run(s[0], "BEGIN")
		run(s[0], insert, body)
		same(one(s[0], count, body), 1)
		same(one(s[1], count, body), 0)
		run(s[0], "ROLLBACK")
		same(one(s[0], count, body), 0)
		run(s[0], "BEGIN")
		run(s[0], insert, body)
		run(s[0], "SAVEPOINT here")
		run(s[0], insert, body)
		run(s[0], "ROLLBACK TO here")
		run(s[0], "COMMIT")
		same(one(s[1], count, body), 1)
		run(s[1], "DELETE FROM notes WHERE body = $1", body)
		same(one(s[0], count, body), 0)
	})
}

func prepared(c client, at seat) {
	pids := []map[string]bool{{}, {}, {}}
	with(c, at, 3, at.Crowded, at.User, func(s []session) {
		for turn := 0; turn < 12; turn++ {
			for n, each := range s {
				if turn%3 == 2 {
					run(each, "BEGIN")
				}
				sql := fmt.Sprintf("SELECT CAST($1 AS int) + %d, CAST($2 AS text), pg_backend_pid()", 1000*n)
				row := got(each.prepared(sql, turn, fmt.Sprint("text ", turn)))[0]
				same(row[:2], []any{turn + 1000*n, fmt.Sprint("text ", turn)})
				pids[n][row[2]] = true
				found := got(each.prepared(fmt.Sprintf("SELECT name FROM projects WHERE name <> $1 AND %d = %d", n, n), "-"))
				same(column(found), []string{at.Crowded + " 1", at.Crowded + " 2", at.Crowded + " 3"})
				if turn%3 == 2 {
					run(each, "COMMIT")
				}
			}
		}
	})
	shared := at.Mode != "transaction"
	for pid := range pids[0] {
		shared = shared || pids[1][pid] && pids[2][pid]
	}
	same(shared, true)
}

func failures(c client, at seat) {
	divide := "SELECT 1 / CAST($1 AS int)"
	of := func(_ [][]string, err error) error { return err }
	with(c, at, 1, at.Tenant, at.User, func(s []session) {
		for _, each := range [][2]string{
			{"SELECT 1/0", "22012"}, {"SELECT * FROM nothing_here", "42P01"}, {"SELEC 1", "42601"},
			{"INSERT INTO projects (name) VALUES ('" + at.Rows[0] + "')", "23505"},
		} {
			fails(c, each[1], of(s[0].rows(each[0])))
			same(one(s[0], "SELECT 7"), 7)
		}
		fails(c, "22012", of(s[0].prepared(divide, 0)))
		same(got(s[0].prepared(divide, 1)), [][]string{{"1"}})
		run(s[0], "BEGIN")
		fails(c, "22012", of(s[0].prepared(divide, 0)))
		fails(c, "25P02", of(s[0].rows("SELECT 8")))
		run(s[0], "ROLLBACK")
		same(got(s[0].prepared(divide, 1)), [][]string{{"1"}})
	})
}

func cancel(c client, at seat) {
	victims := random.Int63n(1 << 40)
	bystanders, held := victims+1, victims+2
	waits := "SELECT CAST(pg_advisory_xact_lock(%d) AS text) || CAST(pg_advisory_xact_lock(%d) AS text) || 'unharmed'"
	type answer struct {
		rows [][]string
		err  error
	}
	later := func(s session, key int64) chan answer {
		done := make(chan answer, 1)
		go func() {
			rows, err := s.rows(fmt.Sprintf(waits, key, held))
			done <- answer{rows, err}
		}()
		return done
	}
	with(c, at, 4, at.Tenant, at.User, func(s []session) {
		victim, bystander, keeper, probe := s[0], s[1], s[2], s[3]
		run(keeper, "BEGIN")
		run(keeper, fmt.Sprintf("SELECT CAST(pg_advisory_xact_lock(%d) AS text)", held))
		asleep, concurrent := later(victim, victims), later(bystander, bystanders)
		deadline := time.Now().Add(patience)
		for _, key := range []int64{victims, bystanders} {
			for one(probe, fmt.Sprintf("SELECT pg_try_advisory_xact_lock(%d)", key)) == "true" {
				same(time.Now().Before(deadline), true)
				time.Sleep(10 * time.Millisecond)
			}
		}
		must(victim.cancel())
		fails(c, "57014", (<-asleep).err)
		run(keeper, "COMMIT")
		unharmed := <-concurrent
		must(unharmed.err)
		same(unharmed.rows, [][]string{{"unharmed"}})
		if c.survivesCancel() {
			same(one(victim, "SELECT 7"), 7)
			same(got(victim.prepared("SELECT CAST($1 AS int)", 8)), [][]string{{"8"}})
		}
	})
}

func copyRows(c client, at seat) {
	body := mark()
	var bodies []string
	for _, text := range []string{"a\tb", "back\\slash", "quo\"te", "Ünïcode 漢字", "", "\\N", "\\."} {
		bodies = append(bodies, body+" "+text)
	}
	for n := 0; n < 3000; n++ {
		bodies = append(bodies, fmt.Sprintf("%s %05d %s", body, n, strings.Repeat("y", 200)))
	}
	sort.Strings(bodies)
	with(c, at, 1, at.Tenant, at.User, func(s []session) {
		must(s[0].copyIn(at.CopyInto, bodies))
		same(column(got(s[0].rows("SELECT body FROM notes WHERE body LIKE $1", body+"%"))), bodies)
		fails(c, "42P01", s[0].copyIn("nothing_here", []string{"x"}))
		if at.Kind == "row" { // PostgreSQL's own limit
			fails(c, "0A000", s[0].copyIn("notes", []string{body}))
		}
		same(one(s[0], "SELECT count(*) FROM notes WHERE body LIKE $1", body+"%"), len(bodies))
		run(s[0], "DELETE FROM notes WHERE body LIKE $1", body+"%")
	})
}

func settings(c client, at seat) {
	set := []string{"TimeZone", "application_name", "extra_float_digits"}
	wanted := [][]string{{"Europe/Vienna", "first", "0"}, {"Asia/Tokyo", "second", "2"}, {"UTC", "third", "-1"}}
	paths := []string{at.CrowdedSchema + ", pg_catalog", at.CrowdedSchema, "pg_catalog, " + at.CrowdedSchema}
	with(c, at, 3, at.Crowded, at.User, func(s []session) {
		for n, each := range s {
			for at, name := range set {
				run(each, fmt.Sprintf("SET %s = '%s'", name, wanted[n][at]))
			}
			run(each, "SET search_path TO "+paths[n])
		}
		for turn := 0; turn < 3; turn++ {
			for n, each := range s {
				for at, name := range set {
					same(one(each, "SELECT current_setting('"+name+"')"), wanted[n][at])
				}
				same(one(each, `SELECT replace(current_setting('search_path'), '"', '')`), paths[n])
				same(len(got(each.rows(names))), 3)
			}
		}
	})
}

func listen(c client, at seat) {
	channel := "channel_" + mark()
	with(c, at, 2, at.Tenant, at.User, func(s []session) {
		notified := got(s[0].listen(channel))
		run(s[1], "SELECT CAST(pg_notify($1, $2) AS text)", channel, "hello")
		same(got(notified()), "hello")
	})
}

func bigResults(c client, at seat) {
	with(c, at, 1, at.Tenant, at.User, func(s []session) {
		same(got(s[0].size("SELECT repeat('x', 1048576) FROM generate_series(1, 50)")), 50<<20)
		same(one(s[0], "SELECT 7"), 7)
	})
}

func otherTenants(c client, at seat) {
	_, err := c.connect(at, at.Other, at.User)
	fails(c, "28P01", err)
	with(c, at, 1, at.Tenant, at.User, func(s []session) {
		found, err := s[0].rows(at.Trespass)
		if at.TrespassState == "" {
			must(err)
			same(len(found), 0)
			run(s[0], "SELECT set_config('app.current_tenant_id', '"+at.Other+"', false)")
			// On that backend it is an error, on another one, or after its reset, it finds nothing.
			if found, err = s[0].rows(at.Trespass); err != nil {
				fails(c, "42501", err)
			}
			same(len(found), 0)
		} else {
			fails(c, at.TrespassState, err)
		}
	})
	with(c, at, 1, at.Tenant, at.User, func(s []session) { same(column(got(s[0].rows(names))), at.Rows) })
}
