// What must hold for every client behind the port: the checks of checks.py, for clients of Go.
// Its argument names the client. It reads its seats as JSON from stdin and prints one JSON object per check.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"time"
)

const patience = 20 * time.Second

// A place at the port, see seats.py.
type seat struct {
	Kind, Mode, Host, User, Guest, Tenant, Other, Crowded, Password, Trespass string
	Port                                                                      int
	Rows                                                                      []string
	OtherRows                                                                 []string `json:"other_rows"`
	CrowdedSchema                                                             string   `json:"crowded_schema"`
	CopyInto                                                                  string   `json:"copy_into"`
	TrespassState                                                             string   `json:"trespass_state"`
}

// One connection. Rows come as text.
type session interface {
	rows(sql string, values ...any) ([][]string, error)
	prepared(sql string, values ...any) ([][]string, error)
	copyIn(table string, bodies []string) error
	cancel() error // what runs now
	listen(channel string) (func() (string, error), error)
	size(sql string) (int, error) // characters of the first column, streamed
	close()
}

type client interface {
	connect(at seat, tenant, user string) (session, error)
	state(err error) string     // its SQLSTATE
	survivesCancel() bool       // its connections do
	own() map[string]func(seat) // checks of its own
}

func main() {
	made := map[string]client{"pgx": pgxClient{}, "pq": pqClient{}}[os.Args[1]]
	var given struct{ Seats []seat }
	must(json.NewDecoder(os.Stdin).Decode(&given))
	checks := map[string]func(client, seat){
		"own_rows": ownRows, "transactions": transactions, "prepared": prepared, "errors": failures, "cancel": cancel,
		"copy": copyRows, "settings": settings, "listen": listen, "big_results": bigResults, "other_tenants": otherTenants,
	}
	for name, check := range made.own() {
		check := check
		checks[name] = func(_ client, at seat) { check(at) }
	}
	for _, at := range given.Seats {
		for name, check := range checks {
			said := map[string]any{"check": name, "kind": at.Kind, "mode": at.Mode, "ok": true}
			if failed := attempt(func() { check(made, at) }); failed != "" {
				said["ok"], said["error"] = false, failed
			}
			must(json.NewEncoder(os.Stdout).Encode(said))
		}
	}
}

func attempt(check func()) (failed string) {
	defer func() {
		if cause := recover(); cause != nil {
			failed = fmt.Sprintf("%v\n%s", cause, debug.Stack())
		}
	}()
	check()
	return ""
}

func within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func got[T any](value T, err error) T {
	must(err)
	return value
}

func same(found, expected any) {
	if fmt.Sprint(found) != fmt.Sprint(expected) {
		panic(fmt.Sprintf("expected %v, found %v", expected, found))
	}
}
