// Package ledger keeps what gateway/usage counts: in SQLite, or in PostgreSQL for several gateways. It guarantees that a batch
// is in the store once or not at all, whatever becomes of the connection while it is written; that what is waiting for a store
// that can not be reached has a bound, beyond which it gets coarser before any of it is lost; and that it tells between which
// times usage may be missing because the process did not end cleanly. The SQL drivers are its alone.
package ledger

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"sluice/gateway/usage"
)

// Steps of rolled up usage.
const (
	Minute = iota
	Hour
	Day
)

var stepSeconds = [3]int64{60, 3600, 86400}

// Options of a Ledger.
type Options struct {
	// Path is SQLite's file, "" for PostgreSQL.
	Path string
	// DSN says where PostgreSQL is.
	DSN string
	// Instance names this gateway among those that share a store, and over restarts.
	Instance string
	// Retention is how long minutes, hours and days are kept.
	Retention [3]time.Duration
	// MostWaiting bounds the rows that wait for the store; 0: 200,000.
	MostWaiting int
	Log         *slog.Logger
	Now         func() time.Time
	// Wrote is told of every try to write: the rows, and the error. Nil: nobody is.
	Wrote func(rows int, err error)
	// Lost is told of requests whose usage is lost for want of room. Nil: nobody is.
	Lost func(requests uint64)
}

const (
	defaultWaiting = 200_000
	writeTimeout   = 15 * time.Second
	closeTimeout   = 5 * time.Second
	// aliveEvery is how often a gateway without requests notes that it is there.
	aliveEvery   = time.Minute
	longestPause = 5 * time.Second
	retainEvery  = time.Hour
)

// Ledger is a store with what waits for it. Make one with Open, end it with Close.
type Ledger struct {
	o     Options
	db    *sql.DB
	lang  dialect
	run   string // names this process
	began time.Time

	mu      sync.Mutex
	waiting []*batch
	rows    int // in waiting
	seq     uint64
	told    time.Time // of the last batch
	failure error
	moved   chan struct{} // closed when a batch is in the store, and another one then

	wake   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup

	ready  bool      // tables are there and this run is noted; the writer's own
	addOne *sql.Stmt // of SQLite
	kept   time.Time
}

// batch is what is written at once, under a number, so that it is never written twice.
type batch struct {
	first, seq uint64 // of what is in it
	rows       []usage.Row
	took       time.Time
}

// Open opens the store. Of SQLite's file it says what is wrong with it; PostgreSQL need not be there yet.
func Open(o Options) (*Ledger, error) {
	if o.MostWaiting <= 0 {
		o.MostWaiting = defaultWaiting
	}
	l := &Ledger{o: o, run: rand.Text(), began: o.Now(), wake: make(chan struct{}, 1), moved: make(chan struct{})}
	var err error
	if l.db, l.lang, err = openDatabase(o.Path, o.DSN); err != nil {
		return nil, err
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	if o.Path != "" {
		if err := l.prepare(l.ctx); err != nil {
			_ = l.db.Close()
			return nil, err
		}
	}
	l.done.Go(l.write)
	return l, nil
}

// Add hands over what was collected, which may be nothing. It waits for nothing.
func (l *Ledger) Add(rows []usage.Row) {
	l.mu.Lock()
	now := l.o.Now()
	if len(rows) == 0 && (len(l.waiting) > 0 || now.Sub(l.told) < aliveEvery) {
		l.mu.Unlock()
		return
	}
	l.told = now
	l.seq++
	if len(l.waiting) > 1 {
		l.rows += l.waiting[len(l.waiting)-1].merge(l.seq, rows, now)
	} else {
		l.waiting = append(l.waiting, &batch{l.seq, l.seq, rows, now})
		l.rows += len(rows)
	}
	lost := l.coarsen()
	l.mu.Unlock()
	if lost > 0 {
		l.o.Log.Error("usage is lost: more waits for its store than there is room for", "requests", lost)
		if l.o.Lost != nil {
			l.o.Lost(lost)
		}
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Waiting is how many rows wait for the store, and why it does not take them, nil for no reason.
func (l *Ledger) Waiting() (rows int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rows, l.failure
}

// merge adds rows to a batch that is not on its way, and says how many more it has: a store that takes longer than usage is collected
// gets fewer batches, and not an ever longer queue of them.
func (b *batch) merge(seq uint64, rows []usage.Row, now time.Time) (more int) {
	type key struct {
		usage.Key
		minute int64
	}
	at := make(map[key]int, len(b.rows))
	for i := range b.rows {
		at[key{b.rows[i].Key, b.rows[i].Minute}] = i
	}
	before := len(b.rows)
	b.rows = slices.Clone(b.rows) // who collected them may look at them still
	for i := range rows {
		r := &rows[i]
		k := key{r.Key, r.Minute}
		have, known := at[k]
		if !known {
			at[k] = len(b.rows)
			b.rows = append(b.rows, *r)
			continue
		}
		sum := &b.rows[have]
		sum.Add(&r.Counts)
		merged, err := usage.MergeEncoded(sum.Latency, r.Latency)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		sum.Latency = merged
	}
	b.seq, b.took = seq, now
	return len(b.rows) - before
}

// Settle waits until everything that was added before is in the store, or ctx ends. What is added meanwhile is not waited for.
func (l *Ledger) Settle(ctx context.Context) error {
	l.mu.Lock()
	last := l.seq
	for len(l.waiting) > 0 && l.waiting[0].first <= last {
		moved := l.moved
		l.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			if _, err := l.Waiting(); err != nil {
				return err
			}
			return ctx.Err()
		}
		l.mu.Lock()
	}
	l.mu.Unlock()
	return nil
}

// Close writes what waits, if the store takes it, and notes that this run has ended.
func (l *Ledger) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := l.Settle(ctx)
	l.cancel()
	l.done.Wait()
	rows, requests := 0, uint64(0)
	for _, b := range l.waiting {
		rows += len(b.rows)
		for i := range b.rows {
			requests += b.rows[i].Requests()
		}
	}
	if rows > 0 {
		l.o.Log.Error("usage is lost: its store did not take it before the end", "requests", requests, "error", fmt.Sprint(err))
		if l.o.Lost != nil {
			l.o.Lost(requests)
		}
	} else if l.ready {
		if _, err := l.db.ExecContext(ctx, l.lang.sql(`UPDATE sluice_usage_runs SET ended = $1 WHERE instance = $2 AND run = $3`), l.o.Now().Unix(), l.o.Instance, l.run); err != nil {
			l.o.Log.Warn("cannot note in the store of usage that this gateway has ended", "error", err.Error())
		}
	}
	if err := l.db.Close(); err != nil {
		l.o.Log.Warn("cannot close the store of usage", "error", err.Error())
	}
}

// coarsen makes room: batches behind the first, which may be on its way, become one of hours, in which consumers are not told
// apart. What is lost, if that is not enough, is the number of its requests. l.mu is held.
func (l *Ledger) coarsen() (lost uint64) {
	if l.rows <= l.o.MostWaiting || len(l.waiting) < 2 {
		return 0
	}
	type coarse struct {
		usage.Key
		at int64
	}
	sums := make(map[coarse]*usage.Row)
	behind := l.waiting[1:]
	for _, b := range behind {
		for i := range b.rows {
			r := &b.rows[i]
			k := coarse{usage.Key{Tenant: r.Tenant, Consumer: usage.Other, Route: r.Route}, r.Minute - r.Minute%stepSeconds[Hour]}
			sum := sums[k]
			if sum == nil {
				if len(sums) >= l.o.MostWaiting/2 {
					lost += r.Requests()
					continue
				}
				sum = &usage.Row{Key: k.Key, Minute: k.at}
				sums[k] = sum
			}
			sum.Add(&r.Counts)
			merged, err := usage.MergeEncoded(sum.Latency, r.Latency)
			if err != nil {
				panic("BUG: " + err.Error())
			}
			sum.Latency = merged
		}
	}
	one := &batch{first: behind[0].first, seq: behind[len(behind)-1].seq, took: behind[0].took}
	for _, r := range sums {
		one.rows = append(one.rows, *r)
	}
	l.waiting = append(l.waiting[:1:1], one)
	l.rows = len(l.waiting[0].rows) + len(one.rows)
	l.o.Log.Warn("the store of usage is gone for long; what waits for it is told apart by tenant, route and hour alone")
	return lost
}

// write is the goroutine that writes batches in their order, each until it is in the store.
func (l *Ledger) write() {
	pause := 100 * time.Millisecond
	for l.ctx.Err() == nil {
		b := l.next()
		if b == nil {
			l.tend()
			select {
			case <-l.wake:
			case <-l.ctx.Done():
			}
			continue
		}
		ctx, cancel := context.WithTimeout(l.ctx, writeTimeout)
		err := l.apply(ctx, b)
		cancel()
		if l.o.Wrote != nil {
			l.o.Wrote(len(b.rows), err)
		}
		first := l.settled(b, err)
		if err == nil {
			pause = 100 * time.Millisecond
			continue
		}
		if first && l.ctx.Err() == nil {
			l.o.Log.Error("cannot write usage; it waits until the store takes it", "error", err.Error())
		}
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
		}
		pause = min(2*pause, longestPause)
	}
}

func (l *Ledger) next() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return nil
	}
	return l.waiting[0]
}

// settled notes what became of the first batch, and tells whether its failure is news.
func (l *Ledger) settled(b *batch, err error) (news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		news = l.failure == nil
		l.failure = err
		return news
	}
	if l.failure != nil {
		l.o.Log.Info("the store of usage takes what has waited", "batches", len(l.waiting), "rows", l.rows)
	}
	l.failure = nil
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	l.rows -= len(b.rows)
	close(l.moved)
	l.moved = make(chan struct{})
	return false
}

// prepare makes the tables and notes that this run has begun.
func (l *Ledger) prepare(ctx context.Context) error {
	if l.ready {
		return nil
	}
	for _, statement := range l.lang.schema() {
		if _, err := l.db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("cannot make the tables of usage: %w", err)
		}
	}
	if l.lang.sqlite && l.addOne == nil {
		var err error
		if l.addOne, err = l.db.PrepareContext(ctx, addOne); err != nil {
			return fmt.Errorf("cannot write in the tables of usage: %w", err)
		}
	}
	began := l.began.Unix()
	_, err := l.db.ExecContext(ctx, l.lang.sql(`INSERT INTO sluice_usage_runs (instance, run, started, last, seq) VALUES ($1, $2, $3, $4, 0) ON CONFLICT DO NOTHING`),
		l.o.Instance, l.run, began, began)
	if err != nil {
		return fmt.Errorf("cannot write in the tables of usage: %w", err)
	}
	l.ready = true
	gaps, err := l.Gaps(ctx, time.Time{}, l.began)
	if err != nil {
		return err
	}
	for _, g := range gaps {
		if g.Instance == l.o.Instance && g.To.Equal(time.Unix(began, 0)) {
			l.o.Log.Warn("another run of this gateway has not noted that it ended; if it was killed, usage between these times is missing", "from", g.From, "to", g.To)
		}
	}
	return nil
}

// apply writes a batch, unless it is in the store already: the answer to an earlier try may have been lost.
func (l *Ledger) apply(ctx context.Context, b *batch) (err error) {
	if err := l.prepare(ctx); err != nil {
		return err
	}
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	seq, err := l.lock(ctx, tx)
	if err != nil {
		return err
	}
	if seq >= b.seq {
		return nil
	}
	for step := range stepSeconds {
		if err := l.addRows(ctx, tx, step, b.rows); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, l.lang.sql(`UPDATE sluice_usage_runs SET seq = $1, last = $2, ended = NULL WHERE instance = $3 AND run = $4`),
		int64(b.seq), b.took.Unix(), l.o.Instance, l.run); err != nil {
		return err
	}
	return tx.Commit()
}

// lock keeps other processes of the same instance from adding to the same rows, and returns the number of the last batch of
// this run that is in the store.
func (l *Ledger) lock(ctx context.Context, tx *sql.Tx) (seq uint64, err error) {
	rows, err := tx.QueryContext(ctx, l.lang.sql(`SELECT run, seq FROM sluice_usage_runs WHERE instance = $1 ORDER BY run`+l.lang.forUpdate), l.o.Instance)
	if err != nil {
		return 0, err
	}
	defer func() { _ = rows.Close() }()
	found := false
	for rows.Next() {
		var run string
		var n int64
		if err := rows.Scan(&run, &n); err != nil {
			return 0, err
		}
		if run == l.run {
			seq, found = uint64(n), true
		}
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	if !found {
		l.ready = false // somebody has emptied the store
		return 0, errors.New("this run is not noted in the store any more")
	}
	return seq, nil
}

// rowKey is what a row of the store is found by, beside its instance.
type rowKey struct {
	at int64
	usage.Key
}

// addRows adds a batch to the rows of a step.
func (l *Ledger) addRows(ctx context.Context, tx *sql.Tx, step int, rows []usage.Row) error {
	sums := make(map[rowKey]*usage.Row)
	var order []rowKey
	for i := range rows {
		r := &rows[i]
		k := rowKey{r.Minute - r.Minute%stepSeconds[step], r.Key}
		sum := sums[k]
		if sum == nil {
			copied := *r
			sums[k] = &copied
			order = append(order, k)
			continue
		}
		sum.Add(&r.Counts)
		merged, err := usage.MergeEncoded(sum.Latency, r.Latency)
		if err != nil {
			return err
		}
		sum.Latency = merged
	}
	// One order for all gateways: they never wait for each other in a circle.
	slices.SortFunc(order, compareKeys)
	if l.lang.sqlite {
		return l.addEach(ctx, tx, step, order, sums)
	}
	for part := range slices.Chunk(order, 100) {
		if err := l.mergeLatencies(ctx, tx, step, part, sums); err != nil {
			return err
		}
		if err := l.upsert(ctx, tx, step, part, sums); err != nil {
			return err
		}
	}
	return nil
}

// tend removes what is older than it is kept.
func (l *Ledger) tend() {
	now := l.o.Now()
	if !l.ready || now.Sub(l.kept) < retainEvery {
		return
	}
	l.kept = now
	ctx, cancel := context.WithTimeout(l.ctx, time.Minute)
	defer cancel()
	for step, keep := range l.o.Retention {
		if keep <= 0 {
			continue
		}
		if _, err := l.db.ExecContext(ctx, l.lang.sql(`DELETE FROM sluice_usage WHERE step = $1 AND at < $2`), step, now.Add(-keep).Unix()-stepSeconds[step]); err != nil {
			l.o.Log.Warn("cannot remove old usage", "error", err.Error())
			return
		}
	}
	longest := slices.Max(l.o.Retention[:])
	if _, err := l.db.ExecContext(ctx, l.lang.sql(`DELETE FROM sluice_usage_runs WHERE last < $1 AND NOT (instance = $2 AND run = $3)`), now.Add(-longest).Unix(), l.o.Instance, l.run); err != nil {
		l.o.Log.Warn("cannot remove old runs", "error", err.Error())
	}
}
