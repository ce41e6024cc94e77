package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite" // and the driver of this name

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

// values are those of the columns of a row.
func (l *Ledger) values(args []any, step int, k rowKey, r *usage.Row) []any {
	args = append(args, step, k.at, l.o.Instance, k.Tenant, k.Consumer, k.Route, k.Version)
	for _, n := range r.Classes {
		args = append(args, int64(n))
	}
	return append(args, int64(r.Denied), int64(r.BytesIn), int64(r.BytesOut), r.Latency)
}

// onConflict has rows that are there added up, with latency as told.
func onConflict(latency string) string {
	set := ` ON CONFLICT (step, at, instance, tenant, consumer, route, version) DO UPDATE SET latency = ` + latency
	for _, c := range [...]string{"s0", "s1", "s2", "s3", "s4", "s5", "denied", "bytes_in", "bytes_out"} {
		set += ", " + c + " = sluice_usage." + c + " + excluded." + c
	}
	return set
}

// upsert adds rows whose latencies are merged.
func (l *Ledger) upsert(ctx context.Context, tx *sql.Tx, step int, part []rowKey, sums map[rowKey]*usage.Row) error {
	var b strings.Builder
	b.WriteString(`INSERT INTO sluice_usage (` + columns + `) VALUES `)
	values(&b, len(part), 17, 1)
	b.WriteString(onConflict("excluded.latency"))
	args := make([]any, 0, 17*len(part))
	for _, k := range part {
		args = l.values(args, step, k, sums[k])
	}
	_, err := tx.ExecContext(ctx, b.String(), args...)
	return err
}

// addOne is the statement that adds a row in SQLite, which has no way to go between it and the gateway: it is parsed once, and it
// merges latencies itself. Its parameters have no names: the driver looks each of them up in a list.
var addOne = `INSERT INTO sluice_usage (` + columns + `) VALUES (` + strings.Repeat("?, ", 16) + `?)` + onConflict("sluice_merge(sluice_usage.latency, excluded.latency)")

func init() {
	sqlite.MustRegisterDeterministicScalarFunction("sluice_merge", 2, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		a, isBlob := args[0].([]byte)
		b, areBlobs := args[1].([]byte)
		if !isBlob || !areBlobs {
			return nil, errors.New("a latency is no blob")
		}
		return usage.MergeEncoded(a, b)
	})
}

// addEach adds rows to SQLite.
func (l *Ledger) addEach(ctx context.Context, tx *sql.Tx, step int, order []rowKey, sums map[rowKey]*usage.Row) error {
	add := tx.StmtContext(ctx, l.addOne)
	// For a context that can end the driver starts a goroutine with every row; the transaction sees it end.
	endless := context.WithoutCancel(ctx)
	var args []any
	for _, k := range order {
		args = l.values(args[:0], step, k, sums[k])
		if _, err := add.ExecContext(endless, args...); err != nil {
			return err
		}
	}
	return nil
}
