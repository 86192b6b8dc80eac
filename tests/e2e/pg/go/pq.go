package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/lib/pq"
)

// lib/pq, as people use it: behind database/sql.
type pqClient struct{}

type pqSession struct {
	db         *sql.DB
	conn       *sql.Conn
	to         string
	statements map[string]*sql.Stmt
	stop       func() // what runs now
	running    context.Context
}

func (pqClient) connect(at seat, tenant, user string) (session, error) {
	to := address(at, tenant, user)
	db, err := sql.Open("postgres", to)
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		db.Close()
		return nil, err
	}
	made := &pqSession{db: db, conn: conn, to: to, statements: map[string]*sql.Stmt{}}
	made.running, made.stop = context.WithCancel(context.Background())
	return made, nil
}

func (pqClient) state(err error) string {
	var failed *pq.Error
	if errors.As(err, &failed) {
		return string(failed.Code)
	}
	return ""
}

// A cancelled context ends the connection, by the driver's choice.
func (pqClient) survivesCancel() bool { return false }

func (pqClient) own() map[string]func(seat) { return nil }

func read(rows *sql.Rows, err error) ([][]string, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var found [][]string
	for rows.Next() {
		row, into := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for n := range row {
			into[n] = &row[n]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		var texts []string
		for _, each := range row {
			texts = append(texts, each.String)
		}
		found = append(found, texts)
	}
	return found, rows.Err()
}

func (s *pqSession) rows(sql string, values ...any) ([][]string, error) {
	return read(s.conn.QueryContext(s.running, sql, values...))
}

func (s *pqSession) prepared(sql string, values ...any) ([][]string, error) {
	statement, known := s.statements[sql]
	if !known {
		made, err := s.conn.PrepareContext(context.Background(), sql)
		if err != nil {
			return nil, err
		}
		s.statements[sql], statement = made, made
	}
	return read(statement.Query(values...))
}

func (s *pqSession) copyIn(table string, bodies []string) error {
	tx, err := s.conn.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	statement, err := tx.Prepare(pq.CopyIn(table, "body"))
	if err != nil {
		return err
	}
	for _, body := range bodies {
		if _, err := statement.Exec(body); err != nil {
			return err
		}
	}
	if _, err := statement.Exec(); err != nil {
		return err
	}
	if err := statement.Close(); err != nil {
		return err
	}
	return tx.Commit()
}

func (s *pqSession) cancel() error {
	s.stop()
	return nil
}

func (s *pqSession) listen(channel string) (func() (string, error), error) {
	listener := pq.NewListener(s.to, time.Second, time.Minute, nil)
	if err := listener.Listen(channel); err != nil {
		return nil, err
	}
	return func() (string, error) {
		defer listener.Close()
		select {
		case heard := <-listener.Notify:
			return heard.Extra, nil
		case <-time.After(patience):
			return "", fmt.Errorf("no notification")
		}
	}, nil
}

func (s *pqSession) size(query string) (int, error) {
	rows, err := s.conn.QueryContext(context.Background(), query)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	total := 0
	for rows.Next() {
		var body sql.RawBytes
		if err := rows.Scan(&body); err != nil {
			return 0, err
		}
		total += len(body)
	}
	return total, rows.Err()
}

func (s *pqSession) close() {
	s.conn.Close()
	s.db.Close()
}
