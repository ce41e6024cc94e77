package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sluice/gateway/usage"
)

// Query says what is wanted of the store.
type Query struct {
	// From and To bound the beginnings of steps, To is excluded. From is rounded down to a step; of Total, to the shortest
	// one that is kept for so long.
	From, To time.Time
	// Step is Minute, Hour or Day; Total for one row over all time.
	Step int
	// Tenant, Consumer, Route and Version leave out all others; nil leaves out nothing.
	Tenant, Consumer, Route, Version *string
	// By names what rows are told apart by, beside time: tenant, consumer, route, version, instance.
	By []string
}

// Total is the step of a Query that is not to be told apart by time.
const Total = -1

// Dimensions are what rows can be told apart by.
var Dimensions = []string{"tenant", "consumer", "route", "version", "instance"}

// Usage is one row of an answer.
type Usage struct {
	At                                         time.Time
	Tenant, Consumer, Route, Version, Instance string
	usage.Counts
	Latency usage.Latency
}

// Dimension is the value of one of Dimensions.
func (u *Usage) Dimension(name string) string {
	switch name {
	case "tenant":
		return u.Tenant
	case "consumer":
		return u.Consumer
	case "route":
		return u.Route
	case "version":
		return u.Version
	}
	return u.Instance
}

// Gap is a time for which usage may be missing.
type Gap struct {
	Instance string    `json:"instance"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
}

// MaxRows bounds an answer.
const MaxRows = 100_000

// ErrTooMany: an answer would be too long.
var ErrTooMany = errors.New("the answer has more than 100000 rows; ask for less time, a longer step, or fewer dimensions")

// Query reads what is in the store, in the order of time and the dimensions.
func (l *Ledger) Query(ctx context.Context, q Query) ([]*Usage, error) {
	step := q.Step
	from, to := q.From.Unix(), q.To.Unix()
	if q.To.Nanosecond() > 0 {
		to++ // a step that began in this second began before To
	}
	if step == Total {
		for step = Day; step > Minute && (from%stepSeconds[step] != 0 || to%stepSeconds[step] != 0); step-- {
		}
		// What is older than it is kept is there in longer steps alone.
		for step < Day && l.o.Retention[step] > 0 && from < l.o.Now().Add(-l.o.Retention[step]).Unix() {
			step++
		}
	}
	from -= from % stepSeconds[step]
	text := `SELECT at, instance, tenant, consumer, route, version, s0, s1, s2, s3, s4, s5, denied, bytes_in, bytes_out, latency FROM sluice_usage WHERE step = $1 AND at >= $2 AND at < $3`
	args := []any{step, from, to}
	for _, f := range []struct {
		column string
		value  *string
	}{{"tenant", q.Tenant}, {"consumer", q.Consumer}, {"route", q.Route}, {"version", q.Version}} {
		if f.value != nil {
			args = append(args, *f.value)
			text += fmt.Sprintf(" AND %s = $%d", f.column, len(args))
		}
	}
	rows, err := l.db.QueryContext(ctx, l.lang.sql(text), args...)
	if err != nil {
		return nil, l.explain(err)
	}
	defer func() { _ = rows.Close() }()
	type group struct {
		at int64
		usage.Key
		instance string
	}
	by := make(map[string]bool)
	for _, d := range q.By {
		by[d] = true
	}
	only := func(dimension, value string) string {
		if by[dimension] {
			return value
		}
		return ""
	}
	groups := make(map[group]*Usage)
	for rows.Next() {
		var k group
		var n [9]int64
		var latency []byte
		if err := rows.Scan(&k.at, &k.instance, &k.Tenant, &k.Consumer, &k.Route, &k.Version,
			&n[0], &n[1], &n[2], &n[3], &n[4], &n[5], &n[6], &n[7], &n[8], &latency); err != nil {
			return nil, err
		}
		if q.Step == Total {
			k.at = from
		}
		k = group{k.at, usage.Key{Tenant: only("tenant", k.Tenant), Consumer: only("consumer", k.Consumer), Route: only("route", k.Route), Version: only("version", k.Version)}, only("instance", k.instance)}
		u := groups[k]
		if u == nil {
			if len(groups) >= MaxRows {
				return nil, ErrTooMany
			}
			u = &Usage{At: time.Unix(k.at, 0).UTC(), Tenant: k.Tenant, Consumer: k.Consumer, Route: k.Route, Version: k.Version, Instance: k.instance}
			groups[k] = u
		}
		c := usage.Counts{Denied: uint64(n[6]), BytesIn: uint64(n[7]), BytesOut: uint64(n[8])}
		for i := range c.Classes {
			c.Classes[i] = uint64(n[i])
		}
		u.Add(&c)
		if err := u.Latency.Merge(latency); err != nil {
			return nil, err
		}
	}
	if err := rows.Err(); err != nil {
		return nil, l.explain(err)
	}
	all := make([]*Usage, 0, len(groups))
	for _, u := range groups {
		all = append(all, u)
	}
	slices.SortFunc(all, func(a, b *Usage) int {
		return cmp.Or(a.At.Compare(b.At), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Consumer, b.Consumer),
			strings.Compare(a.Route, b.Route), strings.Compare(a.Version, b.Version), strings.Compare(a.Instance, b.Instance))
	})
	return all, nil
}

// explain says of an error that the tables are not there yet because the store could not be reached so far.
func (l *Ledger) explain(err error) error {
	if _, failure := l.Waiting(); failure != nil {
		return failure
	}
	return err
}

// silentFor is after which time a run that notes nothing is taken for one that was killed: one that lives notes itself every
// aliveEvery.
const silentFor = 3 * aliveEvery

// Gaps are the times for which usage may be missing: from the last write of a run that did not end cleanly to the beginning of
// the next one of its instance. There may be none, as where each instance has a name of its own or a clock went back; such a
// run may have counted until it should have noted itself again.
func (l *Ledger) Gaps(ctx context.Context, from, to time.Time) ([]Gap, error) {
	rows, err := l.db.QueryContext(ctx, l.lang.sql(`SELECT a.instance, a.last, MIN(b.started) FROM sluice_usage_runs a LEFT JOIN sluice_usage_runs b ON b.instance = a.instance AND b.run <> a.run AND b.started >= a.last `+
		`WHERE a.ended IS NULL AND a.run <> $1 AND a.last <= $2 GROUP BY a.instance, a.run, a.last ORDER BY a.last`), l.run, to.Unix())
	if err != nil {
		return nil, l.explain(err)
	}
	defer func() { _ = rows.Close() }()
	var gaps []Gap
	for rows.Next() {
		var g Gap
		var last, next int64
		var follows sql.NullInt64
		if err := rows.Scan(&g.Instance, &last, &follows); err != nil {
			return nil, err
		}
		if next = follows.Int64; !follows.Valid {
			if next = last + int64(silentFor.Seconds()); l.o.Now().Unix() <= next {
				continue // it lives, for all that is known
			}
		}
		if next < from.Unix() {
			continue
		}
		// What had ended just before the last write may not have been counted by then.
		g.From, g.To = time.Unix(last-1, 0).UTC(), time.Unix(next, 0).UTC()
		gaps = append(gaps, g)
	}
	return gaps, rows.Err()
}
