package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

// pgx, as people use it: the native interface, whose statement cache prepares what it runs.
type pgxClient struct{}

type pgxSession struct{ conn *pgx.Conn }

func address(at seat, tenant, user string) string {
	to := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, at.Password),
		Host: fmt.Sprintf("%s:%d", at.Host, at.Port), Path: tenant, RawQuery: "sslmode=disable&connect_timeout=30",
	}
	return to.String()
}

func (pgxClient) connect(at seat, tenant, user string) (session, error) {
	conn, err := pgx.Connect(context.Background(), address(at, tenant, user))
	if err != nil {
		return nil, err
	}
	return pgxSession{conn}, nil
}

func (pgxClient) state(err error) string {
	var failed *pgconn.PgError
	if errors.As(err, &failed) {
		return failed.Code
	}
	return ""
}

func (pgxClient) survivesCancel() bool { return true }

func (c pgxClient) own() map[string]func(seat) {
	return map[string]func(seat){"pipelines": c.pipelines, "copy_out": c.copyOut}
}

func (s pgxSession) read(sql string, values []any) ([][]string, error) {
	rows, err := s.conn.Query(context.Background(), sql, values...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var found [][]string
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return nil, err
		}
		var row []string
		for _, value := range values {
			row = append(row, fmt.Sprint(value))
		}
		found = append(found, row)
	}
	return found, rows.Err()
}

func (s pgxSession) rows(sql string, values ...any) ([][]string, error) {
	return s.read(sql, append([]any{pgx.QuerySimpleProtocol(true)}, values...))
}

func (s pgxSession) prepared(sql string, values ...any) ([][]string, error) {
	return s.read(sql, values)
}

func (s pgxSession) copyIn(table string, bodies []string) error {
	var rows [][]any
	for _, body := range bodies {
		rows = append(rows, []any{body})
	}
	_, err := s.conn.CopyFrom(context.Background(), pgx.Identifier{table}, []string{"body"}, pgx.CopyFromRows(rows))
	return err
}

func (s pgxSession) cancel() error {
	ctx, end := within()
	defer end()
	return s.conn.PgConn().CancelRequest(ctx)
}

func (s pgxSession) listen(channel string) (func() (string, error), error) {
	_, err := s.conn.Exec(context.Background(), "LISTEN "+channel)
	return func() (string, error) {
		ctx, end := within()
		defer end()
		heard, err := s.conn.WaitForNotification(ctx)
		if err != nil {
			return "", err
		}
		return heard.Payload, nil
	}, err
}

func (s pgxSession) size(sql string) (int, error) {
	rows, err := s.conn.Query(context.Background(), sql)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	total := 0
	for rows.Next() {
		total += len(rows.RawValues()[0])
	}
	return total, rows.Err()
}

func (s pgxSession) close() {
	ctx, end := within()
	defer end()
	_ = s.conn.Close(ctx)
}

// A batch is one pipeline with one Sync: all of it or, after an error, nothing.
func (c pgxClient) pipelines(at seat) {
	body := mark()
	with(c, at, 2, at.Crowded, at.User, func(opened []session) {
		for turn := 1; turn <= 4; turn++ {
			for _, each := range opened {
				batch := &pgx.Batch{}
				for n := 0; n < 50; n++ {
					batch.Queue("INSERT INTO notes (body) VALUES ($1)", body)
				}
				batch.Queue("SELECT count(*) FROM notes WHERE body = $1", body)
				results := each.(pgxSession).conn.SendBatch(context.Background(), batch)
				for n := 0; n < 50; n++ {
					got(results.Exec())
				}
				must(results.QueryRow().Scan(new(int64)))
				must(results.Close())
			}
			same(one(opened[0], "SELECT count(*) FROM notes WHERE body = $1", body), 100*turn)
		}
		batch := &pgx.Batch{}
		batch.Queue("DELETE FROM notes WHERE body = $1", body)
		batch.Queue("SELECT 1 / CAST($1 AS int)", 0)
		fails(c, "22012", opened[0].(pgxSession).conn.SendBatch(context.Background(), batch).Close())
		same(one(opened[1], "SELECT count(*) FROM notes WHERE body = $1", body), 400)
		run(opened[1], "DELETE FROM notes WHERE body = $1", body)
	})
}

func (c pgxClient) copyOut(at seat) {
	with(c, at, 1, at.Tenant, at.User, func(opened []session) {
		var out bytes.Buffer
		conn := opened[0].(pgxSession).conn.PgConn()
		got(conn.CopyTo(context.Background(), &out, "COPY (SELECT generate_series(1, 3)) TO STDOUT"))
		same(out.String(), "1\n2\n3\n")
	})
}
