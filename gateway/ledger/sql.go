package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"sluice/gateway/usage"
)

// dialect is where the two databases differ.
type dialect struct {
	sqlite    bool
	blob      string
	forUpdate string
}

// sql gives a statement with parameters $1, $2, … the form that the database reads.
func (d dialect) sql(statement string) string {
	if d.sqlite {
		return strings.ReplaceAll(statement, "$", "?")
	}
	return statement
}

func (d dialect) schema() []string {
	rows := ""
	for i := range 6 {
		rows += fmt.Sprintf("s%d BIGINT NOT NULL, ", i)
	}
	return []string{
		`CREATE TABLE IF NOT EXISTS sluice_usage (step SMALLINT NOT NULL, at BIGINT NOT NULL, instance TEXT NOT NULL, tenant TEXT NOT NULL, ` +
			`consumer TEXT NOT NULL, route TEXT NOT NULL, version TEXT NOT NULL, ` + rows + `denied BIGINT NOT NULL, bytes_in BIGINT NOT NULL, ` +
			`bytes_out BIGINT NOT NULL, latency ` + d.blob + ` NOT NULL, PRIMARY KEY (step, at, instance, tenant, consumer, route, version))`,
		`CREATE TABLE IF NOT EXISTS sluice_usage_runs (instance TEXT NOT NULL, run TEXT NOT NULL, started BIGINT NOT NULL, last BIGINT NOT NULL, ` +
			`ended BIGINT, seq BIGINT NOT NULL, PRIMARY KEY (instance, run))`,
	}
}

func openDatabase(path, dsn string) (*sql.DB, dialect, error) {
	if path != "" {
		return openSQLite(path)
	}
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, dialect{}, err
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	db := stdlib.OpenDB(*c)
	db.SetMaxOpenConns(4)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return db, dialect{blob: "BYTEA", forUpdate: " FOR UPDATE"}, nil
}

func openSQLite(path string) (*sql.DB, dialect, error) {
	d := dialect{sqlite: true, blob: "BLOB"}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, d, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // SQLite would let others read it
	if err != nil {
		return nil, d, err
	}
	_ = f.Close()
	options := url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(10000)", "journal_mode(wal)", "synchronous(full)"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?"+options.Encode())
	if err != nil {
		return nil, d, err
	}
	db.SetMaxOpenConns(2) // one writes, one reads
	return db, d, nil
}

func compareKeys(a, b rowKey) int {
	return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Consumer, b.Consumer),
		strings.Compare(a.Route, b.Route), strings.Compare(a.Version, b.Version))
}

// values appends rows of n parameters, ($1, $2), ($3, $4), numbered from.
func values(b *strings.Builder, rows, n, from int) {
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for j := range n {
			if j > 0 {
				b.WriteString(", ")
			}
			b.WriteString("$" + strconv.Itoa(from+i*n+j))
		}
		b.WriteByte(')')
	}
}

// mergeLatencies adds the latencies of the rows that are there to those to be written.
func (l *Ledger) mergeLatencies(ctx context.Context, tx *sql.Tx, step int, part []rowKey, sums map[rowKey]*usage.Row) error {
	var b strings.Builder
	b.WriteString(`SELECT at, tenant, consumer, route, version, latency FROM sluice_usage WHERE step = $1 AND instance = $2 AND at >= $3 AND at <= $4 AND (tenant, consumer, route, version) IN (VALUES `)
	args := []any{step, l.o.Instance, part[0].at, part[len(part)-1].at}
	values(&b, len(part), 4, len(args)+1)
	b.WriteByte(')')
	for _, k := range part {
		args = append(args, k.Tenant, k.Consumer, k.Route, k.Version)
	}
	rows, err := tx.QueryContext(ctx, l.lang.sql(b.String()), args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var k rowKey
		var latency []byte
		if err := rows.Scan(&k.at, &k.Tenant, &k.Consumer, &k.Route, &k.Version, &latency); err != nil {
			return err
		}
		sum := sums[k]
		if sum == nil {
			continue
		}
		if sum.Latency, err = usage.MergeEncoded(latency, sum.Latency); err != nil {
			return err
		}
	}
	return rows.Err()
}

const columns = `step, at, instance, tenant, consumer, route, version, s0, s1, s2, s3, s4, s5, denied, bytes_in, bytes_out, latency`

// counted are the columns that are added up.
var counted = [...]string{"s0", "s1", "s2", "s3", "s4", "s5", "denied", "bytes_in", "bytes_out"}

// upsert adds rows whose latencies are merged.
func (l *Ledger) upsert(ctx context.Context, tx *sql.Tx, step int, part []rowKey, sums map[rowKey]*usage.Row) error {
	var b strings.Builder
	b.WriteString(`INSERT INTO sluice_usage (` + columns + `) VALUES `)
	values(&b, len(part), 17, 1)
	b.WriteString(` ON CONFLICT (step, at, instance, tenant, consumer, route, version) DO UPDATE SET latency = excluded.latency`)
	for _, c := range counted {
		b.WriteString(", " + c + " = sluice_usage." + c + " + excluded." + c)
	}
	args := make([]any, 0, 17*len(part))
	for _, k := range part {
		r := sums[k]
		args = append(args, step, k.at, l.o.Instance, k.Tenant, k.Consumer, k.Route, k.Version)
		for _, n := range r.Classes {
			args = append(args, int64(n))
		}
		args = append(args, int64(r.Denied), int64(r.BytesIn), int64(r.BytesOut), r.Latency)
	}
	_, err := tx.ExecContext(ctx, l.lang.sql(b.String()), args...)
	return err
}
